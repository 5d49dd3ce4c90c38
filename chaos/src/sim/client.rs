//! The ledger's service on a simulated node, and the clients' way to it: what `rpc` does, without gRPC.
//!
//! Invariants: a request is worked on in the scope of the node that has it, so it dies with that node; an attempt that may have
//! been proposed is never reported as refused; an answer is given only after the witness has looked at the disks.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tercet_node::ledger::{EntryOutcome, Outcome as Applied, prepare};
use tercet_node::placement::Class;
use tercet_node::raft::group::{Group, NoReadPoint};
use tercet_node::raft::proposer::Proposed;
use tercet_node::reader::Reader;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tokio::time::{Instant, timeout, timeout_at};

use super::net::{CLIENTS, Net, Target};
use crate::history::{EntrySeen, Hash32, Outcome, ReceiptSeen};
use crate::invariants::Witness;
use crate::workload::{Ledger, attested};

/// As `rpc::route`.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(10);
const HOPS_MAX: u32 = 2;

/// What a client asks for.
#[derive(Clone)]
enum Wanted {
    Append(v1::AppendRequest),
    Head(String),
    From(String, u64),
}

/// Numbers and names of the nodes that clients ask; once a core is healed only that, so that liveness is the cluster's and not how long
/// clients try nodes that are still cut off.
pub type Contacts = Arc<Mutex<Vec<(u64, String)>>>;

/// One client's way to the cluster.
pub struct SimLedger {
    /// The network.
    pub net: Net,
    /// Who watches.
    pub witness: Arc<Witness>,
    /// Those that may be asked.
    pub nodes: Contacts,
    /// Which of them is asked.
    pub current: AtomicUsize,
    /// How long a client waits.
    pub patience: Duration,
}

impl SimLedger {
    async fn ask(&self, wanted: Wanted) -> Outcome {
        let writes = matches!(wanted, Wanted::Append(_));
        let (node, _) = self.node();
        let (net, witness) = (self.net.clone(), self.witness.clone());
        let asked = self.net.ask(CLIENTS, node, "client's request", move |target| {
            serve(net.clone(), witness.clone(), node, target, wanted.clone(), 0)
        });
        match timeout(self.patience, asked).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(why)) if why == "connection refused" || !writes => refused(Reason::NoLeader, why),
            Ok(Err(why)) => unknown(why),
            Err(_) => unknown("no answer in time"),
        }
    }

    fn node(&self) -> (u64, String) {
        let nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let at = self.current.load(Ordering::Relaxed) % nodes.len().max(1);
        nodes.get(at).cloned().unwrap_or((CLIENTS, String::new()))
    }
}

impl Ledger for SimLedger {
    async fn append(&self, request: &v1::AppendRequest) -> Outcome {
        self.ask(Wanted::Append(request.clone())).await
    }

    async fn read_head(&self, journal: &str) -> Outcome {
        self.ask(Wanted::Head(journal.to_owned())).await
    }

    async fn read_from(&self, journal: &str, from: u64) -> Outcome {
        self.ask(Wanted::From(journal.to_owned(), from)).await
    }

    fn via(&self) -> String {
        self.node().1
    }

    fn move_on(&self) {
        self.current.fetch_add(1, Ordering::Relaxed);
    }
}

fn refused(reason: Reason, message: impl Into<String>) -> Outcome {
    Outcome::Refused { reason: reason.as_str().to_owned(), message: message.into() }
}

fn unknown(message: impl Into<String>) -> Outcome {
    Outcome::Unknown { message: message.into() }
}

fn refusal_outcome(refusal: &Refusal) -> Outcome {
    if refusal.reason == Reason::OutcomeUnknown {
        return unknown(refusal.to_string());
    }
    refused(refusal.reason, refusal.to_string())
}

/// Where an earlier attempt may have been proposed, only a refusal that holds for that one, too, is definite.
fn settled(outcome: Outcome, maybe_proposed: bool) -> Outcome {
    match outcome {
        Outcome::Refused { reason, message }
            if maybe_proposed && !Reason::parse(&reason).is_some_and(Reason::settles_earlier_attempts) =>
        {
            unknown(format!("an earlier attempt may have been carried out: {message}"))
        }
        outcome => outcome,
    }
}

