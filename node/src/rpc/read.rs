//! Reads: linearizable through the leader, local from this node; both only what is placed.
//!
//! Invariants: a linearizable read confirms leadership after it was asked for; a local read never shows more than this node has
//! applied and knows to be placed; a stream is produced as fast as its reader takes it.

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tercet_proto::limits;
use tercet_proto::reason::Reason;
use tercet_proto::refusal::Refusal;
use tercet_proto::text::quote;
use tercet_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use super::append::group_of_journal;
use super::page::Pages;
use super::route::{Effect, Local, REQUEST_TIMEOUT, route};
use super::{Caller, refuse, size};
use crate::ledger::{BalanceRow, Head, Ledger, Totals};
use crate::node::Node;
use crate::placement::{Class, Watermarks};
use crate::raft::group::{Group, NoReadPoint};
use crate::reader::{Reader, journal_not_found};

/// Messages of a stream that wait for a slow reader.
const STREAM_BUFFER: usize = 4;

/// A tail ends when nothing has been heard of a leader for so long.
const TAIL_ISOLATED: std::time::Duration = std::time::Duration::from_secs(5);

/// A stream of entries.
pub type Entries = Pin<Box<dyn Stream<Item = Result<v1::ReadResponse, Status>> + Send>>;

/// Which consistency a request asks for.
///
/// # Errors
/// CONSISTENCY_INVALID.
pub fn consistency(value: i32) -> Result<v1::Consistency, Refusal> {
    v1::Consistency::try_from(value).map_err(|_| {
        Refusal::new(Reason::ConsistencyInvalid, "consistency", format!("{value} is no consistency"))
    })
}

/// Up to where a local read may show each class.
fn local_point(group: &Group) -> Result<Watermarks, Refusal> {
    if group.is_removed() {
        return Err(super::route::not_a_member(group));
    }
    if !group.is_recovered() {
        return Err(Refusal::new(
            Reason::Recovering,
            "",
            "this node has just started and may lag behind what it once showed",
        ));
    }
    Ok(group.visible())
}

/// What is asked of whom, and how.
struct Asked<'a, M> {
    caller: Caller,
    group: &'a Group,
    /// None: of many.
    journal: Option<&'a str>,
    wanted: v1::Consistency,
    message: &'a M,
}

/// Runs `show` at a point of the log that the consistency allows, here or at the leader.
async fn read_at<M, T, F, FF>(
    node: &Node,
    asked: Asked<'_, M>,
    show: impl Fn(Watermarks) -> Result<T, Refusal>,
    forward: F,
) -> Result<T, Status>
where
    M: Clone,
    F: Fn(tercet_proto::v1::ledger_client::LedgerClient<tonic::transport::Channel>, Request<M>) -> FF,
    FF: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let Asked { caller, group, journal, wanted, message } = asked;
    if wanted == v1::Consistency::Local {
        return local_point(group).and_then(show).map_err(refuse);
    }
    let show = &show;
    let local = || async move {
        match group.linearizable_point(journal, REQUEST_TIMEOUT).await {
            Ok(point) => match show(point) {
                Ok(shown) => Local::Done(shown),
                Err(refusal) => Local::Refused(refusal),
            },
            Err(NoReadPoint::NotLeader(_)) => Local::NotLeader,
            Err(NoReadPoint::Refused(refusal)) => Local::Refused(refusal),
        }
    };
    route(node, group, caller.hops, Effect::Reads, message, local, forward).await
}

/// A journal with the head that may be shown at `point`.
fn show_journal(group: &Group, name: &str, point: Watermarks) -> Result<v1::Journal, Refusal> {
    let ledger = group.state().ledger();
    let head = head_at(&ledger, name, point)?;
    let journal = ledger.journal(name).ok_or_else(|| journal_not_found(name))?;
    Ok(journal.to_proto(head))
}

/// The head of a journal that may be shown at `point`.
fn head_at(ledger: &Ledger, name: &str, point: Watermarks) -> Result<Head, Refusal> {
    let journal = ledger.journal(name).ok_or_else(|| journal_not_found(name))?;
    let head = ledger.head_at(name, point.of(journal.class())).map_err(internal)?;
    head.ok_or_else(|| journal_not_found(name))
}

fn internal(why: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Internal, "", why.to_string())
}

