//! The Rust client: follows the leader, repeats the same request until it knows the outcome, and never shows its caller a
//! leader change.
//!
//! Invariants:
//! - A request is repeated unchanged, with the same keys, so that repeating is always safe (G3).
//! - [`ClientError::Refused`] means that the request has had no effect and will have none; whatever cannot be known is
//!   [`ClientError::Unknown`], never "failed" (G12). An attempt whose outcome was lost stays in the account: a refusal of a
//!   later attempt settles it only where the first one would have been refused for the same reason.
//! - A definite refusal is not repeated, except for those that say "later" (NO_LEADER, OVERLOADED ...).
//! - A stream of entries has no gap and no repetition, however often it had to be opened again.
//!
//! Where requests go: to the leader, as far as answers have named one (`tercet-leader-id`, `tercet-leader`), else to the
//! endpoints in turn. An endpoint that failed rests for half a second, so a leader that is dead but still named by
//! followers costs one attempt and not every second one: followers forward. While an answer is late, the other nodes are asked
//! who leads, so that a leader behind a silent network is left as soon as there is another.

mod appender;
mod attempt;
mod backoff;
mod error;
mod lookout;
mod options;
mod router;
mod run;
mod stream;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;

pub use appender::Appender;
pub use attempt::never_sent;
pub use error::ClientError;
pub use options::ClientOptions;
pub use stream::EntryStream;

use crate::limits::{MAX_BALANCE_PAGE, MAX_JOURNAL_PAGE, MAX_MESSAGE_BYTES};
use crate::v1;
use crate::v1::admin_client::AdminClient;
use crate::v1::ledger_client::LedgerClient;
use lookout::Lookout;
use router::{Prefer, Router};
use run::Call;

/// Response metadata: the node id of the leader of the group that was asked about.
pub const LEADER_ID_METADATA: &str = "tercet-leader-id";
/// Response metadata: that leader's client address, `host:port`.
pub const LEADER_METADATA: &str = "tercet-leader";

/// A handle to a cluster; clones share connections and what was learned of the leaders. Needs a tokio runtime.
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    options: ClientOptions,
    router: Router,
    lookout: Lookout,
}

impl Client {
    /// A client of the cluster that these endpoints (`host:port` or `http://host:port`) belong to. Opens no connection yet:
    /// an endpoint that is not reachable shows with the first call.
    pub fn connect(endpoints: Vec<String>, options: ClientOptions) -> Result<Self, ClientError> {
        let router = Router::new(endpoints, &options)?;
        Ok(Self { shared: Arc::new(Shared { options, router, lookout: Lookout::default() }) })
    }

    /// Makes a journal; returns the one that exists if it has the same settings.
    pub async fn create_journal(
        &self,
        request: v1::CreateJournalRequest,
    ) -> Result<v1::Journal, ClientError> {
        let call = Call::write(None);
        self.run(
            call,
            request,
            |channel, request| async move { ledger(channel).create_journal(request).await },
        )
        .await
    }

    /// One journal and its head.
    pub async fn get_journal(
        &self,
        name: &str,
        consistency: v1::Consistency,
    ) -> Result<v1::Journal, ClientError> {
        let request = v1::GetJournalRequest { name: name.to_owned(), consistency: consistency.into() };
        let call = Call::read(Some(name), Prefer::for_consistency(consistency));
        self.run(call, request, |channel, request| async move { ledger(channel).get_journal(request).await })
            .await
    }

