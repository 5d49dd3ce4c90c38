//! Tables, properties against the definition, and transcripts (`testdata/`).

mod leadership;
mod properties;
mod regimes;
mod standing;
mod tables;
mod transcripts;

use super::Voter;

/// The default topology: a1 and a2 in zone a, b1 and b2 in zone b, both in site east; c1 in zone c in site west.
fn voters_221() -> Vec<Voter> {
    parse_voters("1:a:east 2:a:east 3:b:east 4:b:east 5:c:west")
}

/// `id:zone:site` separated by spaces.
fn parse_voters(text: &str) -> Vec<Voter> {
    text.split_whitespace()
        .map(|voter| {
            let parts: Vec<&str> = voter.split(':').collect();
            Voter::new(parts[0].parse::<u64>().unwrap(), parts[1], parts[2])
        })
        .collect()
}