/// What a local attempt came to.
enum Local {
    Done(Outcome),
    NotLeader,
}

/// Works on a request here if this node leads, else through the leader: `rpc::route`.
fn serve(
    net: Net,
    witness: Arc<Witness>,
    node: u64,
    target: Target,
    wanted: Wanted,
    hops: u32,
) -> BoxFuture<'static, Outcome> {
    let group = target.group;
    async move {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let writes = matches!(wanted, Wanted::Append(_));
        let mut maybe_proposed = false;
        while Instant::now() < deadline {
            match group.last_leader() {
                Some(leader) if leader == node => {
                    match timeout_at(deadline, here(&group, &witness, &wanted)).await {
                        Ok(Local::Done(outcome)) => return settled(outcome, maybe_proposed),
                        Ok(Local::NotLeader) => {}
                        Err(_) => maybe_proposed = writes,
                    }
                }
                Some(leader) if hops < HOPS_MAX => {
                    let (net_there, witness, wanted) = (net.clone(), witness.clone(), wanted.clone());
                    let sent = net.ask(node, leader, "forwarded request", move |target| {
                        serve(net_there.clone(), witness.clone(), leader, target, wanted.clone(), hops + 1)
                    });
                    match timeout_at(deadline, sent).await {
                        Ok(Ok(Outcome::Refused { reason, .. })) if reason == Reason::NoLeader.as_str() => {}
                        Ok(Ok(outcome)) => return settled(outcome, maybe_proposed),
                        Ok(Err(why)) => maybe_proposed |= writes && why != "connection refused",
                        Err(_) => maybe_proposed |= writes,
                    }
                }
                Some(_) => break,
                None => {}
            }
            tokio::time::sleep_until(deadline.min(Instant::now() + RETRY_PAUSE)).await;
        }
        if maybe_proposed {
            unknown("no answer in time; it may have been carried out")
        } else {
            refused(Reason::NoLeader, "nothing was carried out")
        }
    }
    .boxed()
}

async fn here(group: &Arc<Group>, witness: &Witness, wanted: &Wanted) -> Local {
    match wanted {
        Wanted::Append(request) => append_here(group, witness, request).await,
        Wanted::Head(journal) => read_here(group, journal, None).await,
        Wanted::From(journal, from) => read_here(group, journal, Some(*from)).await,
    }
}

/// `rpc::append`.
async fn append_here(group: &Arc<Group>, witness: &Witness, request: &v1::AppendRequest) -> Local {
    let prepared = match prepare(request) {
        Ok(prepared) => Arc::new(prepared),
        Err(refusal) => return Local::Done(refusal_outcome(&refusal)),
    };
    if let Err(refusal) = group.ensure_appendable(&prepared) {
        return Local::Done(refusal_outcome(&refusal));
    }
    let begun = Instant::now();
    Local::Done(match group.propose(prepared).await {
        Proposed::Done { outcome: Applied::Appended { entries, class, .. }, attestation } => {
            let class = if attestation.degraded { Class::City } else { class };
            if attestation.degraded {
                let is_new = |entry: &&EntryOutcome| matches!(entry, EntryOutcome::New { .. });
                witness.degraded(group, entries.iter().filter(is_new).count() as u64);
            }
            let told = Told { class, attestation, begun };
            receipts(group, witness, request, (&entries, &told)).await
        }
        Proposed::Done { outcome: Applied::Refused(refusal), .. } => refusal_outcome(&refusal),
        Proposed::Done { outcome, .. } => {
            witness.violated(format!("client: an append came to {outcome:?}"));
            unknown("an outcome of another kind")
        }
        Proposed::NotLeader(_) => return Local::NotLeader,
        Proposed::Refused(refusal) => refusal_outcome(&refusal),
        Proposed::Unknown(why) => unknown(why),
    })
}

/// What the gate said of a request that began then.
struct Told {
    class: Class,
    attestation: v1::Attestation,
    begun: Instant,
}