    /// Every journal, by name.
    pub async fn list_journals(&self, consistency: v1::Consistency) -> Result<Vec<v1::Journal>, ClientError> {
        let mut journals = Vec::new();
        let mut page_token = String::new();
        loop {
            let request = v1::ListJournalsRequest {
                page_size: MAX_JOURNAL_PAGE,
                page_token,
                consistency: consistency.into(),
            };
            let call = Call::read(None, Prefer::for_consistency(consistency));
            let page =
                self.run(call, request, |channel, request| async move {
                    ledger(channel).list_journals(request).await
                })
                .await?;
            journals.extend(page.journals);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                return Ok(journals);
            }
        }
    }

    /// Appends, repeating the same request until its outcome is known or the deadline has passed.
    pub async fn append(&self, request: v1::AppendRequest) -> Result<v1::AppendResponse, ClientError> {
        let journal = request.journal.clone();
        let call = Call::write(Some(&journal));
        self.run(call, request, |channel, request| async move { ledger(channel).append(request).await }).await
    }

    /// One attempt at one endpoint, for workloads that keep account of every attempt.
    ///
    /// [`ClientError::Refused`] and [`ClientError::Unreachable`] (nothing was sent) are definite; everything else that
    /// can go wrong is [`ClientError::Unknown`].
    pub async fn append_once(
        &self,
        request: &v1::AppendRequest,
        timeout: Duration,
    ) -> Result<v1::AppendResponse, ClientError> {
        let call = Call::write(Some(&request.journal));
        let send = |channel, request| async move { ledger(channel).append(request).await };
        self.run_once(call, request.clone(), timeout, send).await
    }

    /// One entry by seq or key.
    pub async fn get_entry(&self, request: v1::GetEntryRequest) -> Result<v1::StoredEntry, ClientError> {
        let journal = request.journal.clone();
        let call = Call::read(Some(&journal), Prefer::for_consistency(request.consistency()));
        self.run(call, request, |channel, request| async move { ledger(channel).get_entry(request).await })
            .await
    }

    /// The entries of a seq range, in order. Goes on at another node where one fails; ends with an error only when no node
    /// has answered for the whole deadline, or with a definite refusal.
    pub fn read(&self, request: v1::ReadRequest) -> EntryStream {
        stream::read(self.clone(), request)
    }

    /// Like [`Client::read`], and then what is appended later, until it is dropped.
    pub fn tail(&self, request: v1::TailRequest) -> EntryStream {
        stream::tail(self.clone(), request)
    }

    /// Every balance of a journal, or of one account. More than 10,000 need several calls, between which the journal may
    /// grow; [`Client::balances_page`] shows the seq that each page belongs to.
    pub async fn balances(
        &self,
        journal: &str,
        account: Option<&str>,
    ) -> Result<Vec<v1::Balance>, ClientError> {
        let mut balances = Vec::new();
        let mut request = v1::GetBalancesRequest {
            journal: journal.to_owned(),
            account: account.unwrap_or_default().to_owned(),
            page_size: MAX_BALANCE_PAGE,
            ..v1::GetBalancesRequest::default()
        };
        loop {
            let page = self.balances_page(request.clone()).await?;
            balances.extend(page.balances);
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                return Ok(balances);
            }
        }
    }

    /// One page of balances, and the seq it belongs to.
    pub async fn balances_page(
        &self,
        request: v1::GetBalancesRequest,
    ) -> Result<v1::GetBalancesResponse, ClientError> {
        let journal = request.journal.clone();
        let call = Call::read(Some(&journal), Prefer::for_consistency(request.consistency()));
        self.run(call, request, |channel, request| async move { ledger(channel).get_balances(request).await })
            .await
    }

    /// What the node at this endpoint says of itself: one attempt, no other node is asked.
    pub async fn status(&self, endpoint: &str) -> Result<v1::NodeStatus, ClientError> {
        let request = v1::GetStatusRequest {};
        let limit = self.shared.options.attempt_timeout;
        let send = |channel, request| async move { admin(channel).get_status(request).await };
        self.run_at(endpoint, request, limit, send).await
    }

    /// The topology, from any node.
    pub async fn topology(&self) -> Result<v1::TopologyInfo, ClientError> {
        let call = Call::read(None, Prefer::Any);
        let request = v1::GetTopologyRequest {};
        self.run(call, request, |channel, request| async move { admin(channel).get_topology(request).await })
            .await
    }

    /// Moves a group's leadership to the named node.
    pub async fn transfer_leader(
        &self,
        group: u32,
        to: &str,
    ) -> Result<v1::TransferLeaderResponse, ClientError> {
        let request = v1::TransferLeaderRequest { group, to: to.to_owned() };
        let call = Call::write(None);
        self.run(
            call,
            request,
            |channel, request| async move { admin(channel).transfer_leader(request).await },
        )
        .await
    }

    /// Changes one node's part in a group.
    pub async fn change_member(
        &self,
        request: v1::ChangeMemberRequest,
    ) -> Result<v1::ChangeMemberResponse, ClientError> {
        let call = Call::write(None);
        self.run(call, request, |channel, request| async move { admin(channel).change_member(request).await })
            .await
    }

    /// What happens on the node at this endpoint from now on, as the node itself streams it; not opened again.
    pub async fn watch_events(&self, endpoint: &str) -> Result<tonic::Streaming<v1::Event>, ClientError> {
        let request = v1::WatchEventsRequest {};
        let limit = self.shared.options.attempt_timeout;
        let send = |channel, request| async move { admin(channel).watch_events(request).await };
        self.run_at(endpoint, request, limit, send).await
    }

    /// Where this client would ask that node: its mapped address, else the topology's client address.
    pub fn endpoint_of(&self, node: &v1::NodeInfo) -> String {
        match self.shared.options.address_map.get(&node.id) {
            Some(mapped) => router::normalise(mapped),
            None => router::normalise(&node.client),
        }
    }

    /// The endpoint that is believed to lead a journal's group, if an answer has named one.
    pub fn leader_endpoint(&self, journal: &str) -> Option<String> {
        self.shared.router.leader(Some(journal))
    }
}

fn ledger(channel: Channel) -> LedgerClient<Channel> {
    LedgerClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn admin(channel: Channel) -> AdminClient<Channel> {
    AdminClient::new(channel)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}
