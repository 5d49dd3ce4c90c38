//! Which members answer their leader, as something to be told: lost, and regained.
//!
//! Invariants: a member is lost once it has not answered for the whole of `lost_after`, and regained only when it has answered steadily
//! for [`STEADY`], so that a line which comes and goes is not told of with every breath; nothing is told of a member that was
//! never lost. Time comes in as an argument.

use core::time::Duration;
use std::collections::BTreeMap;

/// A member that has answered for so long is back.
const STEADY: Duration = Duration::from_secs(1);

/// What is to be told of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It has not answered for so long.
    Lost {
        /// Its node id.
        node: u64,
        /// For how long.
        silence: Duration,
    },
    /// It answers steadily again.
    Regained {
        /// Its node id.
        node: u64,
        /// How long it was away.
        away: Duration,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// It answers, or has not been waited for for long: since then.
    There { since: Duration },
    /// Told as lost; away since then. It has answered steadily since `back`.
    Lost { since: Duration, back: Option<Duration> },
}

/// What one leader has seen of its members in its term.
#[derive(Debug)]
pub struct ContactWatch {
    lost_after: Duration,
    members: BTreeMap<u64, State>,
}

impl ContactWatch {
    /// Nobody seen yet.
    #[must_use]
    pub fn new(lost_after: Duration) -> Self {
        Self { lost_after, members: BTreeMap::new() }
    }

    /// Looks at all members: each with the time since its last answer; none: it has not answered in this term.
    pub fn look(&mut self, now: Duration, contacts: &[(u64, Option<Duration>)]) -> Vec<Told> {
        self.members.retain(|node, _| contacts.iter().any(|(known, _)| known == node));
        contacts.iter().filter_map(|(node, silence)| self.look_at(now, *node, *silence)).collect()
    }

    fn look_at(&mut self, now: Duration, node: u64, silence: Option<Duration>) -> Option<Told> {
        let state = self.members.entry(node).or_insert(State::There { since: now });
        let began = match *state {
            State::There { since } | State::Lost { since, .. } => since,
        };
        let silence = silence.unwrap_or(now.saturating_sub(began));
        let answers = silence < self.lost_after;
        match *state {
            State::There { .. } if answers => None,
            State::There { .. } => {
                *state = State::Lost { since: now.saturating_sub(silence), back: None };
                Some(Told::Lost { node, silence })
            }
            State::Lost { since, back } if answers => {
                let back = back.unwrap_or(now);
                let is_steady = now.saturating_sub(back) >= STEADY;
                *state = if is_steady {
                    State::There { since: now }
                } else {
                    State::Lost { since, back: Some(back) }
                };
                is_steady.then(|| Told::Regained { node, away: back.saturating_sub(since) })
            }
            State::Lost { since, .. } => {
                *state = State::Lost { since, back: None };
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// What is told of node 2 at these looks: (now, silence), milliseconds.
    fn told(looks: &[(u64, Option<u64>)]) -> Vec<Told> {
        let mut watch = ContactWatch::new(ms(600));
        looks.iter().flat_map(|(now, silence)| watch.look(ms(*now), &[(2, silence.map(ms))])).collect()
    }

    #[test]
    fn a_member_that_falls_silent_is_told_of_once_and_again_when_it_answers_steadily() {
        let looks = [
            (0, Some(10)),
            (1_000, Some(599)),
            (1_100, Some(600)),
            (1_200, Some(700)),
            (5_000, Some(10)),
            (5_900, Some(10)),
            (6_000, Some(10)),
            (6_100, Some(10)),
        ];
        let lost = Told::Lost { node: 2, silence: ms(600) };
        let regained = Told::Regained { node: 2, away: ms(4_500) };
        assert_eq!(told(&looks), [lost, regained]);
    }

    #[test]
    fn one_that_comes_and_goes_is_told_of_once() {
        let mut looks = vec![(1_000, Some(700))];
        looks.extend((0..50).flat_map(|n| [(2_000 + n * 1_000, Some(10)), (2_500 + n * 1_000, Some(650))]));
        assert_eq!(told(&looks), [Told::Lost { node: 2, silence: ms(700) }]);
    }

    #[test]
    fn a_new_leader_waits_before_it_misses_anybody() {
        let never = [(10_000, None), (10_500, None), (10_600, None), (10_700, None)];
        assert_eq!(told(&never), [Told::Lost { node: 2, silence: ms(600) }]);
        assert_eq!(told(&[(10_000, None), (10_500, Some(3))]), []);
    }

    #[test]
    fn who_is_no_member_any_more_is_forgotten() {
        let mut watch = ContactWatch::new(ms(600));
        assert_eq!(watch.look(ms(0), &[(2, Some(ms(900)))]).len(), 1);
        assert_eq!(watch.look(ms(100), &[]), []);
        assert_eq!(watch.look(ms(200), &[(2, Some(ms(5)))]), [], "it was never lost as this member");
    }
}