/// GetJournal.
///
/// # Errors
/// The refusal as a status.
pub async fn get_journal(
    node: &Node,
    caller: Caller,
    request: v1::GetJournalRequest,
) -> Result<v1::Journal, Status> {
    let wanted = consistency(request.consistency).map_err(refuse)?;
    let group = group_of_journal(node, caller, &request.name).await?;
    let show = |point| show_journal(&group, &request.name, point);
    let asked = Asked { caller, group: &group, journal: Some(&request.name), wanted, message: &request };
    read_at(node, asked, show, |mut client, message| async move { client.get_journal(message).await }).await
}

/// GetEntry.
///
/// # Errors
/// The refusal as a status.
pub async fn get_entry(
    node: &Node,
    caller: Caller,
    request: v1::GetEntryRequest,
) -> Result<v1::StoredEntry, Status> {
    use v1::get_entry_request::By;
    let wanted = consistency(request.consistency).map_err(refuse)?;
    let by = request
        .by
        .clone()
        .ok_or_else(|| refuse(Refusal::new(Reason::SelectorMissing, "by", "name a seq or a key")))?;
    let group = group_of_journal(node, caller, &request.journal).await?;
    let show = |point| {
        let ledger = group.state().ledger();
        let head = head_at(&ledger, &request.journal, point)?.seq;
        let (seq, field, name) = match &by {
            By::Seq(seq) => (Some(*seq), "seq", seq.to_string()),
            By::Key(key) => (ledger.locate_key(&request.journal, key).map_err(internal)?, "key", quote(key)),
        };
        drop(ledger);
        match seq.filter(|seq| (1..=head).contains(seq)) {
            Some(seq) => Reader::new(&group, &request.journal).entry(seq),
            None => Err(Refusal::new(
                Reason::EntryNotFound,
                field,
                format!("journal {} has no entry {name}; its head is {head}", quote(&request.journal)),
            )),
        }
    };
    let asked = Asked { caller, group: &group, journal: Some(&request.journal), wanted, message: &request };
    read_at(node, asked, show, |mut client, message| async move { client.get_entry(message).await }).await
}

/// The page size that a request means.
fn page_size(asked: u32, default: u32, most: u32) -> Result<usize, Refusal> {
    let size = if asked == 0 { default } else { asked };
    if size > most {
        let why = format!("{size} is more than {most}");
        return Err(Refusal::new(Reason::PageSizeInvalid, "page_size", why));
    }
    Ok(size as usize)
}

/// ListJournals, over all groups of this cluster, by name.
///
/// # Errors
/// The refusal as a status.
pub async fn list_journals(
    node: &Node,
    caller: Caller,
    request: v1::ListJournalsRequest,
) -> Result<v1::ListJournalsResponse, Status> {
    let wanted = consistency(request.consistency).map_err(refuse)?;
    let size = page_size(request.page_size, limits::DEFAULT_JOURNAL_PAGE, limits::MAX_JOURNAL_PAGE)
        .map_err(refuse)?;
    let pages = Pages::of_journals(&request);
    let after = pages.cursor(&request.page_token).map_err(refuse)?;
    let zero = node.group_zero().map_err(refuse)?;
    let show = |point: Watermarks| {
        let mut journals = Vec::new();
        let behind = after.as_deref();
        for group in node.groups.running() {
            let point = if group.id() == 0 { point } else { group.visible() };
            let ledger = group.state().ledger();
            for journal in ledger.journals(behind).take(size + 1) {
                if let Some(head) =
                    ledger.head_at(journal.name(), point.of(journal.class())).map_err(internal)?
                {
                    journals.push(journal.to_proto(head));
                }
            }
        }
        journals.sort_by(|a, b| a.name.cmp(&b.name));
        let more = journals.len() > size;
        journals.truncate(size);
        let next = journals.last().filter(|_| more).map(|last| pages.token(&last.name));
        Ok(v1::ListJournalsResponse { journals, next_page_token: next.unwrap_or_default() })
    };
    let asked = Asked { caller, group: &zero, journal: None, wanted, message: &request };
    read_at(node, asked, show, |mut client, message| async move { client.list_journals(message).await }).await
}

/// Takes the entries `from..=to` out of balances that include them; an account that only they have made goes.
fn take_back(
    group: &Group,
    journal: &str,
    rows: &mut Vec<BalanceRow>,
    mut from: u64,
    to: u64,
) -> Result<(), Refusal> {
    if from > to {
        return Ok(());
    }
    while from <= to {
        for stored in Reader::new(group, journal).chunk(from, to)? {
            from = stored.seq + 1;
            for posting in stored.entry.iter().flat_map(|entry| &entry.postings) {
                let amount = u128::from(posting.amount.unsigned_abs());
                let row = rows
                    .iter_mut()
                    .find(|row| row.account == posting.account && row.currency == posting.currency);
                let Some(BalanceRow { totals, .. }) = row else { continue };
                let sum = match posting.side() {
                    v1::posting::Side::Debit => &mut totals.debits,
                    _ => &mut totals.credits,
                };
                *sum = sum.saturating_sub(amount);
            }
        }
    }
    rows.retain(|row| row.totals.debits > 0 || row.totals.credits > 0);
    Ok(())
}

