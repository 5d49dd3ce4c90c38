//! Asking the voters what their logs hold, and answering them.
//!
//! Invariants: every node of the topology is asked, since any of them may vote by now and knows best who does; a node that does
//! not answer in time counts as not heard; the answers to
//! a request about a leader's log come from one look at it, between two looks at who leads.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use futures::future::join_all;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::v1;
use tercet_storage::{self as storage, LogPoint, LogRecord};

use super::WANTED_AT_ONCE;
use super::host::Host;
use super::judge::{Answer, Held};
use crate::placement::Electorate;
use crate::raft::codec::decode_vote;
use crate::raft::electorate;

/// How long a voter may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of entries in one answer; at least one entry is given.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// One entry that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) index: u64,
    /// None: whatever is there.
    pub(super) term: Option<u64>,
}

/// What the other nodes answered.
pub(super) struct Survey {
    answers: BTreeMap<u64, v1::FetchRecordsResponse>,
    voters: Electorate,
    own: u64,
}

fn request(
    node: &impl Host,
    to: u64,
    group: u32,
    wanted: &[Wanted],
    vouched_by: Option<LogPoint>,
) -> v1::FetchRecordsRequest {
    let wanted = wanted.iter().map(|wanted| v1::WantedRecord { index: wanted.index, term: wanted.term });
    v1::FetchRecordsRequest {
        header: Some(node.params().peers.header(to, group)),
        wanted: wanted.collect(),
        vouched_by: vouched_by.map(|point| v1::PeerLogId { term: point.term, index: point.index }),
    }
}

async fn ask(
    node: &impl Host,
    to: u64,
    request: v1::FetchRecordsRequest,
) -> Option<v1::FetchRecordsResponse> {
    match tokio::time::timeout(PATIENCE, node.params().peers.fetch_records(to, request)).await {
        Ok(Ok(response)) => Some(response),
        Ok(Err(why)) => {
            tracing::debug!(peer = to, why, "records not fetched");
            None
        }
        Err(_) => None,
    }
}

fn record_of(fetched: &v1::FetchedRecord) -> Option<LogRecord> {
    let entry = fetched.entry.as_ref()?;
    let tag = u8::try_from(entry.tag).ok()?;
    Some(LogRecord {
        index: entry.index,
        term: entry.term,
        leader: fetched.leader,
        tag,
        payload: entry.payload.clone(),
    })
}

impl Survey {
    /// Asks every other node.
    pub(super) async fn of(
        node: &impl Host,
        group: u32,
        wanted: &[Wanted],
        vouched_by: Option<LogPoint>,
    ) -> Self {
        let own = node.params().node_id;
        let others = node.params().known.iter().map(|place| place.node_id).filter(|other| *other != own);
        let answers = join_all(others.map(|other| async move {
            let request = request(node, other, group, wanted, vouched_by);
            ask(node, other, request).await.map(|answer| (other, answer))
        }));
        let answers: BTreeMap<_, _> = answers.await.into_iter().flatten().collect();
        let told = answers.values().map(|answer| electorate::from_wire(answer.members.as_ref()));
        // A group whose members nobody knows has not got beyond its first ones.
        let first = Electorate::first(node.params().voters.iter().map(|voter| voter.node_id));
        let voters = told.fold(node.electorate(group).newest(first), Electorate::newest);
        Self { answers, voters, own }
    }

    /// Whose majorities count, by whoever knows best.
    pub(super) const fn voters(&self) -> &Electorate {
        &self.voters
    }

    /// The intact entries of one node's log, up to the first that it has not. None: it does not answer.
    pub(super) async fn of_one(
        node: &impl Host,
        group: u32,
        from: u64,
        wanted: &[Wanted],
    ) -> Option<Vec<LogRecord>> {
        let answer = ask(node, from, request(node, from, group, wanted, None)).await?;
        let records = answer.records.iter().zip(wanted);
        Some(
            records
                .map_while(|(fetched, wanted)| {
                    record_of(fetched).filter(|record| {
                        record.index == wanted.index && wanted.term.is_none_or(|term| term == record.term)
                    })
                })
                .collect(),
        )
    }

    /// Whether every other voter answered.
    pub(super) fn all_answered(&self) -> bool {
        self.voters
            .everybody()
            .into_iter()
            .all(|voter| voter == self.own || self.answers.contains_key(&voter))
    }

    /// What each node said about the `at`-th wanted entry.
    pub(super) fn answers_about(&self, at: usize) -> Vec<Answer> {
        let about = |(node, answer): (&u64, &v1::FetchRecordsResponse)| {
            let fetched = answer.records.get(at)?;
            let held = match fetched.held() {
                v1::fetched_record::Held::Intact => record_of(fetched).map_or(Held::Unknown, Held::Intact),
                v1::fetched_record::Held::Absent => Held::Absent,
                _ => Held::Unknown,
            };
            Some(Answer {
                node: *node,
                held,
                vote_term: answer.vote_term,
                leads_term: answer.leads_term,
                vouched: answer.vouched,
            })
        };
        self.answers.iter().filter_map(about).collect()
    }

