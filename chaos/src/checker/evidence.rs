//! The history and F, indexed for the invariants.
//!
//! Invariant: nothing is judged here; duplicates and contradictions are kept for the invariants to find.

use std::collections::BTreeMap;

use crate::history::{
    Attested, Call, Class, FinalEntry, FinalLog, Hash32, History, Operation, Outcome, Places, ReceiptSeen,
};
use tercet_proto::canonical::{EntryView, content_hash};

/// An entry of F with what its bytes say.
pub(super) struct Logged<'a> {
    pub(super) entry: &'a FinalEntry,
    /// What the client supplied; an error if the bytes are no entry.
    pub(super) view: Result<EntryView<'a>, String>,
    /// SHA-256 of the client part.
    pub(super) content: Hash32,
}

/// One operation's attempt to append one key.
pub(super) struct Attempt<'a> {
    pub(super) operation: &'a Operation,
    pub(super) content: Hash32,
    pub(super) receipt: Option<&'a ReceiptSeen>,
}

impl Attempt<'_> {
    /// Definitely without effect.
    pub(super) fn refused(&self) -> bool {
        matches!(self.operation.returned, Some((_, Outcome::Refused { .. })))
    }
}

/// All attempts to append one key.
pub(super) struct Attempts<'a> {
    pub(super) key: &'a str,
    pub(super) all: Vec<Attempt<'a>>,
}

impl Attempts<'_> {
    /// The strongest class that a receipt lets rely on; a receipt that attests nothing promises what every class does.
    pub(super) fn promised(&self) -> Option<Class> {
        let receipts = self.all.iter().filter_map(|attempt| attempt.receipt);
        receipts.map(|receipt| receipt.attested.as_ref().map_or(Class::City, Attested::reliable)).max()
    }

    /// Whether anybody holds a receipt for the key.
    pub(super) fn acknowledged(&self) -> bool {
        self.all.iter().any(|attempt| attempt.receipt.is_some())
    }
}

pub(super) struct Evidence<'a> {
    pub(super) history: &'a History,
    pub(super) finals: &'a [FinalLog],
    /// F: the first of the logs, as returned.
    pub(super) log: Vec<Logged<'a>>,
    attempts: BTreeMap<&'a str, Attempts<'a>>,
    positions: BTreeMap<&'a str, usize>,
    site_lost: bool,
}

impl<'a> Evidence<'a> {
    pub(super) fn new(history: &'a History, finals: &'a [FinalLog]) -> Self {
        let log: Vec<Logged<'a>> =
            finals.first().map(|log| log.entries.iter().map(logged).collect()).unwrap_or_default();
        let mut positions = BTreeMap::new();
        for (at, logged) in log.iter().enumerate() {
            if let Ok(view) = &logged.view {
                // The first one counts; `exactly_once` finds the others.
                positions.entry(view.key()).or_insert(at);
            }
        }
        let mut attempts: BTreeMap<&str, Attempts<'_>> = BTreeMap::new();
        for operation in &history.operations {
            let Call::Append { entries, .. } = &operation.call else { continue };
            let receipts = match &operation.returned {
                Some((_, Outcome::Appended { receipts })) => receipts.as_slice(),
                _ => &[],
            };
            for (at, sent) in entries.iter().enumerate() {
                let attempt = Attempt { operation, content: sent.content, receipt: receipts.get(at) };
                attempts
                    .entry(&sent.key)
                    .or_insert_with(|| Attempts { key: &sent.key, all: Vec::new() })
                    .all
                    .push(attempt);
            }
        }
        let site_lost = finals.first().is_some_and(|log| is_site_lost(&history.header.places, &log.gone));
        Self { history, finals, log, attempts, positions, site_lost }
    }

    /// The keys that anybody sent, each with its attempts in the order of the operations' numbers.
    pub(super) fn attempts_by_key(&self) -> impl Iterator<Item = &Attempts<'a>> {
        self.attempts.values()
    }

    pub(super) fn attempts(&self, key: &str) -> Option<&Attempts<'a>> {
        self.attempts.get(key)
    }

    /// Where the key is in F, counted from 0.
    pub(super) fn position(&self, key: &str) -> Option<usize> {
        self.positions.get(key).copied()
    }

    /// The entry of F with this seq, if F is dense up to there.
    pub(super) fn at_seq(&self, seq: u64) -> Option<&Logged<'a>> {
        let at = usize::try_from(seq.checked_sub(1)?).ok()?;
        self.log.get(at)
    }

    /// Whether the loss of a whole site explains that the key is not in F.
    pub(super) fn excused(&self, attempts: &Attempts<'_>) -> bool {
        self.site_lost && attempts.promised() == Some(Class::City)
    }

    /// Keys without a receipt of which at least one attempt may have taken effect.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = &'a str> {
        self.attempts
            .values()
            .filter(|attempts| !attempts.acknowledged() && !attempts.all.iter().all(Attempt::refused))
            .map(|attempts| attempts.key)
    }
}

fn logged(entry: &FinalEntry) -> Logged<'_> {
    let view = match EntryView::parse(&entry.client_part.0) {
        Ok((view, [])) => Ok(view),
        Ok((_, rest)) => Err(format!("{} bytes follow the client part", rest.len())),
        Err(error) => Err(error.to_string()),
    };
    Logged { entry, view, content: Hash32(content_hash(&entry.client_part.0)) }
}

/// Whether all nodes of one site are gone for good.
fn is_site_lost(places: &Places, gone: &[String]) -> bool {
    places.values().any(|site| {
        places.iter().filter(|(_, place)| place.site == site.site).all(|(node, _)| gone.contains(node))
    })
}
