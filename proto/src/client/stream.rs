//! Entries as one stream over as many calls as it takes.
//!
//! Invariant: the seqs that come out are consecutive from the first one on. A call that breaks off is followed by another one
//! that begins at the next seq, at another node if need be; an answer with a gap ends the stream with an error.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures::Stream;
use tonic::{Code, Streaming};

use super::attempt::{self, Failure};
use super::backoff::Backoff;
use super::router::Prefer;
use super::run::Call;
use super::{Client, ClientError, ledger};
use crate::v1;

/// Entries in order of seq, each once.
pub type EntryStream = Pin<Box<dyn Stream<Item = Result<v1::StoredEntry, ClientError>> + Send>>;

/// A call that held for so long was a success: the time for finding another one begins anew.
const STEADY: Duration = Duration::from_secs(1);

pub(super) fn read(client: Client, request: v1::ReadRequest) -> EntryStream {
    let consistency = request.consistency();
    let next_seq = request.from_seq.max(1);
    stream(Follower::new(
        client,
        request.journal,
        Mode::Read { to_seq: request.to_seq, consistency },
        next_seq,
    ))
}

pub(super) fn tail(client: Client, request: v1::TailRequest) -> EntryStream {
    // 0 is resolved when the stream is first polled.
    stream(Follower::new(client, request.journal, Mode::Tail, request.from_seq))
}

fn stream(follower: Follower) -> EntryStream {
    Box::pin(futures::stream::try_unfold(follower, |mut follower| async move {
        Ok(follower.next().await?.map(|entry| (entry, follower)))
    }))
}

#[derive(Debug, Clone, Copy)]
enum Mode {
    /// `to_seq` 0: not known yet.
    Read {
        to_seq: u64,
        consistency: v1::Consistency,
    },
    Tail,
}

struct Follower {
    client: Client,
    journal: String,
    mode: Mode,
    next_seq: u64,
    waiting: VecDeque<v1::StoredEntry>,
    open: Option<Open>,
    backoff: Backoff,
    /// Since when nothing has come; none while all is well.
    failing_since: Option<Instant>,
}

struct Open {
    messages: Streaming<v1::ReadResponse>,
    endpoint: String,
    since: Instant,
}

/// What one message, or its absence, led to.
enum Step {
    GoOn,
    End,
}

impl Follower {
    fn new(client: Client, journal: String, mode: Mode, next_seq: u64) -> Self {
        let options = &client.shared.options;
        let backoff = Backoff::new(options.backoff_min, options.backoff_max);
        Self {
            client,
            journal,
            mode,
            next_seq,
            waiting: VecDeque::new(),
            open: None,
            backoff,
            failing_since: None,
        }
    }

    async fn next(&mut self) -> Result<Option<v1::StoredEntry>, ClientError> {
        loop {
            if let Some(entry) = self.waiting.pop_front() {
                return Ok(Some(entry));
            }
            if let Mode::Read { to_seq, .. } = self.mode
                && to_seq != 0
                && self.next_seq > to_seq
            {
                return Ok(None);
            }
            match self.step().await? {
                Step::GoOn => {}
                Step::End => return Ok(None),
            }
        }
    }

    async fn step(&mut self) -> Result<Step, ClientError> {
        let mut open = match self.open.take() {
            Some(open) => open,
            None => self.open_call().await?,
        };
        let received = match self.mode {
            // A quiet journal is not a failure; the connection's keep-alive notices a node that is gone.
            Mode::Tail => open.messages.message().await,
            Mode::Read { .. } => {
                let limit = self.client.shared.options.attempt_timeout;
                match tokio::time::timeout(limit, open.messages.message()).await {
                    Ok(received) => received,
                    Err(_) => {
                        let text = format!("nothing came for {} ms", limit.as_millis());
                        return self.broken(&open, Failure::Lost(text)).await;
                    }
                }
            }
        };
        match received {
            Ok(Some(message)) => {
                self.accept(message, &open.endpoint)?;
                self.open = Some(open);
                Ok(Step::GoOn)
            }
            Ok(None) => match self.mode {
                Mode::Read { .. } => Ok(Step::End),
                Mode::Tail => self.broken(&open, Failure::Lost("the node ended the stream".to_owned())).await,
            },
            Err(status) => self.broken(&open, attempt::classify(&status)).await,
        }
    }