    /// A leader of a term not below `term`, and the last index of its log.
    pub(super) fn leader(&self, term: u64) -> Option<(u64, u64)> {
        let leads = |answer: &&v1::FetchRecordsResponse| answer.leads_term > 0 && answer.leads_term >= term;
        let leading = self.answers.iter().filter(|(_, answer)| leads(answer) && !answer.damaged);
        let (node, answer) = leading.max_by_key(|(_, answer)| answer.leads_term)?;
        Some((*node, answer.last.as_ref().map_or(0, |last| last.index)))
    }

    /// The highest term in which an answering node has voted.
    pub(super) fn highest_vote_term(&self) -> u64 {
        self.answers.values().map(|answer| answer.vote_term.max(answer.leads_term)).max().unwrap_or(0)
    }
}

impl fmt::Display for Survey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let others: Vec<u64> =
            self.voters.everybody().into_iter().filter(|voter| *voter != self.own).collect();
        let heard = others.iter().filter(|voter| self.answers.contains_key(voter)).map(u64::to_string);
        let heard: Vec<String> = heard.collect();
        write!(f, "{} of {} other voters answer: {}", heard.len(), others.len(), heard.join(", "))
    }
}

/// What this node's log holds of what a peer has lost.
///
/// # Errors
/// GROUP_NOT_FOUND, more wanted than [`WANTED_AT_ONCE`], or the log cannot be read.
pub fn answer(
    node: &impl Host,
    request: &v1::FetchRecordsRequest,
) -> Result<v1::FetchRecordsResponse, Refusal> {
    let group = request.header.as_ref().map_or(0, |header| header.group);
    if group >= node.groups().count() {
        let why = format!("there is no group {group}; this cluster has {}", node.groups().count());
        return Err(Refusal::new(Reason::GroupNotFound, "header.group", why));
    }
    if request.wanted.len() > WANTED_AT_ONCE {
        let why = format!("{} are more than {WANTED_AT_ONCE}", request.wanted.len());
        return Err(Refusal::new(Reason::RequestMalformed, "wanted", why));
    }
    let log = &node.params().log;
    let leads_before = leads_term(node, group);
    let mut records = Vec::with_capacity(request.wanted.len());
    let mut bytes = 0;
    for wanted in &request.wanted {
        let held = log.held(group, wanted.index, wanted.term);
        let held = held.map_err(|error| Refusal::new(Reason::StorageFailed, "", error.to_string()))?;
        let record = fetched(held);
        bytes += record.entry.as_ref().map_or(0, |entry| entry.payload.len());
        if bytes > ANSWER_BYTES_MAX && !records.is_empty() {
            break;
        }
        records.push(record);
    }
    let vouched = request.vouched_by.as_ref().is_some_and(|point| {
        log.point(group, point.index) == Some(LogPoint { term: point.term, index: point.index })
    });
    let damaged = log.is_damaged(group);
    let state = log.state(group);
    let leads_after = leads_term(node, group);
    let vote = state.vote.and_then(|bytes| decode_vote(&bytes).ok());
    Ok(v1::FetchRecordsResponse {
        header: request.header.as_ref().map(|header| node.params().peers.header(header.from_node, group)),
        records,
        vote_term: vote.map_or(0, |vote| vote.leader_id.term),
        leads_term: if leads_before == leads_after { leads_after } else { 0 },
        last: state
            .last
            .filter(|_| !damaged)
            .map(|point| v1::PeerLogId { term: point.term, index: point.index }),
        vouched,
        damaged,
        members: electorate::to_wire(&node.electorate(group)),
    })
}

fn fetched(held: storage::Held) -> v1::FetchedRecord {
    use v1::fetched_record::Held;
    let only = |held: Held| v1::FetchedRecord { held: held.into(), ..Default::default() };
    match held {
        storage::Held::Intact(record) => v1::FetchedRecord {
            held: Held::Intact.into(),
            leader: record.leader,
            entry: Some(v1::PeerLogEntry {
                term: record.term,
                index: record.index,
                tag: record.tag.into(),
                payload: record.payload,
            }),
        },
        storage::Held::Absent => only(Held::Absent),
        storage::Held::Faulty => only(Held::Faulty),
        storage::Held::Purged => only(Held::Purged),
    }
}

/// The term that this node leads now; 0: none.
fn leads_term(node: &impl Host, group: u32) -> u64 {
    node.groups().get(group).ok().and_then(|running| running.leading_term()).unwrap_or(0)
}
