//! Which process speaks for a node id: two processes of one data directory, a copy of it, are told apart, and the later one stops.
//!
//! Each process has the count of starts that NODE keeps and a number that it draws by chance. Both are in every message and every answer.
//! A node takes the messages of one process for each id at a time:
//!
//! | heard from | while the one before | it is |
//! |---|---|---|
//! | the same | | taken |
//! | an earlier start | | refused: it is superseded |
//! | the same start or a later one, or another directory | was heard within the lease | refused: another one is at work |
//! | the same start or a later one, or another directory | is silent for longer | taken from now on |
//!
//! A process asks its peers (Hello) before it takes part and every few seconds afterwards, and [`judge`] says what follows. What
//! was answered is of two kinds: what was heard lately, and what the replicated registry says; a directory that was put back
//! to an earlier state counts a start for the second time, and the registry remembers the first.
//!
//! Invariants: two processes of one id are never both taken by one node within the lease; of two that know of each other only the later one
//! stops, unless the registry has the later one.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tercet_proto::v1;

/// Two processes are shown as such for so long after one of them was heard last: they greet every few seconds.
const LATELY: Duration = Duration::from_secs(5);

/// A process of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Process {
    /// The number of its data directory.
    pub incarnation: u64,
    /// How often that has been started from.
    pub start: u64,
    /// Drawn by chance when it started.
    pub nonce: u64,
}

impl Process {
    /// Who sent a message.
    #[must_use]
    pub const fn of(header: &v1::Header) -> Self {
        Self { incarnation: header.incarnation, start: header.start, nonce: header.nonce }
    }

    /// Whether it began after another one of the same directory; of two that count the same start, the number decides.
    const fn is_later_than(&self, other: &Self) -> bool {
        self.start > other.start || self.start == other.start && self.nonce > other.nonce
    }
}

/// Why a message is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// A later process of the same directory has been taken.
    Superseded(Process),
    /// An earlier one, or one of another directory, is at work.
    AtWork(Process),
}

impl std::fmt::Display for NotTaken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Superseded(by) => {
                write!(f, "another process of this node id has taken its place (start {})", by.start)
            }
            Self::AtWork(other) => {
                write!(f, "another process of this node id is at work (start {})", other.start)
            }
        }
    }
}

/// See the module's table; `taken` is who was taken before, and how long ago that was heard.
fn meet(taken: Option<(Process, Duration)>, met: Process, lease: Duration) -> Result<(), NotTaken> {
    let Some((taken, silent)) = taken.filter(|(taken, _)| *taken != met) else { return Ok(()) };
    if taken.incarnation == met.incarnation && met.start < taken.start {
        return Err(NotTaken::Superseded(taken));
    }
    if silent <= lease {
        return Err(NotTaken::AtWork(taken));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy)]
struct Heard {
    process: Process,
    first: Instant,
    at: Instant,
}

impl Heard {
    /// Heard now, and if it is the same as `before` not for the first time.
    fn now(process: Process, before: Option<Self>, at: Instant) -> Self {
        let first = before.filter(|before| before.process == process).map_or(at, |before| before.first);
        Self { process, first, at }
    }
}

/// Of one node id.
#[derive(Debug, Default)]
struct Known {
    taken: Option<Heard>,
    /// The last one that said hello or was refused.
    other: Option<Heard>,
}

/// What has been heard of all other nodes.
#[derive(Debug)]
pub struct Processes {
    lease: Duration,
    by_node: Mutex<BTreeMap<u64, Known>>,
}