    fn accept(&mut self, message: v1::ReadResponse, endpoint: &str) -> Result<(), ClientError> {
        self.failing_since = None;
        self.backoff.reset();
        if let Mode::Read { to_seq, .. } = &mut self.mode
            && *to_seq == 0
        {
            *to_seq = message.head_seq;
        }
        for entry in message.entries {
            if entry.seq != self.next_seq {
                return Err(ClientError::Unexpected {
                    endpoint: endpoint.to_owned(),
                    code: Code::DataLoss,
                    message: format!("sent seq {} where {} was due", entry.seq, self.next_seq),
                });
            }
            self.next_seq += 1;
            self.waiting.push_back(entry);
        }
        Ok(())
    }

    /// Opens a call at the next seq; repeats by itself until the time is up.
    async fn open_call(&mut self) -> Result<Open, ClientError> {
        let since = self.failing_since.unwrap_or_else(Instant::now);
        let deadline = since + self.client.shared.options.deadline;
        let journal = self.journal.clone();
        let (messages, endpoint) = match self.mode {
            Mode::Read { to_seq, consistency } => {
                let call = Call::read(Some(&journal), Prefer::for_consistency(consistency)).streaming();
                let request = v1::ReadRequest {
                    journal: journal.clone(),
                    from_seq: self.next_seq,
                    to_seq,
                    consistency: consistency.into(),
                };
                let send = |channel, request| async move { ledger(channel).read(request).await };
                self.client.run_until(call, request, deadline, send).await?
            }
            Mode::Tail => {
                if self.next_seq == 0 {
                    self.next_seq = self.after_head().await?;
                }
                let call = Call::read(Some(&journal), Prefer::Leader).streaming();
                let request = v1::TailRequest { journal: journal.clone(), from_seq: self.next_seq };
                let send = |channel, request| async move { ledger(channel).tail(request).await };
                self.client.run_until(call, request, deadline, send).await?
            }
        };
        Ok(Open { messages, endpoint, since: Instant::now() })
    }

    /// The first seq after the present head, asked for once: were it left to the node, entries that are appended while a
    /// broken call is opened again would be skipped.
    async fn after_head(&self) -> Result<u64, ClientError> {
        let journal = self.client.get_journal(&self.journal, v1::Consistency::Linearizable).await?;
        Ok(journal.head.map_or(0, |head| head.seq) + 1)
    }

    /// The call broke off: pause and go on, unless it is refused for good or the time is up.
    async fn broken(&mut self, open: &Open, failure: Failure) -> Result<Step, ClientError> {
        let now = Instant::now();
        if self.failing_since.is_none() || now.duration_since(open.since) >= STEADY {
            self.failing_since = Some(now);
        }
        let text = format!("{}: {}", open.endpoint, failure.text());
        match failure {
            Failure::Refused(refusal, _) if !attempt::may_change(refusal.reason) => {
                return Err(ClientError::Refused(refusal));
            }
            Failure::Unexpected(code, message) => {
                return Err(ClientError::Unexpected { endpoint: open.endpoint.clone(), code, message });
            }
            Failure::Refused(..) | Failure::NotSent(_) | Failure::Lost(_) => {
                self.client.endpoint_failed(&open.endpoint);
            }
        }
        let since = self.failing_since.unwrap_or(now);
        let pause = self.backoff.pause(&mut rand::rng());
        if now + pause >= since + self.client.shared.options.deadline {
            return Err(ClientError::Unreachable { message: text, attempts: 1 });
        }
        tracing::debug!(next_seq = self.next_seq, failure = %text, "stream of entries is opened again");
        tokio::time::sleep(pause).await;
        Ok(Step::GoOn)
    }
}
