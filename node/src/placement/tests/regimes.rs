//! Runs the transcripts of the regime in `testdata/`, and checks its promises on histories of any kind.
//!
//! A file is a list of blocks as in `transcripts`; commands:
//!
//! | command | answer |
//! |---|---|
//! | `policy adaptive\|required degrade-after=MS` | `ok`; the watch begins anew |
//! | `look now=MS city=I geo=I [waits=MS] [missing=SITE] [degraded]` | the record that should be proposed, or `-` |

use proptest::prelude::*;

use crate::placement::{Budget, Change, Cost, Policy, RegimeWatch, Seen, Watermarks};

fn policy(adaptive: bool, degrade_after_ms: u64) -> Policy {
    Policy { adaptive, degrade_after_ms, budget: Budget::default() }
}

fn value<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
}

fn number(line: &str, name: &str) -> Option<u64> {
    value(line, name).map(|text| text.parse().expect("a number"))
}

fn command(watch: &mut RegimeWatch, line: &str) -> String {
    if let Some(rest) = line.strip_prefix("policy ") {
        *watch =
            RegimeWatch::new(policy(rest.starts_with("adaptive"), number(rest, "degrade-after").unwrap()));
        return "ok\n".into();
    }
    let rest = line.strip_prefix("look ").expect("a command");
    let seen = Seen {
        now_ms: number(rest, "now").unwrap(),
        oldest_geo_ms: number(rest, "waits"),
        placed: Watermarks { city: number(rest, "city").unwrap(), geo: number(rest, "geo").unwrap() },
        missing: value(rest, "missing").map(str::to_owned),
        degraded: rest.split_whitespace().any(|word| word == "degraded"),
    };
    match watch.look(&seen) {
        None => "-\n".into(),
        Some(Change::Degrade { reason }) => format!("degrade: {reason}\n"),
        Some(Change::Restore { reason }) => format!("restore: {reason}\n"),
    }
}

fn run(name: &str, transcript: &str) {
    let mut watch = RegimeWatch::new(Policy::default());
    let mut lines = transcript.lines().enumerate();
    let mut blocks = 0;
    while let Some((at, line)) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let answer = command(&mut watch, line);
        assert_eq!(lines.next().map(|(_, rule)| rule), Some("----"), "{name}:{}", at + 2);
        let expected: String = lines
            .by_ref()
            .map(|(_, line)| line)
            .take_while(|line| !line.is_empty())
            .map(|line| format!("{line}\n"))
            .collect();
        assert_eq!(answer, expected, "{name}:{}: {line}", at + 1);
        blocks += 1;
    }
    assert!(blocks > 3, "{name} tells nothing");
}

#[test]
fn adaptive_degrades_and_comes_back() {
    run("adaptive.txt", include_str!("../testdata/adaptive.txt"));
}

#[test]
fn required_never_degrades() {
    run("required.txt", include_str!("../testdata/required.txt"));
}

#[test]
fn a_new_leader_judges_by_itself() {
    run("new_leader.txt", include_str!("../testdata/new_leader.txt"));
}

#[test]
fn a_budget_names_what_is_exceeded() {
    let budget = Budget { entries: 2, seconds: 60, amounts: [(*b"CZK", 10)].into() };
    let cost = |entries, czk| Cost { entries, amounts: [(*b"CZK", czk), (*b"EUR", 1 << 100)].into() };
    assert_eq!(budget.exceeded_by(&cost(2, 10), 59), None);
    assert_eq!(budget.exceeded_by(&cost(3, 10), 0).unwrap(), "3 entries of 2");
    assert_eq!(budget.exceeded_by(&cost(1, 11), 0).unwrap(), "11 minor units of 10 CZK");
    assert_eq!(budget.exceeded_by(&cost(0, 0), 60).unwrap(), "60 seconds of 60");
}

/// One step of a history: how much time passes, how far both classes get, who waits, whether contact is there.
type Step = (u64, u64, u64, Option<u64>, bool);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (0_u64..400, 0_u64..5, 0_u64..9, prop::option::of(0_u64..1_500), any::<bool>());
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// The record back comes only after a whole stretch in which contact was there and no more than half of
    /// `degrade_after` was missing; the record itself only for somebody who has waited that long.
    #[test]
    fn changes_have_their_reasons(steps in steps(), adaptive in any::<bool>()) {
        const AFTER: u64 = 1_000;
        let mut watch = RegimeWatch::new(policy(adaptive, AFTER));
        let mut seen = Seen::default();
        let (mut lost_at, mut reached): (u64, Vec<(u64, u64)>) = (0, Vec::new());
        for (ms, city, geo, waits, contact) in steps {
            seen.now_ms += ms;
            seen.placed.city += city;
            seen.placed.geo = (seen.placed.geo + geo).min(seen.placed.city);
            seen.oldest_geo_ms = waits;
            seen.missing = (!contact).then(|| "no contact".to_owned());
            reached.push((seen.now_ms, seen.placed.city));
            let first = reached.iter().find(|(_, index)| *index > seen.placed.geo);
            let behind_ms = first.map_or(0, |(since, _)| seen.now_ms - since);
            if !contact || behind_ms > AFTER / 2 {
                lost_at = seen.now_ms;
            }
            match watch.look(&seen) {
                None => {}
                Some(Change::Degrade { .. }) => {
                    prop_assert!(adaptive && !seen.degraded && waits.is_some_and(|ms| ms >= AFTER));
                    seen.degraded = true;
                }
                Some(Change::Restore { .. }) => {
                    prop_assert!(adaptive && seen.degraded);
                    prop_assert!(contact && seen.now_ms - lost_at >= AFTER);
                    seen.degraded = false;
                }
            }
        }
    }
}

/// Seconds are elapsed seconds, whoever leads: each node counts by itself, and takes what was told when that is more.
#[test]
fn a_regimes_time_is_counted_on_by_whoever_leads_next() {
    use crate::placement::RegimeClock;
    let s = core::time::Duration::from_secs;
    let mut follower = RegimeClock::default();
    assert_eq!(follower.elapsed_ms(s(9)), None);
    // The record at index 40 is applied here at its second 10; nobody writes for 20 s, then this node leads.
    follower.follow(s(10), Some((40, 0)));
    follower.follow(s(20), Some((40, 9_000)));
    assert_eq!(follower.elapsed_ms(s(30)), Some((40, 20_000)), "its own count is more than was told");
    // One that was restarted applies all of it anew, at its second 100, and goes on from what was told last.
    let mut restarted = RegimeClock::default();
    restarted.follow(s(100), Some((40, 0)));
    restarted.follow(s(100), Some((40, 20_000)));
    assert_eq!(restarted.elapsed_ms(s(101)), Some((40, 21_000)));
    // A later record begins anew; none: nothing is counted.
    restarted.follow(s(200), Some((90, 0)));
    assert_eq!(restarted.elapsed_ms(s(203)), Some((90, 3_000)));
    restarted.follow(s(204), None);
    assert_eq!(restarted.elapsed_ms(s(205)), None);
}
