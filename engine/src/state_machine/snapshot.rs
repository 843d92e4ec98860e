//! The snapshot streams. A thread does the blocking work; a short channel provides back-pressure.

use futures::{Stream, StreamExt};
use raftkv_proto::state_machine as pb;
use raftkv_proto::state_machine::snapshot_chunk::Kind;
use raftkv_store::{Position, SnapshotHeader, SnapshotPart, Store, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{position, status};

/// Capacity of the channel between thread and stream, in frames.
const FRAMES: usize = 4;

/// Streams a snapshot of the current state.
pub(super) fn send(store: Store) -> impl Stream<Item = Result<pb::SnapshotChunk, Status>> + Send {
    let (chunks, queue) = mpsc::channel::<Result<Kind, StoreError>>(FRAMES);
    tokio::task::spawn_blocking(move || {
        let reader = match store.snapshot_out() {
            Ok(reader) => reader,
            Err(error) => {
                let _ = chunks.blocking_send(Err(error));
                return;
            }
        };
        let header = reader.header();
        let header = Kind::Header(pb::SnapshotHeader {
            format: header.format,
            position: Some(position(header.position.clone())),
            estimated_bytes: header.estimated_bytes,
        });
        let parts = reader.map(|part| {
            Ok(match part? {
                SnapshotPart::Frame(frame) => Kind::Data(frame),
                SnapshotPart::Trailer { records, crc32c } => Kind::Trailer(pb::SnapshotTrailer { records, crc32c }),
            })
        });
        for kind in std::iter::once(Ok(header)).chain(parts) {
            // The receiver is gone: stop reading.
            if chunks.blocking_send(kind).is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(queue).map(|kind| match kind {
        Ok(kind) => Ok(pb::SnapshotChunk { kind: Some(kind) }),
        Err(error) => Err(status::of_store(&error)),
    })
}

/// Receives a snapshot and returns the staging token. If the caller disconnects, this future is dropped, the thread
/// sees the channel close before the trailer and deletes the staged data.
pub(super) async fn receive(store: Store, mut chunks: Streaming<pb::SnapshotChunk>) -> Result<u64, Status> {
    let header = match chunks.message().await?.and_then(|chunk| chunk.kind) {
        Some(Kind::Header(header)) => header,
        _ => return Err(Status::invalid_argument("a snapshot begins with its header")),
    };
    let Some(at) = header.position else {
        return Err(Status::invalid_argument("the header of a snapshot names its position"));
    };
    let header = SnapshotHeader {
        format: header.format,
        position: Position { next_index: at.next_index, log_id: at.log_id, membership: at.membership },
        estimated_bytes: header.estimated_bytes,
    };
    let (parts, mut queue) = mpsc::channel::<SnapshotPart>(FRAMES);
    let staging = tokio::task::spawn_blocking(move || store.stage_snapshot(&header, || queue.blocking_recv()));
    let broken = loop {
        let part = match chunks.message().await {
            Ok(None) => break None,
            Err(status) => break Some(status),
            Ok(Some(chunk)) => match chunk.kind {
                Some(Kind::Data(frame)) => SnapshotPart::Frame(frame),
                Some(Kind::Trailer(trailer)) => {
                    SnapshotPart::Trailer { records: trailer.records, crc32c: trailer.crc32c }
                }
                Some(Kind::Header(_)) | None => {
                    break Some(Status::invalid_argument("an unexpected kind of chunk"));
                }
            },
        };
        // The thread has given up; the result contains the reason.
        if parts.send(part).await.is_err() {
            break None;
        }
    };
    if broken.is_some() {
        // A complete snapshot may have arrived before the error, but the sender expects a failure. An extra frame makes
        // the store reject the snapshot in every case.
        let _ = parts.send(SnapshotPart::Frame(bytes::Bytes::new())).await;
    }
    drop(parts);
    let staged = match staging.await {
        Ok(result) => result.map_err(|error| status::of_store(&error)),
        Err(error) => Err(Status::internal(format!("a storage task ended early: {error}"))),
    };
    match broken {
        Some(status) => Err(status),
        None => staged,
    }
}
