//! Writes the sample files of `chaos/tests/data`, which `chaos/HISTORY.md` shows, and the forged histories of
//! `chaos/tests/histories`; and keeps them equal to what the code writes, so that a change of the format is seen.
//!
//! `TERCET_WRITE_SAMPLES=$PWD/chaos/tests cargo test -p tercet-chaos samples` writes them anew.

use std::path::{Path, PathBuf};

use super::forge::{Forge, sent};
use crate::history::{Call, Class, FinalLog, Line, Outcome};

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
    forge.place();
    forge.attest(1, Class::City, false, &["a", "b"]);
    forge.attest(6, Class::Geo, false, &["b", "c"]);
    forge.vote("b1", 2, 3, true);
    forge
}

/// What is done to the truth, and what must find it; none: it must be accepted.
type Forgery = (&'static str, Option<&'static str>, fn(&mut Forge));

const FORGERIES: &[Forgery] = &[
    ("unknown-that-is-there", None, |forge| forge.unknown(20, 20, Some(40), "late", true)),
    ("unknown-that-is-not-there", None, |forge| forge.unknown(20, 20, Some(40), "late", false)),
    ("read-of-an-unknown-in-flight", None, |forge| {
        forge.unknown(20, 17_000_000, None, "late", true);
        forge.read(21, 18_000_000, 19_000_000, 4);
    }),
    ("lost-acknowledgement", Some("acknowledged"), |forge| drop(forge.log.entries.pop())),
    ("swapped-seq", Some("order"), |forge| {
        forge.append(21, 30_000_000, 31_000_000, "later");
        forge.append(20, 20_000_000, 21_000_000, "earlier");
    }),
    ("duplicate", Some("exactly once"), |forge| drop(forge.commit("order-1", 1))),
    ("stale-read", Some("order"), |forge| forge.read(20, 20_000_000, 21_000_000, 2)),
    ("stale-read-of-a-paused-leader", Some("order"), |forge| {
        // It stopped before order-3 and answers after it, by what it remembers.
        forge.read_from(20, 14_500_000, 20_000_000, 1, 2);
    }),
    ("future-read-of-an-unknown", Some("order"), |forge| {
        forge.read(20, 17_000_000, 18_000_000, 3);
        forge.unknown(21, 19_000_000, None, "late", true);
        let chain_of_4 = forge.log.entries[3].chain_hash;
        let Outcome::Head { seq, chain_hash } = forge.outcome(20) else { panic!() };
        (*seq, *chain_hash) = (4, chain_of_4);
    }),
    ("phantom", Some("phantom"), |forge| drop(forge.commit("nobody", 1))),
    ("non-prefix-read", Some("reads"), |forge| {
        let Outcome::Entries { entries, .. } = forge.outcome(7) else { panic!() };
        entries.remove(0);
    }),
    ("refused-yet-there", Some("refused"), |forge| {
        forge.refused(20, 20_000_000, 21_000_000, "no");
        forge.commit("no", 1);
    }),
    ("half-a-request", Some("atomic"), |forge| {
        let entries = vec![sent("left", 1), sent("right", 1)];
        forge.invoke(20, 20_000_000, Call::Append { entries, class: None });
        forge.commit("left", 1);
    }),
    ("hole", Some("dense"), |forge| drop(forge.log.entries.remove(1))),
    ("broken-chain", Some("chain"), |forge| forge.log.entries[1].entry_hash.0[0] ^= 1),
    ("two-leaders", Some("leaders"), |forge| forge.observe(17_000_000, "c1", 2, "leader")),
    ("vote-that-goes-back", Some("votes"), |forge| forge.vote("b1", 1, 1, false)),
    ("class-that-its-zones-do-not-show", Some("placement"), |forge| {
        forge.attest(1, Class::Geo, false, &["a", "b"]);
    }),
    ("zones-that-a-new-leader-does-not-know", None, |forge| forge.attest_inherited(1, Class::Geo, &["b"])),
    ("zone-that-does-not-hold-it", Some("placement"), |forge| {
        forge.attest(1, Class::City, false, &["a", "moon"]);
    }),
];

/// The files that a forged history is kept in.
fn files(forge: &Forge) -> (String, String) {
    let lines = forge.lines.iter().map(|line| serde_json::to_string(line).unwrap() + "\n");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("final.jsonl");
    forge.log.save(&path).unwrap();
    assert_eq!(FinalLog::load(&path).unwrap(), forge.log);
    (lines.collect(), std::fs::read_to_string(&path).unwrap())
}

/// Compares with what is kept, or writes it.
fn kept(stem: &Path, forge: &Forge) {
    let (history, log) = files(forge);
    let name = |kind: &str| PathBuf::from(format!("{}{kind}.jsonl", stem.display()));
    if let Ok(into) = std::env::var("TERCET_WRITE_SAMPLES") {
        let write = |kind: &str, text: &str| {
            let path = Path::new(&into).join(name(kind));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        };
        write("history", &history);
        write("final", &log);
    }
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let read = |kind| std::fs::read_to_string(tests.join(name(kind))).unwrap_or_default();
    assert_eq!(history, read("history"), "{}", stem.display());
    assert_eq!(log, read("final"), "{}", stem.display());
}

#[test]
fn the_samples_are_what_is_written() {
    let forge = sample();
    let judgement = forge.judge();
    assert!(judgement.pass, "{:#?}", judgement.violations);
    kept(Path::new("data/"), &forge);
}

#[test]
fn the_forged_samples_are_what_is_written_and_judged_as_they_are_named() {
    for (name, invariant, forgery) in FORGERIES {
        let mut forge = sample();
        forgery(&mut forge);
        let violated: Vec<&str> =
            forge.judge().violations.iter().map(|violation| violation.invariant).collect();
        match invariant {
            None => assert!(violated.is_empty(), "{name}: {violated:?}"),
            Some(invariant) => assert!(violated.contains(invariant), "{name}: {violated:?}"),
        }
        let verdict = if invariant.is_some() { "rejected" } else { "accepted" };
        kept(&Path::new("histories").join(verdict).join(format!("{name}.")), &forge);
    }
}
