//! The loop of attempts.

use std::time::{Duration, Instant};

use prost::Message;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::attempt::{self, Failure, Hint};
use super::backoff::Backoff;
use super::router::Prefer;
use super::{Client, ClientError, admin};
use crate::reason::Outcome;
use crate::refusal::Refusal;
use crate::v1;

/// How many times in a row a newly named leader is asked without a pause; two nodes that each name the other must not
/// make a busy loop.
const MAX_JUMPS: u32 = 3;
/// How long to wait for a topology, which only makes later calls faster.
const TOPOLOGY_LIMIT: Duration = Duration::from_secs(2);

/// What kind of call it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    journal: Option<&'a str>,
    prefer: Prefer,
    writes: bool,
    streams: bool,
}

impl<'a> Call<'a> {
    /// A call that may change something.
    pub(super) fn write(journal: Option<&'a str>) -> Self {
        Self { journal, prefer: Prefer::Leader, writes: true, streams: false }
    }

    /// A call that changes nothing.
    pub(super) fn read(journal: Option<&'a str>, prefer: Prefer) -> Self {
        Self { journal, prefer, writes: false, streams: false }
    }

    /// A call whose answer is a stream; the limit of an attempt is then that of its beginning.
    pub(super) fn streaming(self) -> Self {
        Self { streams: true, ..self }
    }
}

/// What is known of a call so far.
#[derive(Debug, Default)]
struct Account {
    attempts: u32,
    /// An attempt may have taken effect.
    lost: bool,
    last_refusal: Option<Refusal>,
    last_text: String,
}

impl Account {
    /// Takes a failed attempt in; returns how the call ends, if it ends with it.
    fn note(&mut self, endpoint: &str, failure: Failure, writes: bool) -> Option<ClientError> {
        self.last_text = format!("{endpoint}: {}", failure.text());
        match failure {
            Failure::NotSent(_) => {
                self.last_refusal = None;
                None
            }
            Failure::Lost(_) => {
                self.last_refusal = None;
                self.lost |= writes;
                None
            }
            Failure::Unexpected(..) if writes => Some(self.unknown()),
            Failure::Unexpected(code, message) => {
                Some(ClientError::Unexpected { endpoint: endpoint.to_owned(), code, message })
            }
            Failure::Refused(refusal, _) => {
                if writes && refusal.reason.outcome() == Outcome::Unknown {
                    self.lost = true;
                }
                if attempt::may_change(refusal.reason) {
                    self.last_refusal = Some(refusal);
                    return None;
                }
                if self.lost && !refusal.reason.settles_earlier_attempts() {
                    return Some(self.unknown());
                }
                Some(ClientError::Refused(refusal))
            }
        }
    }

    fn unknown(&self) -> ClientError {
        ClientError::Unknown { message: self.last_text.clone(), attempts: self.attempts }
    }

    /// How the call ends when there is no time left.
    fn exhausted(self) -> ClientError {
        if self.lost {
            return self.unknown();
        }
        match self.last_refusal {
            Some(refusal) => ClientError::Refused(refusal),
            None => ClientError::Unreachable { message: self.last_text, attempts: self.attempts },
        }
    }
}

impl Client {
    /// Makes attempts until one succeeds, one is refused for good, or the deadline has passed.
    pub(super) async fn run<Req, Resp, Fut>(
        &self,
        call: Call<'_>,
        request: Req,
        send: impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp, ClientError>
    where
        Req: Message + Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let deadline = Instant::now() + self.shared.options.deadline;
        self.run_until(call, request, deadline, send).await.map(|(response, _)| response)
    }

