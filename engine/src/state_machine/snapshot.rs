//! The snapshot streams. A thread does what blocks; a short channel to it is the back-pressure.

use futures::{Stream, StreamExt};
use raftkv_proto::state_machine as pb;
use raftkv_proto::state_machine::snapshot_chunk::Kind;
use raftkv_store::{Position, SnapshotHeader, SnapshotPart, Store, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{position, status};

/// Frames between the thread and the wire.
const FRAMES: usize = 4;

/// The whole state of this moment.
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
            // Nobody listens any more: stop reading.
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

/// Receives a state and returns its token. When the caller goes away this future is dropped, the thread finds its
/// channel closed before the trailer, and removes what it has written.
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
                    break Some(Status::invalid_argument("a chunk of a kind that is not due"));
                }
            },
        };
        // The thread has given up; its result says why.
        if parts.send(part).await.is_err() {
            break None;
        }
    };
    if broken.is_some() {
        // A whole snapshot may have come before the error: whoever sent it does not expect it to be kept. An extra part
        // makes it refused, in every case.
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