/// The receipts of a request that was held until it was placed as its class demands.
async fn receipts(
    group: &Arc<Group>,
    witness: &Witness,
    request: &v1::AppendRequest,
    (entries, told): (&[EntryOutcome], &Told),
) -> Outcome {
    let reader = Reader::new(group, &request.journal);
    let originals = match reader.replayed(entries, told.class, REQUEST_TIMEOUT).await {
        Ok(originals) => originals,
        Err(refusal) => return unknown(refusal.to_string()),
    };
    let mut receipts = Vec::with_capacity(entries.len());
    for (entry, outcome) in request.entries.iter().zip(entries) {
        let (seq, replayed) = match outcome {
            EntryOutcome::New { seq, .. } => (*seq, false),
            EntryOutcome::Replayed { seq } => (*seq, true),
        };
        // A new entry's receipt comes from applying it, a known one's from the log.
        let (class, (entry_hash, chain_hash, recorded_at_us)) = match outcome {
            EntryOutcome::New { entry_hash, chain_hash, recorded_at_us, .. } => {
                (told.class, (Hash32(*entry_hash), Hash32(*chain_hash), *recorded_at_us))
            }
            EntryOutcome::Replayed { seq } => {
                let original = match originals.get(*seq) {
                    Ok(original) => original,
                    Err(refusal) => return unknown(refusal.to_string()),
                };
                let first = Class::of_request(original.asked, group.class_of_journal(&request.journal));
                // What was acknowledged degraded is shown for ever, and is no `geo` for that.
                let is_geo = group.gate().placed().known.geo >= original.log_index;
                let reached = if first > told.class && is_geo { first } else { told.class };
                let hashes = (Hash32(original.entry_hash), Hash32(original.chain_hash));
                (reached, (hashes.0, hashes.1, original.recorded_at_us))
            }
        };
        match group.point_of(&request.journal, seq) {
            Some(point) => witness.acknowledged(group, point, class, &told.attestation, told.begun),
            None => witness.violated(format!("acknowledged: seq {seq} is not in the log of its leader")),
        }
        let key = entry.key.clone();
        receipts.push(ReceiptSeen {
            key,
            seq,
            entry_hash,
            chain_hash,
            recorded_at_us,
            replayed,
            attested: Some(attested(told.attestation.clone())),
        });
    }
    Outcome::Appended { receipts }
}

/// A hash of an answer; one that is not 32 bytes becomes zeros, which the checker cannot find in any log.
fn hash(bytes: &[u8]) -> Hash32 {
    Hash32::from_slice(bytes).unwrap_or(Hash32([0; 32]))
}

/// `rpc::read`.
async fn read_here(group: &Arc<Group>, journal: &str, from: Option<u64>) -> Local {
    let point = match group.linearizable_point(Some(journal), REQUEST_TIMEOUT).await {
        Ok(point) => point,
        Err(NoReadPoint::NotLeader(_)) => return Local::NotLeader,
        Err(NoReadPoint::Refused(refusal)) => return Local::Done(refusal_outcome(&refusal)),
    };
    let head = match group.state().ledger().head_at(journal, point.of(group.class_of_journal(journal))) {
        Ok(Some(head)) => head,
        Ok(None) => return Local::Done(refused(Reason::JournalNotFound, journal)),
        Err(error) => return Local::Done(refused(Reason::Internal, error.to_string())),
    };
    let Some(from) = from else {
        return Local::Done(Outcome::Head { seq: head.seq, chain_hash: Hash32(head.chain_hash) });
    };
    let reader = Reader::new(group, journal);
    let mut entries: Vec<EntrySeen> = Vec::new();
    let mut next = from.max(1);
    while next <= head.seq {
        match reader.chunk(next, head.seq) {
            Ok(chunk) => {
                next += chunk.len() as u64;
                entries.extend(
                    chunk
                        .iter()
                        .map(|stored| EntrySeen { seq: stored.seq, entry_hash: hash(&stored.entry_hash) }),
                );
            }
            Err(refusal) => return Local::Done(refused(refusal.reason, refusal.to_string())),
        }
    }
    Local::Done(Outcome::Entries { head: head.seq, entries })
}