    /// [`Client::run`] with its own deadline; also returns the endpoint that answered.
    pub(super) async fn run_until<Req, Resp, Fut>(
        &self,
        call: Call<'_>,
        request: Req,
        deadline: Instant,
        send: impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<(Resp, String), ClientError>
    where
        Req: Message + Clone,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let options = &self.shared.options;
        let mut backoff = Backoff::new(options.backoff_min, options.backoff_max);
        let mut account = Account::default();
        let mut jumps = 0;
        loop {
            self.learn_topology(deadline).await;
            let now = Instant::now();
            let endpoint = self.shared.router.choose(call.journal, call.prefer, now);
            let limit = options.attempt_timeout.min(deadline.saturating_duration_since(now));
            account.attempts += 1;
            let failure = match self.attempt(call, &endpoint, request.clone(), limit, &send).await? {
                Ok(response) => return Ok((response, endpoint)),
                Err(failure) => failure,
            };
            let jump = self.route_after(call, &endpoint, &failure);
            tracing::debug!(%endpoint, attempt = account.attempts, failure = %failure.text(), "attempt failed");
            if let Some(error) = account.note(&endpoint, failure, call.writes) {
                return Err(error);
            }
            jumps = if jump { jumps + 1 } else { 0 };
            if jump && jumps <= MAX_JUMPS {
                continue;
            }
            let pause = backoff.pause(&mut rand::rng());
            if Instant::now() + pause >= deadline {
                return Err(account.exhausted());
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt at the endpoint that is best now.
    pub(super) async fn run_once<Req, Resp, Fut>(
        &self,
        call: Call<'_>,
        request: Req,
        limit: Duration,
        send: impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp, ClientError>
    where
        Req: Message,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let endpoint = self.shared.router.choose(call.journal, call.prefer, Instant::now());
        let failure = match self.attempt(call, &endpoint, request, limit, &send).await? {
            Ok(response) => return Ok(response),
            Err(failure) => failure,
        };
        self.route_after(call, &endpoint, &failure);
        let mut account = Account { attempts: 1, ..Account::default() };
        Err(account.note(&endpoint, failure, call.writes).unwrap_or_else(|| account.exhausted()))
    }

    /// One attempt at a given endpoint; says nothing about leaders.
    pub(super) async fn run_at<Req, Resp, Fut>(
        &self,
        endpoint: &str,
        request: Req,
        limit: Duration,
        send: impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<Resp, ClientError>
    where
        Req: Message,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let endpoint = super::router::checked(endpoint)?;
        let channel = self.shared.router.channel(&endpoint)?;
        match attempt::bounded(limit, send(channel, Request::new(request))).await {
            Ok((response, _)) => Ok(response),
            Err(failure) => {
                let mut account = Account { attempts: 1, ..Account::default() };
                Err(account.note(&endpoint, failure, false).unwrap_or_else(|| account.exhausted()))
            }
        }
    }

    /// Outer error: the endpoint cannot be used. Inner: what came of the attempt.
    async fn attempt<Req, Resp, Fut>(
        &self,
        call: Call<'_>,
        endpoint: &str,
        request: Req,
        limit: Duration,
        send: &impl Fn(Channel, Request<Req>) -> Fut,
    ) -> Result<Result<Resp, Failure>, ClientError>
    where
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let channel = self.shared.router.channel(endpoint)?;
        let mut request = Request::new(request);
        if !call.streams {
            // Lets the node give up on what nobody waits for.
            request.set_timeout(limit);
        }
        let router = &self.shared.router;
        let answered = tokio::select! {
            answered = attempt::bounded(limit, send(channel, request)) => answered,
            leader = self.led_elsewhere(endpoint), if call.prefer == Prefer::Leader => {
                router.failed(endpoint, Instant::now());
                router.led_by(call.journal, &leader);
                Err(Failure::Lost(format!("no answer, and {leader} leads now")))
            }
        };
        match answered {
            Ok((response, hint)) => {
                self.shared.router.answered(endpoint, call.journal, &hint, Instant::now());
                Ok(Ok(response))
            }
            Err(failure) => Ok(Err(failure)),
        }
    }

    /// Tells the router what happened; returns whether a leader was named that should be asked at once.
    fn route_after(&self, call: Call<'_>, endpoint: &str, failure: &Failure) -> bool {
        let router = &self.shared.router;
        let now = Instant::now();
        match failure {
            Failure::NotSent(_) | Failure::Lost(_) => {
                router.failed(endpoint, now);
                false
            }
            Failure::Refused(refusal, hint) => {
                if attempt::may_change(refusal.reason) {
                    router.pass_on(endpoint);
                }
                let jump = router.answered(endpoint, call.journal, hint, now);
                if attempt::rules_node_out(refusal.reason) {
                    // After `answered`, so that a stopping node that still names itself is not asked again.
                    router.failed(endpoint, now);
                }
                jump
            }
            Failure::Unexpected(..) => {
                router.answered(endpoint, call.journal, &Hint::default(), now);
                false
            }
        }
    }

    /// Asks for the topology if it is not known yet, so that nodes beyond the given endpoints can be asked later.
    async fn learn_topology(&self, deadline: Instant) {
        let router = &self.shared.router;
        let now = Instant::now();
        if !router.topology_due(now) {
            return;
        }
        let endpoint = router.choose(None, Prefer::Any, now);
        let Ok(channel) = router.channel(&endpoint) else { return };
        let limit = TOPOLOGY_LIMIT.min(deadline.saturating_duration_since(now));
        let mut client = admin(channel);
        let asking = client.get_topology(Request::new(v1::GetTopologyRequest {}));
        match attempt::bounded(limit, asking).await {
            Ok((topology, _)) => router.learned(&topology),
            Err(Failure::NotSent(_)) => {
                router.failed(&endpoint, Instant::now());
                router.not_learned();
            }
            // A server without Admin has nothing to teach.
            Err(Failure::Unexpected(..)) => router.learned(&v1::TopologyInfo::default()),
            // Asked again after a while.
            Err(Failure::Refused(..) | Failure::Lost(_)) => {}
        }
    }

    pub(super) fn endpoint_failed(&self, endpoint: &str) {
        self.shared.router.failed(endpoint, Instant::now());
    }
}
