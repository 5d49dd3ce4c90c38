//! Applies one append: replays, conflicts, seq, hashes, balances.
//!
//! Invariants: all or nothing; a key that is known with equal content adds nothing, whatever has become of the journal's
//! business date or currencies since; when anything is refused, the journal and the keys are as they were.

use tercet_proto::canonical::{EntryView, Hash, STORE_PART_BYTES, chain, store_part};
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;

use super::command::AppendView;
use super::journal::Journal;
use super::keys::{CONTENT_BYTES, KeyRecord, Keys};
use super::store::LedgerError;

/// What became of one entry of an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryOutcome {
    /// Appended now.
    New {
        /// Its number.
        seq: u64,
        /// SHA-256(client part || store part).
        entry_hash: Hash,
        /// SHA-256(previous chain hash || entry hash).
        chain_hash: Hash,
        /// When it was recorded, microseconds since 1970.
        recorded_at_us: i64,
    },
    /// Its key was known with equal content; the original has this seq. Hashes and time are rebuilt from the log.
    Replayed {
        /// The original's number.
        seq: u64,
    },
}

impl EntryOutcome {
    /// The entry's, or the original's, number.
    #[must_use]
    pub const fn seq(&self) -> u64 {
        match self {
            Self::New { seq, .. } | Self::Replayed { seq } => *seq,
        }
    }
}

/// How many conflicting keys a refusal's message shows at most, and in how many bytes.
const CONFLICTS_SHOWN: usize = 8;
const CONFLICTS_SHOWN_BYTES: usize = 320;
/// The list of conflicts in a refusal's metadata ends here, at a whole run of them; their number is told in any case.
const CONFLICTS_LISTED_BYTES: usize = 400;

/// An append that was carried out.
pub(super) struct Appended {
    pub(super) entries: Vec<EntryOutcome>,
    /// Entries that added nothing.
    pub(super) replayed: Vec<u32>,
}

/// A key that is taken by other content.
struct Conflict<'p> {
    entry: usize,
    key: &'p str,
    seq: u64,
}

