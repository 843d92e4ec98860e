//! [`Feeder`]: brings entries to the engine, those that it has lost included.
//!
//! What the engine has applied is in its memory first. After a crash it stands where it was when it last made its state
//! durable, and the log, which is purged only below that, gives it the entries from there on again.
//!
//! The feeder owns the engine's position: whatever moves it (entries that are applied for the first time, entries that come
//! again, a snapshot that goes live) holds the same lock, so none of them meets another one halfway. Even so an engine may be
//! ahead of what it is given: requests of a stream that broke, or of this process's predecessor, are applied when the engine
//! comes to them, and so is a predecessor's order to make a snapshot live. What it has then is committed all the same, and it
//! skips what it has. So an engine that is ahead is no fault; one that is behind what it has just answered is.

use std::sync::{Arc, Weak};

use openraft::RaftLogReader;
use raftkv_proto::state_machine::{ApplyRequest, ApplyResponse, Position};
use tokio::sync::Mutex;
use tonic::Status;

use crate::engine::chunk::Chunk;
use crate::engine::client::{ApplyStream, EngineClient, is_final};
use crate::raft::log_store::LogStore;

/// Feeds one engine, in order.
pub(crate) struct Feeder {
    shared: Arc<Shared>,
}

struct Shared {
    engine: EngineClient,
    log: LogStore,
    on_fatal: fn(&str),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Entries below this index were given to the engine and seen applied, or are in a snapshot that is live: an engine that
    /// stands below it has lost some. Never more than what this process knows to be committed, whatever the engine says.
    applied: u64,
    /// Opened once the engine had everything below `applied`.
    stream: Option<ApplyStream>,
}

impl Feeder {
    pub(crate) fn new(engine: EngineClient, log: LogStore, on_fatal: fn(&str)) -> Self {
        let state = Mutex::new(State::default());
        Self { shared: Arc::new(Shared { engine, log, on_fatal, state }) }
    }

    /// Begins anew with an engine that is known to have everything below `applied`.
    pub(crate) async fn begin(&self, applied: u64) {
        *self.shared.state.lock().await = State { applied, stream: None };
    }

    /// Lets `activate` make another state the live one, and begins anew where that stands. Nothing is fed from when `activate`
    /// begins until it is done, and nothing is when it fails: the next request finds out where the engine stands.
    pub(crate) async fn replace(
        &self,
        activate: impl Future<Output = Result<Position, Status>>,
    ) -> Result<Position, Status> {
        let mut state = self.shared.state.lock().await;
        // What this stream was sent and is not answered would be applied before, which does no harm; what comes after is sent
        // over another one.
        state.stream = None;
        let position = activate.await?;
        state.applied = position.next_index;
        Ok(position)
    }

    /// Has one request applied, which follows the one before. An error that is not [final](is_final) may pass. The answers are
    /// empty to what the engine had applied already.
    pub(crate) async fn apply(&self, request: ApplyRequest) -> Result<ApplyResponse, Status> {
        let mut state = self.shared.state.lock().await;
        let mut stream = match state.stream.take() {
            Some(stream) => stream,
            None => self.shared.open(state.applied).await?,
        };
        // The stream is gone when this fails, or is given up on the way.
        let (response, end) = stream.applied(request).await?;
        state.applied = state.applied.max(end);
        state.stream = Some(stream);
        Ok(response)
    }

    /// Looks for an engine that came back with less than it had, also while there is nothing to apply, until the feeder is
    /// gone; to be run as a task.
    pub(crate) fn watch(&self) -> impl Future<Output = ()> + Send + use<> {
        watch(self.shared.engine.clone(), Arc::downgrade(&self.shared))
    }
}

async fn watch(engine: EngineClient, feeder: Weak<Shared>) {
    let mut positions = engine.positions();
    loop {
        let Some(applied) = feeder.upgrade() else { return };
        let applied = applied.state.lock().await.applied;
        // A question that was under way when `applied` was looked at may be answered with less. The one after it cannot.
        for _ in 0..2 {
            if positions.changed().await.is_err() {
                return;
            }
        }
        let stands_at = *positions.borrow_and_update();
        let Some(feeder) = feeder.upgrade() else { return };
        if stands_at.is_some_and(|next_index| next_index < applied) {
            feeder.heal().await;
        }
    }
}

impl Shared {
    /// Opens a stream to an engine, once it has everything below `applied`.
    async fn open(&self, applied: u64) -> Result<ApplyStream, Status> {
        // In this order: an engine that dies in between takes the stream along. Were its position asked first, its successor
        // would get what follows that, and might stand below it.
        let mut stream = self.engine.apply_stream().await?;
        let next_index = self.engine.position().await?.next_index;
        if next_index < applied {
            self.catch_up(&mut stream, next_index, applied).await?;
        }
        Ok(stream)
    }

    /// Brings an engine that stands at `from` to `to` again. The answers were given when it was there first.
    async fn catch_up(&self, stream: &mut ApplyStream, from: u64, to: u64) -> Result<(), Status> {
        let start = self.log.wal().bounds().start;
        if from < start {
            // What it had made durable is lost.
            return Err(Status::failed_precondition(format!(
                "the engine stands at {from}, but had applied everything below {to}, and the log begins at {start}"
            )));
        }
        tracing::info!(from, to, "the engine has lost what was not durable yet: it comes again from the log");
        let began = std::time::Instant::now();
        let (mut log, mut next) = (self.log.clone(), from);
        while next < to {
            let entries =
                log.limited_get_log_entries(next, to).await.map_err(|error| Status::internal(error.to_string()))?;
            let mut chunk = Chunk::default();
            for entry in entries {
                chunk.push((entry, None));
            }
            if chunk.entries.is_empty() {
                return Err(Status::unavailable(format!("entry {next} left the log while being read")));
            }
            let (response, end) = stream.applied(ApplyRequest { entries: chunk.entries }).await?;
            next = end.max(response.next_index);
        }
        tracing::info!(from, to, seconds = began.elapsed().as_secs_f64(), "the engine has everything again");
        Ok(())
    }

    /// Asks the engine where it stands, while nothing else is applied, and brings it what it has lost.
    async fn heal(&self) {
        let mut state = self.state.lock().await;
        match self.engine.position().await {
            Ok(position) if position.next_index < state.applied => {}
            // Mended meanwhile, or gone again: the next look will tell.
            _ => return,
        }
        state.stream = None;
        match self.open(state.applied).await {
            Ok(stream) => state.stream = Some(stream),
            Err(status) if is_final(status.code()) => (self.on_fatal)(status.message()),
            Err(status) => tracing::debug!(%status, "the engine does not apply, trying again"),
        }
    }
}
