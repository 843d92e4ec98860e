//! The `Apply` stream.

use futures::{Stream, StreamExt};
use raftkv_proto::state_machine as pb;
use raftkv_store::{ApplyEntry, EntryKind, Store, Ticket};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::status;

/// Maximum requests in flight per stream. Further requests wait in the connection, then at the sender.
pub(super) const IN_FLIGHT: usize = 64;

/// Applies `requests` in order and returns the answers in the same order. This stream becomes the active stream: older
/// streams end with `ABORTED`, but requests already queued by older streams are applied first.
pub(super) fn start(
    store: Store,
    requests: Streaming<pb::ApplyRequest>,
    streams: &watch::Sender<u64>,
) -> impl Stream<Item = Result<pb::ApplyResponse, Status>> + Send + use<> {
    let mut number = 0;
    streams.send_modify(|newest| {
        *newest += 1;
        number = *newest;
    });
    let (tickets, queue) = mpsc::channel(IN_FLIGHT);
    // Ends when the sender ends, when the answers are dropped, or when another stream takes over.
    tokio::spawn(feed(store, requests, tickets, number, streams.subscribe()));
    ReceiverStream::new(queue).then(|ticket: Result<Ticket, Status>| async {
        let applied = ticket?.wait().await.map_err(|error| status::of_apply(&error))?;
        Ok(pb::ApplyResponse { next_index: applied.next_index, answers: applied.answers })
    })
}

async fn feed(
    store: Store,
    mut requests: Streaming<pb::ApplyRequest>,
    tickets: mpsc::Sender<Result<Ticket, Status>>,
    number: u64,
    mut newest: watch::Receiver<u64>,
) {
    let ended: Status = loop {
        // Reserve capacity first: every accepted request must be answered.
        let permit = tokio::select! {
            biased;
            _ = newest.wait_for(|&newest| newest != number) => break taken_over(),
            permit = tickets.reserve() => match permit {
                Ok(permit) => permit,
                Err(_) => return,
            },
        };
        let request = tokio::select! {
            biased;
            _ = newest.wait_for(|&newest| newest != number) => break taken_over(),
            _ = tickets.closed() => return,
            request = requests.message() => request,
        };
        let entries = match request {
            Ok(Some(request)) => request.entries.into_iter().map(entry).collect::<Result<Vec<_>, _>>(),
            Ok(None) => return,
            Err(status) => {
                tracing::debug!(%status, "the apply stream broke");
                return;
            }
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(status) => break status,
        };
        match store.submit(entries).await {
            Ok(ticket) => permit.send(Ok(ticket)),
            Err(error) => break status::of_apply(&error),
        }
    };
    let _ = tickets.send(Err(ended)).await;
}

fn taken_over() -> Status {
    Status::aborted("another apply stream has taken over")
}

fn entry(entry: pb::Entry) -> Result<ApplyEntry, Status> {
    let kind = match entry.kind {
        Some(pb::entry::Kind::Payload(payload)) => EntryKind::Payload(payload),
        Some(pb::entry::Kind::Payloads(pb::Payloads { payloads }))
            if payloads.is_empty() && entry.group_clock_ms == 0 =>
        {
            return Err(Status::invalid_argument(format!("entry {} has no payload", entry.index)));
        }
        Some(pb::entry::Kind::Payloads(pb::Payloads { payloads })) => EntryKind::Payloads(payloads),
        Some(pb::entry::Kind::Membership(membership)) => EntryKind::Membership(membership),
        Some(pb::entry::Kind::Blank(_)) => EntryKind::Blank,
        // A kind unknown to this version: treating the entry as blank would lose the content.
        None => return Err(Status::invalid_argument(format!("entry {} is of no known kind", entry.index))),
    };
    let pb::Entry { index, log_id, clock_ms, group_clock_ms, .. } = entry;
    Ok(ApplyEntry { index, log_id, clock_ms, group_clock_ms, kind })
}
