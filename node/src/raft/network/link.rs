//! The append stream to one follower: one long-lived bidirectional gRPC stream, opened when it is needed.
//!
//! Invariants: requests leave in the order of `send`; the n-th answer belongs to the n-th request of the stream; a stream that
//! breaks, falls silent under a request, or is abandoned with answers outstanding is closed, and the next `send` opens
//! another one. No task of its own: whoever sends also waits for the answers.

use std::time::Duration;

use tercet_proto::v1;
use tokio::sync::mpsc;

use super::transport::{Answers, Way};

/// Why a request was not answered; it may have been carried out.
#[derive(Debug, Clone)]
pub enum LinkError {
    /// No stream could be opened.
    Unreachable(String),
    /// The stream ended or fell silent under the request.
    Broken(String),
}

struct Open {
    requests: mpsc::UnboundedSender<v1::PeerAppendRequest>,
    answers: Answers,
}

/// The stream, open or not.
pub struct AppendLink {
    way: Way,
    silence: Duration,
    open: Option<Open>,
    unanswered: usize,
}

impl AppendLink {
    /// A link that goes this way; a stream that leaves a request unanswered for `silence` is given up.
    #[must_use]
    pub fn new(way: Way, silence: Duration) -> Self {
        Self { way, silence, open: None, unanswered: 0 }
    }

    /// Requests without an answer yet.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Gives up the stream if answers are outstanding: they would be taken for those of later requests.
    pub fn begin(&mut self) {
        if self.unanswered > 0 {
            self.close();
        }
    }

    fn close(&mut self) {
        self.open = None;
        self.unanswered = 0;
    }

    /// Sends a request, on a new stream if there is none. The caller bounds how many are unanswered.
    ///
    /// # Errors
    /// No stream can be opened, or it has ended under earlier requests.
    pub async fn send(&mut self, request: v1::PeerAppendRequest) -> Result<(), LinkError> {
        let request = match &self.open {
            Some(open) => match open.requests.send(request) {
                Ok(()) => {
                    self.unanswered += 1;
                    return Ok(());
                }
                Err(_) if self.unanswered > 0 => {
                    self.close();
                    return Err(LinkError::Broken("the stream has ended".into()));
                }
                Err(mpsc::error::SendError(request)) => request,
            },
            None => request,
        };
        self.reopen(request).await
    }

    async fn reopen(&mut self, first: v1::PeerAppendRequest) -> Result<(), LinkError> {
        self.close();
        let (requests, outgoing) = mpsc::unbounded_channel();
        // It waits in the channel until the stream is open; the receiver is below.
        let _ = requests.send(first);
        let opening = self.way.open(outgoing);
        let answers = tokio::time::timeout(self.silence, opening)
            .await
            .map_err(|_| LinkError::Unreachable("no answer to a new stream".into()))?
            .map_err(LinkError::Unreachable)?;
        self.open = Some(Open { requests, answers });
        self.unanswered = 1;
        Ok(())
    }

    /// The next answer. Waits for ever while nothing is unanswered. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The stream has ended or fallen silent under a request; it is closed then.
    pub async fn answer(&mut self) -> Result<v1::PeerAppendResponse, LinkError> {
        loop {
            let Some(open) = &mut self.open else { return std::future::pending().await };
            let ended = if self.unanswered == 0 {
                // Only to hear of its end.
                open.answers.message().await
            } else {
                match tokio::time::timeout(self.silence, open.answers.message()).await {
                    Ok(ended) => ended,
                    Err(_) => Err(format!("silent for {} ms", self.silence.as_millis())),
                }
            };
            let why = match ended {
                Ok(Some(answer)) if self.unanswered > 0 => {
                    self.unanswered -= 1;
                    return Ok(answer);
                }
                Ok(Some(_)) => "an answer to nothing".to_owned(),
                Ok(None) => "the peer closed the stream".to_owned(),
                Err(why) => why,
            };
            let was_idle = self.unanswered == 0;
            self.close();
            if !was_idle {
                return Err(LinkError::Broken(why));
            }
        }
    }
}
