//! [`RemoteStateMachine`]: openraft's state machine, over there in the engine.

use std::io;
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use raftkv_proto::state_machine as proto;
use raftkv_proto::state_machine::{ApplyRequest, Position};
use raftkv_runtime::failpoint;
use raftkv_runtime::stage::Stage;
use tokio::sync::watch;
use tonic::Status;

use crate::engine::chunk::Chunk;
use crate::engine::client::{EngineClient, is_final};
use crate::engine::feeder::Feeder;
use crate::peers::{Outgoing, SnapshotData};
use crate::raft::log_store::LogStore;
use crate::raft::progress::Progress;
use crate::raft::types::{Answer, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::raft::wire;
use crate::wal::Bounds;

/// The running Raft of this node.
pub type Raft = openraft::Raft<TypeConfig, RemoteStateMachine>;

type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotData>;

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
    feeder: Feeder,
    /// Before this node has started, this log was seen to reach back to where the engine stands.
    reaching: Option<LogStore>,
    /// Where the engine was seen while this node starts.
    stood_at: u64,
    progress: Progress,
    on_fatal: fn(&str),
}

impl RemoteStateMachine {
    /// `log` gives the engine again what it has lost; `flushed` says below which index it is durable. `on_fatal` must end the
    /// process: it is called when the engine and the log contradict each other, which only a restart resolves.
    pub fn new(engine: EngineClient, log: LogStore, flushed: watch::Receiver<u64>, on_fatal: fn(&str)) -> Self {
        let feeder = Feeder::new(engine.clone(), log, on_fatal);
        Self { engine, flushed, feeder, reaching: None, stood_at: 0, progress: Progress::default(), on_fatal }
    }

    /// Of a node that was seen, before it starts, to have a log that reaches back to where its engine stands. When that is over
    /// by the time openraft asks, the process ends: the next start sees it, and joins anew.
    pub fn reached_by(self, log: LogStore) -> Self {
        Self { reaching: Some(log), ..self }
    }

    /// Looks after an engine that comes back with less than it had applied; to be run as a task. Ends with the state machine.
    pub fn watch_engine(&self) -> impl Future<Output = ()> + Send + use<> {
        self.feeder.watch()
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
            // Cloning shares the payloads.
            match self.feeder.apply(request.clone()).await {
                Ok(response) => break response,
                Err(status) if is_final(status.code()) => {
                    return Err(self.fatal(&format!("the engine refuses entries {first} to {last}: {status}")));
                }
                Err(status) => {
                    tracing::debug!(%status, "the engine does not apply, trying again");
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
        if response.answers.len() != expected {
            return Err(self.fatal(&format!(
                "the engine gave {} answers instead of {expected} to entries {first} to {last}",
                response.answers.len()
            )));
        }
        // It may be ahead: then it has applied the rest of it before, see [`Feeder`].
        self.progress.submit(response.next_index);
        Stage::Apply.since(started);
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
}

/// Whether the engine stands where the log cannot bring it forward.
pub fn is_lost(engine_next_index: u64, log: &Bounds) -> bool {
    engine_next_index < log.purged.map_or(0, |purged| purged.index + 1)
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
        // The node looked before it started, and openraft asks more than once: an engine that has lost its state in between would
        // neither be brought forward nor join anew.
        let is_lost = self.reaching.as_ref().is_some_and(|log| is_lost(position.next_index, &log.wal().bounds()));
        if position.next_index < self.stood_at || is_lost {
            return Err(self.fatal(&format!(
                "the engine stands at {} and has lost what it had when this node began to start",
                position.next_index
            )));
        }
        self.stood_at = position.next_index;
        self.feeder.begin(position.next_index).await;
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
        let next_index = meta.last_log_id.map_or(0, |id| id.index() + 1);
        let activate = self.engine.until_done_within(ENGINE_GONE_DEADLINE, "activate snapshot", |engine| async move {
            match engine.activate(token).await {
                Ok(position) => Ok(position),
                // An engine that has all of it needs no snapshot: the answer to an earlier attempt may have been lost after it
                // had worked.
                Err(status) if is_final(status.code()) => match engine.position().await? {
                    position if position.next_index >= next_index => Ok(position),
                    _ => Err(status),
                },
                Err(status) => Err(status),
            }
        });
        let position =
            self.feeder.replace(activate).await.map_err(|status| {
                self.fatal(&format!("the engine cannot make the received snapshot live: {status}"))
            })?;
        if position.next_index < next_index {
            return Err(
                self.fatal(&format!("the engine stands at {} with a snapshot up to {next_index}", position.next_index))
            );
        }
        self.progress.submit(position.next_index);
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
