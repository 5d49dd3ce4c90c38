//! Writes the sample files of `chaos/tests/data`, which `chaos/HISTORY.md` shows; and keeps them equal to what the code
//! writes, so that a change of the format is seen.

use super::forge::Forge;
use crate::history::Line;

fn sample() -> Forge {
    let mut forge = Forge::new();
    forge.append(1, 1_000_000, 3_500_000, "order-1");
    forge.lines.push(Line::FaultBegin { t: 4_000_000, fault: 1, what: "kill a1, a2".into() });
    forge.unknown(2, 4_100_000, Some(9_000_000), "order-2", true);
    forge.refused(3, 4_200_000, 5_000_000, "order-3");
    forge.read(4, 6_000_000, 7_000_000, 1);
    forge.lines.push(Line::FaultEnd { t: 9_500_000, fault: 1 });
    forge.replay(5, 10_000_000, 11_000_000, "order-2");
    forge.append(6, 12_000_000, 14_000_000, "order-3");
    forge.read_from(7, 15_000_000, 16_000_000, 2, 3);
    forge.observe(16_500_000, "b1", 2, "leader");
    forge
}

#[test]
fn the_sample_files_are_what_is_written() {
    let forge = sample();
    assert!(forge.judge().pass);
    let lines: Vec<String> =
        forge.lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("final.jsonl");
    forge.log.save(&path).unwrap();
    let log = std::fs::read_to_string(&path).unwrap();
    if let Ok(into) = std::env::var("TERCET_WRITE_SAMPLES") {
        std::fs::write(format!("{into}/history.jsonl"), lines.concat()).unwrap();
        std::fs::write(format!("{into}/final.jsonl"), &log).unwrap();
    }
    assert_eq!(lines.concat(), include_str!("../../tests/data/history.jsonl"));
    assert_eq!(log, include_str!("../../tests/data/final.jsonl"));
}
