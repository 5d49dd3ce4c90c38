//! What becomes of a lost entry, given what the other voters hold. Pure: no clock, no I/O.
//!
//! A lost entry may have been acknowledged by this node and so be a part of a quorum. It may be dropped only if it can never
//! again be committed on the strength of that acknowledgement:
//!
//! | finding | verdict |
//! |---|---|
//! | somebody holds it intact: same index and term, or a log that matches this one beyond it | restore |
//! | the leader of a term not below this node's own vote does not hold it | drop |
//! | no other voter holds it | drop |
//! | a majority of the voters does not hold it and has voted in a later term than its own | drop |
//! | anything else | wait |
//!
//! Whether a leader's entry is the lost one can be clear only from what the log still knows of that (its neighbours' terms, the payload's
//! checksum): if the log refuses it for that, the leader does not hold the lost one ([`is_another_leaders`]).
//!
//! The leader's log decides because its acknowledgement is what this node would next give: a leader of this node's own term has
//! everything that it ever sent here, and a leader of a later one has everything that was committed (Raft, 5.4). Absence from
//! a majority is not enough by itself: the leader of the entry's term may be alive, still count what this node once
//! acknowledged, and need one follower more; followers that have voted in a later term refuse it (decision 0006).
//!
//! The voters are those of the newest membership that this node or anybody who answers knows, both halves of it while members
//! change; a majority of each must have answered before anything is concluded from absence, or a newer one may have been missed
//! ([`Electorate`]). Nodes that do not vote are heard, too: what they hold intact is as good as anybody's.
//!
//! Invariant: what this node knows to be committed is never dropped.

use std::fmt;

use tercet_storage::LogRecord;

use crate::placement::Electorate;

/// What one voter's log holds of the wanted entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The entry.
    Intact(LogRecord),
    /// Known not to be there.
    Absent,
    /// It cannot say, or has purged it.
    Unknown,
}

/// One voter's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Whose it is.
    pub node: u64,
    /// The wanted entry.
    pub held: Held,
    /// Term of its vote.
    pub vote_term: u64,
    /// The term that it leads; 0: none.
    pub leads_term: u64,
    /// Whether its log matches this one at an entry beyond the wanted one.
    pub vouched: bool,
}

/// The lost entry, and what this node knows of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lost {
    /// Its index.
    pub index: u64,
    /// Its term, where that survives.
    pub term: Option<u64>,
    /// Term of this node's vote.
    pub own_vote_term: u64,
    /// The highest index that this node knows to be committed.
    pub committed: u64,
    /// This node.
    pub own: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Write this entry anew.
    Restore(LogRecord),
    /// Truncate before it: neither it nor what follows was committed.
    Drop,
    /// Ask again later.
    Wait(Why),
}

/// Why a repair waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// Nobody who answers holds the entry, though it was committed.
    CommittedButNotFound,
    /// Not enough voters have answered.
    TooFewAnswers {
        /// How many have.
        answered: usize,
    },
    /// The term is lost, too, and only a leader can tell which entry it was.
    NeedsLeader,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommittedButNotFound => f.write_str("no voter that answers holds a committed entry intact"),
            Self::TooFewAnswers { answered } => {
                write!(f, "{answered} other voters answer, too few to tell whether it was committed")
            }
            Self::NeedsLeader => f.write_str("a leader of the present term, to tell how the log went on"),
        }
    }
}

/// The table above.
#[must_use]
pub fn judge(lost: &Lost, voters: &Electorate, answers: &[Answer]) -> Verdict {
    if let Some(record) = answers.iter().find_map(|answer| matching(lost, answer)) {
        return Verdict::Restore(record.clone());
    }
    let may_drop = is_dropped_by_leader(lost, answers) || is_nowhere(lost, voters, answers);
    match (may_drop, lost.index <= lost.committed) {
        (true, false) => Verdict::Drop,
        (_, true) => Verdict::Wait(Why::CommittedButNotFound),
        (false, false) if lost.term.is_none() => Verdict::Wait(Why::NeedsLeader),
        (false, false) => Verdict::Wait(Why::TooFewAnswers { answered: answers.len() }),
    }
}