/// Account and currency of a row, as a page's cursor. No account holds NUL.
fn balance_cursor(row: &BalanceRow) -> String {
    format!("{}\0{}", row.account, row.currency)
}

/// Credits minus debits as decimals; 128-bit sums of 63-bit amounts stay far from the edge.
fn balance_message(row: BalanceRow) -> v1::Balance {
    let Totals { debits, credits } = row.totals;
    let sign = if credits < debits { "-" } else { "" };
    v1::Balance {
        account: row.account,
        currency: row.currency,
        debits: debits.to_string(),
        credits: credits.to_string(),
        balance: format!("{sign}{}", credits.abs_diff(debits)),
    }
}

/// GetBalances. The rows are those after one seq, and everything up to it is placed.
///
/// # Errors
/// The refusal as a status.
pub async fn get_balances(
    node: &Node,
    caller: Caller,
    request: v1::GetBalancesRequest,
) -> Result<v1::GetBalancesResponse, Status> {
    let wanted = consistency(request.consistency).map_err(refuse)?;
    let size = page_size(request.page_size, limits::DEFAULT_BALANCE_PAGE, limits::MAX_BALANCE_PAGE)
        .map_err(refuse)?;
    let pages = Pages::of_balances(&request);
    let after = pages.cursor(&request.page_token).map_err(refuse)?;
    let group = group_of_journal(node, caller, &request.journal).await?;
    // The page and the journal's newest change are taken together. For class city the answer waits until that change is placed;
    // for class geo, which may wait for long, what is not placed yet is taken back out.
    let show = |point: Watermarks| {
        let ledger = group.state().ledger();
        let journal = ledger.journal(&request.journal).ok_or_else(|| journal_not_found(&request.journal))?;
        let account = (!request.account.is_empty()).then_some(request.account.as_str());
        let after = after.as_deref().and_then(|cursor| cursor.split_once('\0'));
        let mut rows = journal.balances(account, after, size + 1);
        let more = rows.len() > size;
        rows.truncate(size);
        let next_page_token = rows.last().filter(|_| more).map(|row| pages.token(&balance_cursor(row)));
        let next_page_token = next_page_token.unwrap_or_default();
        let (head, class) = (journal.head().seq, journal.class());
        let (as_of_seq, wait_for) = match class {
            Class::City => (head, ledger.changed_at(&request.journal, u64::MAX).map_err(internal)?),
            Class::Geo => (head_at(&ledger, &request.journal, point)?.seq, 0),
        };
        drop(ledger);
        take_back(&group, &request.journal, &mut rows, as_of_seq + 1, head)?;
        let balances = rows.into_iter().map(balance_message).collect();
        Ok(((class, wait_for), v1::GetBalancesResponse { balances, next_page_token, as_of_seq }))
    };
    let forward = |mut client: tercet_proto::v1::ledger_client::LedgerClient<tonic::transport::Channel>,
                   message| async move {
        let response = client.get_balances(message).await?;
        // Whoever answered has waited already.
        Ok(tonic::Response::new(((Class::City, 0), response.into_inner())))
    };
    let asked = Asked { caller, group: &group, journal: Some(&request.journal), wanted, message: &request };
    let ((class, changed_at), response) = read_at(node, asked, show, forward).await?;
    group.wait_placed(class, changed_at, REQUEST_TIMEOUT).await.map_err(refuse)?;
    Ok(response)
}

/// The head of a journal that is certain to include everything acknowledged before the call.
async fn linearizable_head(node: &Node, caller: Caller, journal: &str) -> Result<u64, Status> {
    let request =
        v1::GetJournalRequest { name: journal.to_owned(), consistency: v1::Consistency::Linearizable.into() };
    Ok(get_journal(node, caller, request).await?.head.map_or(0, |head| head.seq))
}

