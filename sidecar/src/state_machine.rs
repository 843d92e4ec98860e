//! [`RemoteStateMachine`]: openraft's state machine, over there in the engine.

use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use raftkv_proto::state_machine as proto;
use raftkv_proto::state_machine::{ApplyRequest, Position};
use raftkv_runtime::failpoint;
use raftkv_runtime::stage::Stage;
use tokio::sync::watch;
use tonic::Status;

use crate::engine_client::{ApplyStream, EngineClient, is_final};
use crate::network::{Outgoing, SnapshotData};
use crate::progress::Progress;
use crate::types::{Answer, Command, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::wire;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;
type Responder = openraft::storage::ApplyResponder<TypeConfig>;

/// Entries per request to the engine.
const MAX_ENTRIES: usize = 1_024;
/// Bytes per request to the engine, give or take one entry.
const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Waits between attempts while the engine is gone.
const RETRY_FIRST: Duration = Duration::from_millis(10);
/// The longest of them.
const RETRY_LAST: Duration = Duration::from_millis(250);

/// An engine gone for longer: this process ends, and its next start waits for the engine before it takes part. Until then
/// the node still counts for the majority; what commits meanwhile waits in memory.
const ENGINE_GONE_DEADLINE: Duration = Duration::from_secs(300);

/// The engine as a state machine.
///
/// Applying never fails for a passing reason: openraft would stop for good. While the engine is gone it waits; the
/// engine skips what it has already applied. An answer lost that way is sent as an empty one: outcome unknown.
pub struct RemoteStateMachine {
    engine: EngineClient,
    /// Entries below this index are durable in the local log (invariant 5).
    flushed: watch::Receiver<u64>,
    /// Entries below this index were seen applied: the engine may never stand below it (durability rule 3).
    applied: u64,
    progress: Progress,
    stream: Option<ApplyStream>,
    on_fatal: fn(&str),
}

impl RemoteStateMachine {
    /// `flushed` says below which index the local log is durable; `on_fatal` must end the process: it is called when the
    /// engine and the log contradict each other, which only a restart (and a replay) resolves.
    pub fn new(engine: EngineClient, flushed: watch::Receiver<u64>, on_fatal: fn(&str)) -> Self {
        Self { engine, flushed, applied: 0, progress: Progress::default(), stream: None, on_fatal }
    }

    /// How far the engine is.
    pub fn progress(&self) -> Progress {
        self.progress.clone()
    }

    fn fatal(&self, message: &str) -> io::Error {
        (self.on_fatal)(message);
        io::Error::other(message.to_owned())
    }

    /// Applies one request, over as many connections as it takes.
    async fn apply_chunk(&mut self, chunk: Chunk) -> io::Result<()> {
        let Chunk { entries, mut responders, answers: expected, last: last_log_id, .. } = chunk;
        let (Some(first), Some(last)) = (entries.first().map(|e| e.index), entries.last().map(|e| e.index)) else {
            return Ok(());
        };
        // The leader may know an entry to be committed before its own disk has it.
        if self.flushed.wait_for(|flushed| *flushed > last).await.is_err() {
            return Err(self.fatal("the log is gone"));
        }
        self.progress.submit(last + 1);
        failpoint!("sidecar::state_machine::before_apply");
        let request = ApplyRequest { entries };
        let mut wait = RETRY_FIRST;
        let started = std::time::Instant::now();
        let response = loop {
            match self.try_apply(&request).await {
                Ok(response) => break response,
                Err(status) if is_final(status.code()) => {
                    return Err(self.fatal(&format!("the engine refuses entries {first} to {last}: {status}")));
                }
                Err(status) => {
                    tracing::debug!(%status, "the engine does not apply, trying again");
                    self.stream = None;
                    if started.elapsed() > ENGINE_GONE_DEADLINE {
                        return Err(
                            self.fatal(&format!("the engine has been gone for {ENGINE_GONE_DEADLINE:?}: {status}"))
                        );
                    }
                }
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(RETRY_LAST);
        };
        if response.next_index != last + 1 || response.answers.len() != expected {
            return Err(self.fatal(&format!(
                "the engine answered position {} with {} answers to entries {first} to {last}",
                response.next_index,
                response.answers.len()
            )));
        }
        Stage::Apply.since(started);
        self.applied = last + 1;
        failpoint!("sidecar::state_machine::after_apply");
        // Before anybody gets an answer.
        self.progress.set_applied(last_log_id);
        let mut answers = response.answers.into_iter();
        for (count, responder) in responders.drain(..) {
            let of_entry = answers.by_ref().take(count);
            match responder {
                Some(responder) => responder.send(Answer(of_entry.collect())),
                None => of_entry.for_each(drop),
            }
        }
        Ok(())
    }

    async fn try_apply(&mut self, request: &ApplyRequest) -> Result<proto::ApplyResponse, Status> {
        if self.stream.is_none() {
            let position = self.engine.position().await?;
            if position.next_index < self.applied {
                // It lost what it had applied: only a replay from its position helps.
                return Err(Status::failed_precondition(format!(
                    "the engine stands at {}, but had applied everything below {}",
                    position.next_index, self.applied
                )));
            }
            self.stream = Some(self.engine.apply_stream().await?);
        }
        match &mut self.stream {
            // Cloning shares the payloads.
            Some(stream) => stream.apply(request.clone()).await,
            None => Err(Status::unavailable("no stream")),
        }
    }
}

/// Entries that travel in one request.
#[derive(Default)]
struct Chunk {
    entries: Vec<proto::Entry>,
    /// With how many answers each gets.
    responders: Vec<(usize, Option<Responder>)>,
    /// How many all get.
    answers: usize,
    bytes: usize,
    last: Option<LogId>,
}

impl Chunk {
    fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        use proto::entry::Kind;
        let mut count = 1;
        let (kind, clock_ms) = match entry.payload {
            EntryPayload::Blank => (Kind::Blank(true), 0),
            EntryPayload::Normal(command) => {
                self.bytes += command.payload_bytes();
                let Command { clock_ms, mut payloads } = command;
                count = payloads.len();
                let kind = match count {
                    1 => Kind::Payload(payloads.remove(0)),
                    _ => Kind::Payloads(proto::Payloads { payloads }),
                };
                (kind, clock_ms)
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership);
                (Kind::Membership(wire::stored_membership_bytes(&stored)), 0)
            }
        };
        self.entries.push(proto::Entry {
            index: entry.log_id.index(),
            log_id: wire::log_id_bytes(Some(&entry.log_id)),
            clock_ms,
            kind: Some(kind),
        });
        self.responders.push((count, responder));
        self.answers += count;
        self.last = Some(entry.log_id);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }
}