/// The entry, if this answer holds the very one that is lost.
fn matching<'a>(lost: &Lost, answer: &'a Answer) -> Option<&'a LogRecord> {
    let Held::Intact(record) = &answer.held else { return None };
    let is_it = match lost.term {
        Some(term) => record.term == term,
        None => answer.vouched || leads(lost, answer),
    };
    (is_it && record.index == lost.index).then_some(record)
}

/// Whether an entry that turned out not to be the lost one shows that this may be dropped: a leader holds it at this index, and nobody
/// vouches for it.
#[must_use]
pub fn is_another_leaders(lost: &Lost, answers: &[Answer]) -> bool {
    let mut holding = answers.iter().filter(|answer| matches!(answer.held, Held::Intact(_)));
    lost.index > lost.committed
        && holding.clone().any(|answer| leads(lost, answer))
        && !holding.any(|answer| answer.vouched)
}

fn leads(lost: &Lost, answer: &Answer) -> bool {
    answer.leads_term > 0 && answer.leads_term >= lost.own_vote_term
}

/// Whether the answer says that the wanted entry (that term, if it is known) is not there.
fn is_absent(lost: &Lost, answer: &Answer) -> bool {
    match &answer.held {
        Held::Absent => true,
        Held::Intact(record) => lost.term.is_some_and(|term| record.term != term),
        Held::Unknown => false,
    }
}

fn is_dropped_by_leader(lost: &Lost, answers: &[Answer]) -> bool {
    answers.iter().any(|answer| leads(lost, answer) && is_absent(lost, answer))
}

