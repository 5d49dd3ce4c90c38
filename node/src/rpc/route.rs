//! Finds the node that can answer: this one if it leads, else the leader, one hop.
//!
//! Invariants: a request is worked on until its deadline and no longer, and while there is no hope for a leader not even so long; an
//! attempt that may have been proposed is never reported as failed, and one that never left this node never as unknown; a request is
//! forwarded twice at most.

use std::future::Future;
use std::time::Duration;

use tercet_proto::client::never_sent;
use tercet_proto::reason::{Outcome, Reason};
use tercet_proto::refusal::Refusal;
use tercet_proto::v1::ledger_client::LedgerClient;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use super::{HOPS, refuse};
use crate::node::Node;
use crate::raft::group::Group;

/// How long a node works on one request before it says that it does not know.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A request passes the leader of group 0 at most, then the leader of its journal's group.
const HOPS_MAX: u32 = 2;
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// What a local attempt came to.
pub enum Local<T> {
    /// Answered.
    Done(T),
    /// Refused, definitely or as unknown.
    Refused(Refusal),
    /// This node does not lead; nothing was proposed.
    NotLeader,
}

/// What happens to the log when a request of this kind is carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing: an attempt without an answer has failed.
    Reads,
    /// It may be proposed: an attempt without an answer is unknown. Repeating it is safe, its keys make it so.
    Writes,
}

/// A request on its way to the leader.
pub fn forwarded<T>(message: T, hops: u32) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(HOPS, tonic::metadata::MetadataValue::from(hops.saturating_add(1)));
    request
}

/// Whether a status came from the transport and not from the leader's service.
fn is_transport(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded)
        && Refusal::from_status(status).is_none()
}

fn try_elsewhere(status: &Status) -> bool {
    is_transport(status)
        || Refusal::from_status(status).is_some_and(|refusal| {
            matches!(refusal.reason, Reason::NoLeader | Reason::Recovering | Reason::ShuttingDown)
        })
}

/// Whether the attempt that ended so may have changed something.
fn maybe_carried_out(effect: Effect, status: &Status) -> bool {
    effect == Effect::Writes && is_transport(status) && !never_sent(status)
}

/// What the leader's last word means for the caller. A status without a reason was not made by its service: what it did, nobody knows.
fn last_word(effect: Effect, status: Status, maybe_proposed: bool) -> Status {
    match Refusal::from_status(&status) {
        Some(refusal) if maybe_proposed => refuse(settled(refusal, true)),
        Some(_) => status,
        // A reason that this version does not know.
        None if !status.details().is_empty() && !maybe_proposed => status,
        None => {
            let why = format!("the leader's answer cannot be understood: {}", status.message());
            let reason = if effect == Effect::Writes { Reason::OutcomeUnknown } else { Reason::Internal };
            refuse(Refusal::new(reason, "", why))
        }
    }
}

/// What is said of a request whose last attempt was refused: where an earlier one may have been proposed, only a refusal that
/// holds for that one, too, is definite.
fn settled(refusal: Refusal, maybe_proposed: bool) -> Refusal {
    if !maybe_proposed
        || refusal.reason.outcome() == Outcome::Unknown
        || refusal.reason.settles_earlier_attempts()
    {
        return refusal;
    }
    let why = format!(
        "an earlier attempt may have been carried out, the last one was refused ({refusal}): send it again with the same keys"
    );
    Refusal::new(Reason::OutcomeUnknown, "", why)
}