/// The log id and membership a position carries.
pub fn parse_position(position: &Position) -> Result<(Option<LogId>, StoredMembership), wire::WireError> {
    Ok((wire::parse_log_id_bytes(&position.log_id)?, wire::parse_stored_membership(&position.membership)?))
}

fn meta_of(position: &Position) -> io::Result<SnapshotMeta> {
    let (last_log_id, last_membership) = parse_position(position).map_err(io::Error::other)?;
    Ok(SnapshotMeta { last_log_id, last_membership })
}

impl RaftStateMachine<TypeConfig> for RemoteStateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let position = self
            .engine
            .until_done("position", |engine| async move { engine.position().await })
            .await
            .map_err(io::Error::other)?;
        self.applied = position.next_index;
        tracing::info!(next_index = position.next_index, "the engine stands here");
        let (last_log_id, membership) = parse_position(&position).map_err(io::Error::other)?;
        self.progress.set_applied(last_log_id);
        Ok((last_log_id, membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + Send,
    {
        let mut chunk = Chunk::default();
        while let Some(entry) = entries.next().await {
            chunk.push(entry?);
            if chunk.is_full() {
                self.apply_chunk(std::mem::take(&mut chunk)).await?;
            }
        }
        self.apply_chunk(chunk).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { engine: self.engine.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> Result<(), io::Error> {
        let token = match snapshot {
            SnapshotData::Staged(token) => token,
            // openraft installs the current snapshot at start when it is ahead of the applied state. Ours is the applied
            // state, so that never happens.
            SnapshotData::Durable | SnapshotData::Outgoing(_) => {
                return Err(io::Error::other("a snapshot that was not received cannot be installed"));
            }
        };
        self.stream = None;
        let next_index = meta.last_log_id.map_or(0, |id| id.index() + 1);
        let position = self
            .engine
            .until_done("activate snapshot", |engine| async move {
                match engine.activate(token).await {
                    Ok(position) => Ok(position),
                    // The answer to an earlier attempt may have been lost after it had worked.
                    Err(status) if is_final(status.code()) => match engine.position().await? {
                        position if position.next_index == next_index => Ok(position),
                        _ => Err(status),
                    },
                    Err(status) => Err(status),
                }
            })
            .await
            .map_err(|status| self.fatal(&format!("the engine cannot make the received snapshot live: {status}")))?;
        self.applied = position.next_index;
        self.progress.set_applied(meta.last_log_id);
        tracing::info!(next_index = position.next_index, "the snapshot is live");
        Ok(())
    }

    /// The engine's state as it is now, made durable: it always is a snapshot, so none is kept beside it.
    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let outgoing = self
            .engine
            .until_done("snapshot", |engine| async move {
                if engine.persist().await?.next_index == 0 {
                    return Ok(None);
                }
                let mut rest = engine.snapshot_out().await?;
                let header = rest.message().await?.ok_or_else(|| Status::unavailable("an empty snapshot"))?;
                Ok(Some(Outgoing { header, rest }))
            })
            .await
            .map_err(io::Error::other)?;
        let Some(outgoing) = outgoing else { return Ok(None) };
        let Some(proto::snapshot_chunk::Kind::Header(header)) = &outgoing.header.kind else {
            return Err(io::Error::other("the snapshot does not begin with its header"));
        };
        let meta = meta_of(&header.position.clone().unwrap_or_default())?;
        Ok(Some(Snapshot { meta, snapshot: SnapshotData::Outgoing(Box::new(outgoing)) }))
    }
}

/// Builds a snapshot by making the engine's state durable: no copy is written.
pub struct SnapshotBuilder {
    engine: EngineClient,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        failpoint!("sidecar::state_machine::before_build");
        let position = self
            .engine
            .until_done("persist", |engine| async move { engine.persist().await })
            .await
            .map_err(io::Error::other)?;
        failpoint!("sidecar::state_machine::after_build");
        Ok(Snapshot { meta: meta_of(&position)?, snapshot: SnapshotData::Durable })
    }
}