/// Without a leader: the identity must be known.
fn is_nowhere(lost: &Lost, voters: &Electorate, answers: &[Answer]) -> bool {
    let Some(term) = lost.term else { return false };
    let without = |node| answers.iter().find(|answer| answer.node == node && is_absent(lost, answer));
    let others = voters.everybody();
    let mut others = others.into_iter().filter(|node| *node != lost.own).peekable();
    let on_no_other = others.peek().is_some() && others.all(|node| without(node).is_some());
    on_no_other || voters.majority(|node| without(node).is_some_and(|answer| answer.vote_term > term))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn record(index: u64, term: u64) -> LogRecord {
        LogRecord { index, term, leader: 1, tag: 1, payload: Bytes::from_static(b"entry") }
    }

    fn intact(term: u64) -> Answer {
        Answer { node: 0, held: Held::Intact(record(7, term)), vote_term: 3, leads_term: 0, vouched: false }
    }

    fn absent(vote_term: u64) -> Answer {
        Answer { node: 0, held: Held::Absent, vote_term, leads_term: 0, vouched: false }
    }

    fn unknown() -> Answer {
        Answer { node: 0, held: Held::Unknown, vote_term: 3, leads_term: 0, vouched: false }
    }

    fn leading(term: u64, answer: Answer) -> Answer {
        Answer { leads_term: term, vote_term: term, ..answer }
    }

    fn vouched(answer: Answer) -> Answer {
        Answer { vouched: true, ..answer }
    }

    /// Entry 7 of term 3 on a node that has voted in term 3, one of five.
    const KNOWN: Lost = Lost { index: 7, term: Some(3), own_vote_term: 3, committed: 5, own: 1 };
    const NAMELESS: Lost = Lost { term: None, ..KNOWN };
    const COMMITTED: Lost = Lost { committed: 7, ..KNOWN };

    #[test]
    fn a_leaders_entry_that_is_not_the_lost_one_shows_that_the_leader_lacks_that() {
        let shows = |lost: &Lost, answers: &[Answer]| is_another_leaders(lost, answers);
        assert!(shows(&NAMELESS, &[absent(3), leading(4, intact(4))]));
        assert!(!shows(&NAMELESS, &[intact(4)]), "nobody leads");
        assert!(!shows(&NAMELESS, &[leading(2, intact(2))]), "an earlier term than this node's vote");
        assert!(!shows(&NAMELESS, &[leading(4, intact(4)), vouched(intact(3))]), "somebody vouches for it");
        assert!(!shows(&Lost { term: None, ..COMMITTED }, &[leading(4, intact(4))]), "it was committed");
    }

    fn from(nodes: impl IntoIterator<Item = u64>, answers: Vec<Answer>) -> Vec<Answer> {
        nodes.into_iter().zip(answers).map(|(node, answer)| Answer { node, ..answer }).collect()
    }

    #[test]
    fn the_table() {
        let restore = || Verdict::Restore(record(7, 3));
        let few = |answered| Verdict::Wait(Why::TooFewAnswers { answered });
        let cases: Vec<(&str, Lost, Vec<Answer>, Verdict)> = vec![
            ("one intact answer is enough", KNOWN, vec![absent(9), intact(3)], restore()),
            ("even against a leader without it", KNOWN, vec![leading(4, absent(4)), intact(3)], restore()),
            ("the leader has not got it", KNOWN, vec![leading(3, absent(3))], Verdict::Drop),
            ("the leader has another entry there", KNOWN, vec![leading(4, intact(4))], Verdict::Drop),
            ("a leader of an earlier term says nothing", KNOWN, vec![leading(2, absent(2))], few(1)),
            ("no other voter has it", KNOWN, vec![absent(3), absent(3), absent(3), absent(3)], Verdict::Drop),
            (
                "a majority has moved on without it",
                KNOWN,
                vec![absent(4), absent(4), absent(5)],
                Verdict::Drop,
            ),
            ("a majority without it in its own term", KNOWN, vec![absent(3), absent(3), absent(3)], few(3)),
            ("half of the voters", KNOWN, vec![absent(4), absent(4)], few(2)),
            ("one cannot say", KNOWN, vec![absent(3), absent(3), absent(3), unknown()], few(4)),
            ("nobody answers", KNOWN, vec![], few(0)),
            (
                "a committed entry is never dropped",
                COMMITTED,
                vec![leading(3, absent(3)), absent(4), absent(4), absent(4)],
                Verdict::Wait(Why::CommittedButNotFound),
            ),
            ("an entry without a name, vouched for", NAMELESS, vec![vouched(intact(3))], restore()),
            ("the leader names it", NAMELESS, vec![leading(3, intact(3))], restore()),
            ("nobody vouches", NAMELESS, vec![intact(3)], Verdict::Wait(Why::NeedsLeader)),
            ("the leader's log ends before it", NAMELESS, vec![leading(3, absent(3))], Verdict::Drop),
            (
                "without a name, absence elsewhere says nothing",
                NAMELESS,
                vec![absent(9), absent(9), absent(9), absent(9)],
                Verdict::Wait(Why::NeedsLeader),
            ),
        ];
        for (what, lost, answers, expected) in cases {
            assert_eq!(judge(&lost, &Electorate::first(1..=5), &from(2..=5, answers)), expected, "{what}");
        }
    }

    #[test]
    fn who_votes_now_decides_and_both_halves_while_that_changes() {
        let of = |halves: &[&[u64]]| Electorate {
            at: (3, 6),
            halves: halves.iter().map(|half| half.iter().copied().collect()).collect(),
        };
        let replaced = of(&[&[1, 2, 3, 4, 6]]);
        let joint = of(&[&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5, 6]]);
        let few = |answered| Verdict::Wait(Why::TooFewAnswers { answered });
        type Case<'c> = (&'c str, &'c Electorate, &'c [u64], Vec<Answer>, Verdict);
        let cases: [Case<'_>; 7] = [
            ("all first ones, but not who came since", &replaced, &[2, 3, 4, 5], vec![absent(3); 4], few(4)),
            ("all who vote now", &replaced, &[2, 3, 4, 6], vec![absent(3); 4], Verdict::Drop),
            ("who has left counts for nothing", &replaced, &[2, 3, 5], vec![absent(4); 3], few(3)),
            ("a majority of those who vote now", &replaced, &[2, 3, 6], vec![absent(4); 3], Verdict::Drop),
            ("a majority of the old half only", &joint, &[2, 3, 4], vec![absent(4); 3], few(3)),
            ("a majority of both", &joint, &[2, 3, 4, 6], vec![absent(4); 4], Verdict::Drop),
            ("alone in the group, nobody else can say", &of(&[&[1]]), &[2], vec![absent(3)], few(1)),
        ];
        for (what, voters, nodes, answers, expected) in cases {
            assert_eq!(judge(&KNOWN, voters, &from(nodes.iter().copied(), answers)), expected, "{what}");
        }
        let learner = from([7], vec![intact(3)]);
        assert_eq!(judge(&KNOWN, &replaced, &learner), Verdict::Restore(record(7, 3)), "a learner has it");
    }
}