/// Read: the entries of a range, from the leader or from here.
///
/// # Errors
/// The refusal as a status.
pub async fn read(node: Arc<Node>, caller: Caller, request: v1::ReadRequest) -> Result<Entries, Status> {
    let wanted = consistency(request.consistency).map_err(refuse)?;
    if request.to_seq != 0 && request.from_seq > request.to_seq {
        let why = format!("from_seq {} is above to_seq {}", request.from_seq, request.to_seq);
        return Err(refuse(Refusal::new(Reason::RangeInvalid, "from_seq", why)));
    }
    let group = group_of_journal(&node, caller, &request.journal).await?;
    let head = if wanted == v1::Consistency::Linearizable {
        let head = linearizable_head(&node, caller, &request.journal).await?;
        wait_for_seq(&group, &request.journal, head).await?;
        head
    } else {
        let point = local_point(&group).map_err(refuse)?;
        head_at(&group.state().ledger(), &request.journal, point).map_err(refuse)?.seq
    };
    let to = if request.to_seq == 0 { head } else { request.to_seq.min(head) };
    let from = request.from_seq.max(1);
    let (sender, stream) = mpsc::channel(STREAM_BUFFER);
    tokio::spawn(async move { send_range(&group, &request.journal, from, to, head, &sender).await });
    Ok(Box::pin(ReceiverStream::new(stream)))
}

/// Waits until this node shows `seq`: the linearizable head was learnt from the leader, the entries are read here.
async fn wait_for_seq(group: &Group, journal: &str, seq: u64) -> Result<(), Status> {
    let reached = async {
        loop {
            let class = group.class_of_journal(journal);
            let visible = group.visible().of(class);
            let head = group.state().ledger().head_at(journal, visible).map_err(|e| refuse(internal(e)))?;
            if head.is_some_and(|head| head.seq >= seq) {
                return Ok(());
            }
            group.wait_visible_above(class, visible).await;
        }
    };
    tokio::time::timeout(REQUEST_TIMEOUT, reached).await.unwrap_or_else(|_| {
        Err(refuse(Refusal::new(Reason::Recovering, "", "this node lags behind the leader")))
    })
}

/// Sends `from..=to`; false when the reader has gone or an error was sent.
async fn send_range(
    group: &Group,
    journal: &str,
    mut from: u64,
    to: u64,
    head: u64,
    sender: &mpsc::Sender<Result<v1::ReadResponse, Status>>,
) -> bool {
    while from <= to {
        let messages = match Reader::new(group, journal).chunk(from, to) {
            Ok(entries) => size::messages(entries, head),
            Err(refusal) => {
                let _ = sender.send(Err(refuse(refusal))).await;
                return false;
            }
        };
        for message in messages {
            // A chunk is never empty, nor is a message of it.
            from = message.entries.last().map_or(u64::MAX, |entry| entry.seq.saturating_add(1));
            if sender.send(Ok(message)).await.is_err() {
                return false;
            }
        }
    }
    true
}

/// Tail: like read, then what comes.
///
/// # Errors
/// The refusal as a status.
pub async fn tail(node: Arc<Node>, caller: Caller, request: v1::TailRequest) -> Result<Entries, Status> {
    let group = group_of_journal(&node, caller, &request.journal).await?.clone();
    let head = linearizable_head(&node, caller, &request.journal).await?;
    let mut from = if request.from_seq == 0 { head + 1 } else { request.from_seq };
    let (sender, stream) = mpsc::channel(STREAM_BUFFER);
    let mut stopping = node.stopping.clone();
    tokio::spawn(async move {
        let follow = async {
            loop {
                let class = group.class_of_journal(&request.journal);
                let visible = group.visible().of(class);
                let head = group.state().ledger().head_at(&request.journal, visible);
                let head = head.ok().flatten().map_or(0, |head| head.seq);
                if head >= from {
                    if !send_range(&group, &request.journal, from, head, head, &sender).await {
                        return;
                    }
                    from = head + 1;
                }
                group.wait_visible_above(class, visible).await;
            }
        };
        // A tail on a node that has lost the leader would be silent and look healthy: it ends, and goes on elsewhere.
        let isolated = async {
            while group.out_of_contact() < TAIL_ISOLATED {
                tokio::time::sleep(TAIL_ISOLATED / 4).await;
            }
        };
        tokio::select! {
            () = follow => {}
            () = sender.closed() => {}
            () = isolated => {
                let refusal = Refusal::new(Reason::NoLeader, "", "this node has lost the leader; tail on from the next seq");
                let _ = sender.try_send(Err(refuse(refusal)));
            }
            _ = stopping.wait_for(|stop| *stop) => {
                let refusal = Refusal::new(Reason::ShuttingDown, "", "the node is stopping; tail on from the next seq");
                let _ = sender.try_send(Err(refuse(refusal)));
            }
        }
    });
    Ok(Box::pin(ReceiverStream::new(stream)))
}