impl Processes {
    /// Nothing yet; a process that is silent for longer than `lease` may be followed by another one.
    #[must_use]
    pub const fn new(lease: Duration) -> Self {
        Self { lease, by_node: Mutex::new(BTreeMap::new()) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Known>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For how long a process counts as at work after it was heard.
    #[must_use]
    pub const fn lease(&self) -> Duration {
        self.lease
    }

    /// A message or an answer of a process that takes part.
    ///
    /// # Errors
    /// It must not be taken.
    pub fn met(&self, node: u64, process: Process) -> Result<(), NotTaken> {
        let at = Instant::now();
        let mut by_node = self.lock();
        let known = by_node.entry(node).or_default();
        let taken = known.taken.map(|taken| (taken.process, at.saturating_duration_since(taken.at)));
        let met = meet(taken, process, self.lease);
        match met {
            Ok(()) => known.taken = Some(Heard::now(process, known.taken, at)),
            Err(_) => known.other = Some(Heard::now(process, known.other, at)),
        }
        met
    }

    /// A process has said hello: it is there, whether it takes part or not.
    pub fn greeted(&self, node: u64, process: Process) {
        let at = Instant::now();
        let mut by_node = self.lock();
        let known = by_node.entry(node).or_default();
        match &mut known.taken {
            Some(taken) if taken.process == process => taken.at = at,
            _ => known.other = Some(Heard::now(process, known.other, at)),
        }
    }

    /// Who speaks for a node.
    #[must_use]
    pub fn taken(&self, node: u64) -> Option<Process> {
        self.lock().get(&node)?.taken.map(|taken| taken.process)
    }

    /// Another process of the same id that was heard last, and how long ago.
    #[must_use]
    pub fn other_than(&self, node: u64, process: Process) -> Option<(Process, Duration)> {
        let by_node = self.lock();
        let known = by_node.get(&node)?;
        let others =
            [known.taken, known.other].into_iter().flatten().filter(|heard| heard.process != process);
        let last = others.max_by_key(|heard| heard.at)?;
        Some((last.process, last.at.elapsed()))
    }

    /// Ids of which two processes of one directory are at work: each was heard lately, and long after the other one came.
    #[must_use]
    pub fn twins(&self) -> Vec<u64> {
        let by_node = self.lock();
        let after = |one: &Heard, other: &Heard| {
            one.at.elapsed() <= LATELY && one.at.saturating_duration_since(other.first) > self.lease
        };
        let both = |known: &Known| match (known.taken, known.other) {
            (Some(one), Some(other)) => {
                one.process.incarnation == other.process.incarnation
                    && one.process != other.process
                    && after(&one, &other)
                    && after(&other, &one)
            }
            _ => false,
        };
        by_node.iter().filter(|(_, known)| both(known)).map(|(node, _)| *node).collect()
    }
}

/// What a peer said about processes of the asker's id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SaidOfProcesses {
    /// How far it has applied group 0.
    pub applied: u64,
    /// What the registry says there: the last start of which directory; none: nothing.
    pub registered: Option<Process>,
    /// Another process than the asker that it heard, and how long ago.
    pub other: Option<(Process, Duration)>,
}

/// What follows for the asker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alone {
    /// No other process is known.
    Yes,
    /// One was heard lately: it may be dead, and then nobody will hear it again.
    NotYet,
    /// It must stop.
    No(String),
}