/// Answers `message` here if this node leads `group`, else through the leader.
///
/// # Errors
/// The refusal of whoever worked on it; NO_LEADER or OUTCOME_UNKNOWN at the deadline.
pub async fn route<M, T, L, LF, F, FF>(
    node: &Node,
    group: &Group,
    hops: u32,
    effect: Effect,
    message: &M,
    local: L,
    forward: F,
) -> Result<T, Status>
where
    M: Clone,
    L: Fn() -> LF,
    LF: Future<Output = Local<T>>,
    F: Fn(LedgerClient<Channel>, Request<M>) -> FF,
    FF: Future<Output = Result<Response<T>, Status>>,
{
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut maybe_proposed = false;
    let mut last_seen = String::from("no leader is known");
    while Instant::now() < deadline {
        let own = node.identity.node_id();
        let leader = group.last_leader();
        let hopeless = !maybe_proposed && group.is_leaderless();
        if hopeless && !may_answer(group, leader).await {
            if group.is_removed() {
                return Err(refuse(not_a_member(group)));
            }
            last_seen = format!("no leader has been heard of for {} s", group.out_of_contact().as_secs());
            break;
        }
        match leader {
            Some(leader) if leader == own => match timeout_at(deadline, local()).await {
                Ok(Local::Done(done)) => return Ok(done),
                Ok(Local::Refused(refusal)) => return Err(refuse(settled(refusal, maybe_proposed))),
                Ok(Local::NotLeader) => last_seen = "leadership has just moved".into(),
                Err(_) => maybe_proposed = effect == Effect::Writes,
            },
            Some(leader) if hops < HOPS_MAX => {
                let client = node.peers.ledger(leader).map_err(|e| internal(&e))?;
                // Boxed: most requests are answered here, and each of them would carry the room for this one.
                let sent = Box::pin(forward(client, forwarded(message.clone(), hops)));
                let answered = tokio::select! {
                    answered = timeout_at(deadline, sent) => answered,
                    // Whoever waits for a leader behind a silent network would wait long.
                    () = group.led_by_another(leader) => {
                        maybe_proposed |= effect == Effect::Writes;
                        last_seen = format!("node {} does not lead any more", node.name_of(leader));
                        continue;
                    }
                };
                match answered {
                    Ok(Ok(response)) => return Ok(response.into_inner()),
                    Ok(Err(status)) if try_elsewhere(&status) => {
                        maybe_proposed |= maybe_carried_out(effect, &status);
                        last_seen =
                            format!("node {} does not answer: {}", node.name_of(leader), status.message());
                    }
                    Ok(Err(status)) => return Err(last_word(effect, status, maybe_proposed)),
                    Err(_) => maybe_proposed |= effect == Effect::Writes,
                }
            }
            // The node that forwarded it knows better by now.
            Some(_) => break,
            None if group.is_removed() && !maybe_proposed => return Err(refuse(not_a_member(group))),
            None => {}
        }
        if hopeless && !maybe_proposed {
            break;
        }
        sleep_until(deadline.min(Instant::now() + RETRY_PAUSE)).await;
    }
    Err(refuse(if maybe_proposed {
        Refusal::new(
            Reason::OutcomeUnknown,
            "",
            format!(
                "no answer in time ({last_seen}); it may have been carried out: send it again with the same keys"
            ),
        )
    } else {
        Refusal::new(Reason::NoLeader, "", format!("{last_seen}; nothing was carried out"))
    }))
}

/// What a node says of a group that it was removed from: it would know of nothing new for ever.
pub(super) fn not_a_member(group: &Group) -> Refusal {
    let why = format!("this node was removed from group {}: ask another one", group.id());
    Refusal::new(Reason::NotAMember, "", why)
}

/// Whether it is worth asking a leader that has not been heard of for long.
async fn may_answer(group: &Group, leader: Option<u64>) -> bool {
    match leader {
        Some(leader) => group.answers(leader).await,
        None => false,
    }
}

fn internal(error: &impl std::fmt::Display) -> Status {
    refuse(Refusal::new(Reason::Internal, "", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_after_an_attempt_that_may_have_been_proposed_is_definite_only_if_it_holds_for_both() {
        let said = |reason, maybe_proposed| settled(Refusal::new(reason, "", "why"), maybe_proposed).reason;
        for reason in [Reason::PlacementUnreachable, Reason::DiskFull, Reason::Overloaded, Reason::NoLeader] {
            assert_eq!(said(reason, false), reason);
            assert_eq!(said(reason, true), Reason::OutcomeUnknown, "{reason}");
        }
        for reason in [Reason::KeyConflict, Reason::Unbalanced, Reason::OutcomeUnknown] {
            assert_eq!(said(reason, true), reason);
        }
    }
}