/// Applies an append to its journal; `admit` has the last word on what is new in it.
pub(super) fn append(
    journal: &mut Journal,
    keys: &mut Keys,
    view: &AppendView<'_>,
    recorded_at_us: i64,
    admit: impl FnOnce(&[EntryView<'_>]) -> Result<(), Refusal>,
) -> Result<Result<Appended, Refusal>, LedgerError> {
    let mark = keys.mark();
    let mut attempt = Attempt::new(journal, keys, view, recorded_at_us);
    for (number, entry) in view.entries().enumerate() {
        attempt.take(number, entry?)?;
    }
    let Attempt { conflicts, refusal, fresh, outcomes, replayed, seq, chain_hash, .. } = attempt;
    let refused = if conflicts.is_empty() { refusal } else { Some(conflict_refusal(&conflicts)) };
    let refused = refused.or_else(|| admit(&fresh).err());
    if let Some(refusal) = refused {
        keys.forget(mark);
        return Ok(Err(refusal));
    }
    keys.keep(mark);
    for entry in &fresh {
        entry.postings().for_each(|posting| journal.balances.add(&posting));
    }
    if !fresh.is_empty() {
        journal.head.seq = seq;
        journal.head.chain_hash = chain_hash;
        journal.dirty = true;
    }
    Ok(Ok(Appended { entries: outcomes, replayed }))
}

/// An append under way: as if it succeeded, until something speaks against it.
struct Attempt<'a, 'p> {
    journal: &'a Journal,
    keys: &'a mut Keys,
    recorded_at_us: i64,
    /// Of the newest entry so far.
    seq: u64,
    chain_hash: Hash,
    fresh: Vec<EntryView<'p>>,
    outcomes: Vec<EntryOutcome>,
    replayed: Vec<u32>,
    conflicts: Vec<Conflict<'p>>,
    /// The first other fault.
    refusal: Option<Refusal>,
}

impl<'a, 'p> Attempt<'a, 'p> {
    fn new(journal: &'a Journal, keys: &'a mut Keys, view: &AppendView<'p>, recorded_at_us: i64) -> Self {
        // The stated count is trusted only as far as requests go.
        let expected =
            usize::try_from(view.entry_count()).unwrap_or(0).min(tercet_proto::limits::MAX_REQUEST_ENTRIES);
        Self {
            recorded_at_us,
            seq: journal.head.seq,
            chain_hash: journal.head.chain_hash,
            journal,
            keys,
            fresh: Vec::with_capacity(expected),
            outcomes: Vec::with_capacity(expected),
            replayed: Vec::new(),
            conflicts: Vec::new(),
            refusal: None,
        }
    }

    fn take(&mut self, number: usize, entry: EntryView<'p>) -> Result<(), LedgerError> {
        let hasher = entry.hasher();
        let content = first_bytes(&hasher.content_hash());
        let key = self
            .keys
            .journal_key(self.journal.id, entry.key())
            .ok_or(LedgerError::Corrupt("a key is longer than keys can be"))?;
        match self.keys.find(&key)? {
            Some(known) if known.content == content => {
                self.outcomes.push(EntryOutcome::Replayed { seq: known.seq });
                self.replayed.push(u32::try_from(number).unwrap_or(u32::MAX));
            }
            Some(known) if known.seq > self.journal.head.seq => self.refuse(|| {
                let message = "the request has this key twice, with other content";
                Refusal::new(Reason::KeyRepeated, format!("entries[{number}].key"), message)
                    .with("key", entry.key())
            }),
            Some(known) => self.conflicts.push(Conflict { entry: number, key: entry.key(), seq: known.seq }),
            None => {
                self.check_state(number, &entry);
                self.seq += 1;
                let store: [u8; STORE_PART_BYTES] = store_part(self.seq, self.recorded_at_us);
                let entry_hash = hasher.entry_hash(&store);
                self.chain_hash = chain(&self.chain_hash, &entry_hash);
                self.keys.insert(&key, KeyRecord { seq: self.seq, content });
                self.fresh.push(entry);
                self.outcomes.push(EntryOutcome::New {
                    seq: self.seq,
                    entry_hash,
                    chain_hash: self.chain_hash,
                    recorded_at_us: self.recorded_at_us,
                });
            }
        }
        Ok(())
    }

    /// The rules that need the journal's state.
    fn check_state(&mut self, number: usize, entry: &EntryView<'_>) {
        let open = self.journal.business_date;
        if entry.business_date() < open {
            self.refuse(|| {
                let message =
                    format!("{} is closed: the journal's business date is {open}", entry.business_date());
                let field = format!("entries[{number}].business_date");
                Refusal::new(Reason::BusinessDateClosed, field, message)
                    .with("journal_business_date", open.to_string())
            });
        }
        let settings = &self.journal.creation.settings;
        let foreign =
            entry.postings().enumerate().find(|(_, posting)| !settings.has_currency(posting.currency));
        if let Some((at, posting)) = foreign {
            let currency = String::from_utf8_lossy(&posting.currency).into_owned();
            let known: Vec<String> =
                settings.currencies.iter().map(|currency| currency.code_text()).collect();
            self.refuse(|| {
                let message = format!("{currency} is not a currency of the journal ({})", known.join(", "));
                let field = format!("entries[{number}].postings[{at}].currency");
                Refusal::new(Reason::CurrencyUnknown, field, message)
            });
        }
    }

    fn refuse(&mut self, refusal: impl FnOnce() -> Refusal) {
        if self.refusal.is_none() {
            self.refusal = Some(refusal());
        }
    }
}

fn first_bytes(hash: &Hash) -> [u8; CONTENT_BYTES] {
    let mut content = [0; CONTENT_BYTES];
    content.copy_from_slice(&hash[..CONTENT_BYTES]);
    content
}

/// Metadata `conflicts` is a list of `entry=seq`, where runs of both numbers are `first..last=first..last`, and ends with `...` where
/// there are more than it has room for; `conflict_count` is their number.
fn conflict_refusal(conflicts: &[Conflict<'_>]) -> Refusal {
    let mut shown: Vec<String> = Vec::new();
    let mut bytes = 0;
    for conflict in conflicts.iter().take(CONFLICTS_SHOWN) {
        let text = format!("{:?} (entries[{}]) is seq {}", conflict.key, conflict.entry, conflict.seq);
        bytes += text.len();
        if bytes > CONFLICTS_SHOWN_BYTES && !shown.is_empty() {
            break;
        }
        shown.push(text);
    }
    let left_off = conflicts.len() - shown.len();
    let more = if left_off > 0 { format!(", and {left_off} more") } else { String::new() };
    let message = format!("known with other content: {}{more}", shown.join(", "));
    let first = conflicts.first();
    Refusal::new(
        Reason::KeyConflict,
        first.map_or_else(String::new, |conflict| format!("entries[{}].key", conflict.entry)),
        message,
    )
    .with("key", first.map_or("", |conflict| conflict.key))
    .with("seq", first.map_or(0, |conflict| conflict.seq).to_string())
    .with("conflict_count", conflicts.len().to_string())
    .with("conflicts", runs(conflicts))
}

fn runs(conflicts: &[Conflict<'_>]) -> String {
    let mut runs: Vec<(usize, u64, usize)> = Vec::new();
    for conflict in conflicts {
        match runs.last_mut() {
            Some((entry, seq, length))
                if *entry + *length == conflict.entry
                    && u64::try_from(*length).is_ok_and(|length| *seq + length == conflict.seq) =>
            {
                *length += 1;
            }
            _ => runs.push((conflict.entry, conflict.seq, 1)),
        }
    }
    let mut listed = String::new();
    for (entry, seq, length) in runs {
        let text = match length {
            1 => format!("{entry}={seq}"),
            _ => format!("{entry}..{}={seq}..{}", entry + length - 1, seq + length as u64 - 1),
        };
        if listed.len() + text.len() > CONFLICTS_LISTED_BYTES {
            listed.push_str(",...");
            break;
        }
        if !listed.is_empty() {
            listed.push(',');
        }
        listed.push_str(&text);
    }
    listed
}