/// See the module. `asked_for`: since the first answers came, so long has been asked.
#[must_use]
pub fn judge(own: Process, said: &[SaidOfProcesses], lease: Duration, asked_for: Duration) -> Alone {
    let best = said.iter().filter(|said| said.registered.is_some()).max_by_key(|said| said.applied);
    if let Some(known) = best.and_then(|said| said.registered)
        && known.incarnation == own.incarnation
        && known.nonce != own.nonce
        && known.start >= own.start
    {
        return Alone::No(format!(
            "the cluster knows start {} of this data directory, and this process counts start {}: it runs from a copy, or the directory was \
             put back to an earlier state and has forgotten what it acknowledged since",
            known.start, own.start
        ));
    }
    let is_known = best.and_then(|said| said.registered).is_some_and(|known| known.nonce == own.nonce);
    let at_work = said
        .iter()
        .filter_map(|said| said.other)
        .filter(|(other, silent)| other.incarnation == own.incarnation && *silent <= lease);
    let mut is_alone = true;
    for (other, _) in at_work {
        is_alone = false;
        // Of two that count the same start the one that the cluster knows stays.
        let is_later = own.is_later_than(&other) && !(own.start == other.start && is_known);
        // Its last messages may still have been under way at first.
        if is_later && asked_for > lease * 3 {
            return Alone::No(format!(
                "another process runs from a copy of this data directory (start {}, this is start {}), and is at work",
                other.start, own.start
            ));
        }
    }
    if is_alone { Alone::Yes } else { Alone::NotYet }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(180);
    const SOON: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(2);

    const fn process(start: u64, nonce: u64) -> Process {
        Process { incarnation: 7, start, nonce }
    }

    #[test]
    fn one_process_of_an_id_is_taken_at_a_time() {
        let taken = process(4, 50);
        let replaced = Process { incarnation: 8, start: 1, nonce: 1 };
        let rows = [
            ("the first", None, process(1, 1), Ok(())),
            ("the same", Some((taken, SOON)), taken, Ok(())),
            ("an earlier one", Some((taken, SOON)), process(3, 9), Err(NotTaken::Superseded(taken))),
            ("an earlier one, later", Some((taken, LONG)), process(3, 9), Err(NotTaken::Superseded(taken))),
            (
                "a copy that counts the same start",
                Some((taken, SOON)),
                process(4, 60),
                Err(NotTaken::AtWork(taken)),
            ),
            ("a copy", Some((taken, SOON)), process(5, 1), Err(NotTaken::AtWork(taken))),
            ("the next one after a kill", Some((taken, LONG)), process(5, 1), Ok(())),
            (
                "a new directory while the old one works",
                Some((taken, SOON)),
                replaced,
                Err(NotTaken::AtWork(taken)),
            ),
            ("a new directory", Some((taken, LONG)), replaced, Ok(())),
        ];
        for (what, taken, met, expected) in rows {
            assert_eq!(meet(taken, met, LEASE), expected, "{what}");
        }
    }

    #[test]
    fn the_later_of_two_stops() {
        let own = process(5, 50);
        let heard =
            |other, silent| SaidOfProcesses { other: Some((other, silent)), ..SaidOfProcesses::default() };
        let knows = |start, nonce, applied| SaidOfProcesses {
            applied,
            registered: Some(process(start, nonce)),
            other: None,
        };
        let other_directory = Process { incarnation: 8, start: 9, nonce: 9 };
        let (yes, wait) = (Some(true), Some(false));
        let rows: [(&str, Vec<SaidOfProcesses>, Duration, Option<bool>); 13] = [
            ("nobody answers", vec![], LONG, yes),
            ("nobody knows another", vec![SaidOfProcesses::default()], SOON, yes),
            ("the one before was just killed", vec![heard(process(4, 1), SOON)], SOON, wait),
            ("and is silent since", vec![heard(process(4, 1), LEASE * 2)], LEASE * 2, yes),
            ("the original works", vec![heard(process(4, 1), SOON)], LONG, None),
            ("a later one works: it is for that one to stop", vec![heard(process(6, 1), SOON)], LONG, wait),
            ("two starts at once: the number decides", vec![heard(process(5, 49), SOON)], LONG, None),
            ("and against the other one", vec![heard(process(5, 51), SOON)], LONG, wait),
            (
                "but the cluster knows this one",
                vec![heard(process(5, 49), SOON), knows(5, 50, 7)],
                LONG,
                wait,
            ),
            ("the registry knows the start before", vec![knows(4, 9, 7)], SOON, yes),
            ("the registry knows this one", vec![knows(5, 50, 7)], SOON, yes),
            ("this start has been counted before", vec![knows(5, 51, 7)], SOON, None),
            ("who has applied most knows best", vec![knows(4, 9, 7), knows(6, 3, 8)], SOON, None),
        ];
        for (what, said, asked_for, expected) in rows {
            let found = match judge(own, &said, LEASE, asked_for) {
                Alone::Yes => Some(true),
                Alone::NotYet => Some(false),
                Alone::No(_) => None,
            };
            assert_eq!(found, expected, "{what}");
        }
        let said = [SaidOfProcesses { registered: Some(other_directory), ..heard(other_directory, SOON) }];
        assert_eq!(judge(own, &said, LEASE, LONG), Alone::Yes, "another directory is the registry's matter");
    }

    #[test]
    fn what_was_heard_is_told_to_who_asks() {
        let processes = Processes::new(Duration::from_secs(60));
        let at_once = Processes::new(Duration::ZERO);
        let (original, copy) = (process(4, 1), process(5, 2));
        processes.met(3, original).expect("the first");
        assert_eq!(processes.other_than(3, original), None);
        processes.greeted(3, copy);
        assert_eq!(processes.taken(3), Some(original));
        assert_eq!(processes.other_than(3, copy).map(|(other, _)| other), Some(original));
        assert_eq!(processes.other_than(3, original).map(|(other, _)| other), Some(copy));
        assert_eq!(processes.met(3, copy), Err(NotTaken::AtWork(original)));
        assert!(processes.twins().is_empty(), "the original may have died just before");
        at_once.greeted(3, copy);
        for _ in 0..2 {
            std::thread::sleep(Duration::from_millis(1));
            at_once.met(3, original).expect("nobody is at work for so short a time");
            at_once.greeted(3, copy);
        }
        assert_eq!(at_once.twins(), [3]);
    }
}
