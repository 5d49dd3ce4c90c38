//! Append streams over the simulated network: TCP's behaviour under cuts, crashes and pauses.
//!
//! Invariants: messages of one stream arrive in order or not at all; answers leave in the order of the requests, several are
//! worked on at once, as the Peer service does it; a reset is heard only over a link that carries it.

use std::collections::VecDeque;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tercet_node::raft::network::transport::CarriedAnswers;
use tercet_proto::v1;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::{Instant, sleep_until};

use super::{Net, Target};
use crate::invariants::Witness;

/// Append requests of one stream that a node works on at once, as the Peer service does.
const APPENDS_AT_ONCE: usize = 64;
/// Of 1,000 streams that have met a cut, how many are reset when it heals.
const RESET_AFTER_CUT: u32 = 500;
/// Of 1,000 messages, at how many a stream is reset for no reason.
const RESET: u32 = 1;

type Answer = Result<v1::PeerAppendResponse, String>;

impl Net {
    /// Opens an append stream. Never completes if the opening is lost.
    pub fn open_stream(
        &self,
        from: u64,
        to: u64,
        requests: UnboundedReceiver<v1::PeerAppendRequest>,
        witness: Arc<Witness>,
    ) -> BoxFuture<'static, Result<CarriedAnswers, String>> {
        let net = self.clone();
        async move {
            let (answers, heard) = mpsc::unbounded_channel();
            let opened = {
                let net = net.clone();
                net.clone().ask(from, to, "opens a stream", move |target| {
                    let (inbox_tx, inbox) = mpsc::unbounded_channel();
                    let (outbox, outbox_rx) = mpsc::unbounded_channel();
                    let witness = witness.clone();
                    // Two pipes, one for each direction; they belong to the network.
                    tokio::spawn(pipe(net.clone(), to, from, outbox_rx, answers.clone()));
                    let scope = target.scope.clone();
                    scope.spawn(serve(net.clone(), target, to, inbox, outbox, witness));
                    std::future::ready(inbox_tx)
                })
            };
            let inbox = opened.await?;
            tokio::spawn(pipe(net, from, to, requests, inbox));
            Ok(heard)
        }
        .boxed()
    }
}

/// A message as the trace names it.
trait Named {
    fn name(&self) -> String;
}

impl Named for v1::PeerAppendRequest {
    fn name(&self) -> String {
        let last = self.entries.last().map_or(0, |entry| entry.index);
        let commit = self.committed.as_ref().map_or(0, |committed| committed.index);
        let term = self.vote.as_ref().map_or(0, |vote| vote.term);
        format!("append t{term} {}..{last} c{commit}", self.entries.len())
    }
}

impl Named for Answer {
    fn name(&self) -> String {
        use v1::peer_append_response::Result as Said;
        match self.as_ref().map(|answer| &answer.result) {
            Ok(Some(Said::Matched(matched))) => {
                format!("matched {}", matched.log_id.as_ref().map_or(0, |id| id.index))
            }
            Ok(Some(Said::Conflict(at))) => format!("conflict {}", at.index),
            Ok(Some(Said::HigherVote(vote))) => format!("higher vote t{}", vote.term),
            Ok(Some(Said::Fatal(why))) => format!("fatal {why}"),
            Ok(None) => "nothing".into(),
            Err(why) => format!("error {why}"),
        }
    }
}

/// Carries messages in order until the input ends, the output goes, or the connection is reset.
async fn pipe<T: Named>(
    net: Net,
    from: u64,
    to: u64,
    mut input: UnboundedReceiver<T>,
    output: UnboundedSender<T>,
) {
    let mut travelling: VecDeque<(Instant, T)> = VecDeque::new();
    let mut is_open = true;
    while is_open || !travelling.is_empty() {
        let first = travelling.front().map(|(at, _)| *at);
        tokio::select! {
            biased;
            message = input.recv(), if is_open => match message {
                Some(message) => {
                    let at = Instant::now() + net.delay(from, to);
                    let at = travelling.back().map_or(at, |(last, _)| at.max(*last));
                    travelling.push_back((at, message));
                }
                None => is_open = false,
            },
            () = sleep_until(first.unwrap_or_else(Instant::now)), if first.is_some() => {
                let Some((_, message)) = travelling.pop_front() else { continue };
                if !passes(&net, from, to).await {
                    net.trace().event(format_args!("{from}>{to} reset"));
                    return;
                }
                net.trace().event(format_args!("{from}>{to} {}", message.name()));
                if output.send(message).is_err() {
                    return;
                }
            }
            () = output.closed() => return,
        }
    }
}

/// Waits until the link carries the message; false: the stream is reset.
async fn passes(net: &Net, from: u64, to: u64) -> bool {
    if net.draw(RESET) {
        return false;
    }
    if !net.is_cut(from, to) {
        return true;
    }
    let mut healed = net.0.healed.subscribe();
    while net.is_cut(from, to) {
        if healed.changed().await.is_err() {
            return false;
        }
    }
    if net.draw(RESET_AFTER_CUT) {
        return false;
    }
    tokio::time::sleep(net.delay(from, to)).await;
    true
}

/// Answers a stream's requests, on the node.
async fn serve(
    net: Net,
    target: Target,
    node: u64,
    mut inbox: UnboundedReceiver<v1::PeerAppendRequest>,
    outbox: UnboundedSender<Answer>,
    witness: Arc<Witness>,
) {
    let mut in_work = FuturesOrdered::new();
    let mut is_open = true;
    while is_open || !in_work.is_empty() {
        let takes_more = in_work.len() < APPENDS_AT_ONCE;
        tokio::select! {
            biased;
            Some(answer) = in_work.next(), if !in_work.is_empty() => {
                let answer: Answer = answer;
                if let Ok(answer) = &answer {
                    witness.answered(node, answer);
                }
                if outbox.send(answer).is_err() {
                    return;
                }
            }
            request = inbox.recv(), if is_open && takes_more => match request {
                // As the Peer service: what is not in service ends the stream. A stream of its next life is another one.
                Some(_) if !net.target(node).is_some_and(|now| Arc::ptr_eq(&now.group, &target.group)) => {
                    is_open = false;
                }
                Some(request) => {
                    let group = target.group.clone();
                    in_work.push_back(async move {
                        group.handle_append(request).await.map_err(|error| error.to_string())
                    });
                }
                None => is_open = false,
            },
        }
    }
}
