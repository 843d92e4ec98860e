//! [`Applier`]: what changes the state.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::Bytes;
use fjall::Keyspace;
use raftkv_runtime::failpoint;
use raftkv_runtime::stage::Stage;
use tokio::sync::oneshot;

use super::dues::Dues;
use super::flusher::Flusher;
use super::generation::Generation;
use super::machine::{Fault, Machine};
use super::seat::Jobs;
use super::sessions::Sessions;
use super::shards::Shards;
use super::shared::Shared;
use super::txn::Txn;
use super::{Applied, ApplyEntry, ApplyError, EntryKind, Fatal, Position, StoreError, layout};

/// Requests are merged into one batch until it has this many changes: about a millisecond of work.
const ROUND_RECORDS: usize = 4_096;
/// And at most this many requests: their answers wait for the whole batch.
const ROUND_REQUESTS: usize = 64;

/// Who waits for a request to be applied.
pub(super) type Reply = oneshot::Sender<Result<Applied, ApplyError>>;

/// What the apply thread remembers of a generation.
pub(super) struct Loaded {
    pub(super) sessions: Sessions,
    pub(super) shards: Shards,
    /// Of kept outcomes.
    pub(super) outcomes: Dues,
    /// Of values.
    pub(super) values: Dues,
}

impl Default for Loaded {
    /// Of an empty one.
    fn default() -> Self {
        Self {
            sessions: Sessions::default(),
            shards: Shards::default(),
            outcomes: Dues::none(layout::OUTCOME_DUE),
            values: Dues::none(layout::VALUE_DUE),
        }
    }
}

/// Reads it from a generation that nothing was applied to since it was opened.
pub(super) fn load(keyspace: &Keyspace) -> Result<Loaded, StoreError> {
    let shards = Shards::load(keyspace)?;
    let dues = |tag| Dues::load(tag, keyspace, shards.ownership());
    let (outcomes, values) = (dues(layout::OUTCOME_DUE)?, dues(layout::VALUE_DUE)?);
    Ok(Loaded { sessions: Sessions::load(keyspace)?, shards, outcomes, values })
}

/// The store was stopped.
pub(super) struct Ended;

/// Owns the order of all changes.
pub(super) struct Applier {
    shared: Arc<Shared>,
    generation: Arc<Generation>,
    machine: Machine,
    flusher: Flusher,
}

impl Applier {
    /// Over the live generation, of which that was loaded.
    pub(super) fn new(shared: Arc<Shared>, loaded: Loaded, flusher: Flusher) -> Self {
        let generation = shared.live();
        let machine = Machine::new(shared.limits, loaded, shared.shortcut.clone());
        let applier = Self { shared, generation, machine, flusher };
        applier.tell_deadline();
        applier
    }

    fn tell_deadline(&self) {
        self.shared.next_deadline_ms.store(self.machine.next_deadline_ms(), Ordering::Release);
    }

    /// Applies the first request and those that are waiting behind it, in one batch.
    pub(super) fn round(&mut self, first: (Vec<ApplyEntry>, Reply), jobs: &mut Jobs<'_>) -> Result<(), Ended> {
        let begin = Instant::now();
        self.flusher.make_room(&self.generation);
        let mut txn = Txn::new(&self.generation);
        let mut done: Vec<(Reply, Result<Applied, ApplyError>)> = Vec::new();
        let mut failure = None;
        let mut entries_applied = 0u64;
        let mut next = Some(first);
        while let Some((entries, reply)) = next.take() {
            let first = txn.meta.position.next_index;
            match apply_request(&mut self.machine, &mut txn, entries) {
                Ok(answers) => {
                    let next_index = txn.meta.position.next_index;
                    entries_applied += next_index - first;
                    done.push((reply, Ok(Applied { next_index, answers })));
                }
                Err(RequestFailure::Gap(gap)) => done.push((reply, Err(gap))),
                Err(RequestFailure::Fault(fault)) => {
                    failure = Some((reply, fault));
                    break;
                }
            }
            if txn.len() >= ROUND_RECORDS || done.len() >= ROUND_REQUESTS {
                break;
            }
            next = jobs.next_request();
        }

        if let Some((reply, fault)) = failure {
            // Nothing of the round was committed: after the restart it comes again.
            let replies = done.into_iter().map(|(reply, _)| reply).chain([reply]);
            return Err(self.end(self.describe(&fault), replies));
        }

        if entries_applied > 0 {
            let started = Instant::now();
            let next_index = txn.meta.position.next_index;
            let changed = self.machine.shards.store(&mut txn);
            failpoint!("engine::store::before_commit");
            txn.commit(changed);
            self.tell_deadline();
            failpoint!("engine::store::after_commit");
            // After the commit is visible: who waits for this position must find it.
            self.shared.applied.send_replace(next_index);
            self.machine.tell_own();
            Stage::Store.since(begin);
            metrics::counter!("raftkv_engine_applied_entries_total").increment(entries_applied);
            metrics::counter!("raftkv_engine_apply_batches_total").increment(1);
            metrics::histogram!("raftkv_engine_commit_seconds").record(started.elapsed().as_secs_f64());
        }
        for (reply, result) in done {
            let _ = reply.send(result);
        }
        Ok(())
    }

    pub(super) fn activate(&mut self, token: u64) -> Result<Position, StoreError> {
        // None: it is live already, the answer to an earlier call was lost.
        if let Some((generation, loaded)) = self.shared.activate(token)? {
            self.machine = Machine::new(self.shared.limits, loaded, self.shared.shortcut.clone());
            self.tell_deadline();
            let old = std::mem::replace(&mut self.generation, generation);
            self.shared.remove_when_unused(old);
        }
        let position = self.generation.now().meta.position.clone();
        self.shared.applied.send_replace(position.next_index);
        Ok(position)
    }

    /// Whether applying goes on without a wait for a flush.
    pub(super) fn has_room(&self) -> bool {
        self.flusher.has_room(&self.generation)
    }

    /// Stops the store, and tells who waits if the process is still there after that.
    fn end(&self, fatal: Fatal, replies: impl Iterator<Item = Reply>) -> Ended {
        let error = ApplyError::Fatal(fatal.message.clone());
        self.shared.stop(fatal);
        for reply in replies {
            let _ = reply.send(Err(error.clone()));
        }
        Ended
    }

    fn describe(&self, fault: &Fault) -> Fatal {
        match fault {
            Fault::Undecodable { .. } => Fatal::software(format!(
                "{fault}. Was it written by a newer version? This node cannot go on without applying it"
            )),
            Fault::Storage { source: StoreError::Corrupt(_), .. } => {
                self.shared.damage(self.generation.number, &fault.to_string())
            }
            Fault::Storage { source: StoreError::Unsupported(_), .. } => Fatal::data(fault.to_string()),
            Fault::Storage { source: StoreError::Inconsistent(_), .. } => Fatal::software(fault.to_string()),
            Fault::Storage { .. } => Fatal::io(fault.to_string()),
        }
    }
}

enum RequestFailure {
    Gap(ApplyError),
    Fault(Fault),
}

/// Applies one request, or nothing of it.
fn apply_request(
    machine: &mut Machine,
    txn: &mut Txn<'_>,
    entries: Vec<ApplyEntry>,
) -> Result<Vec<Bytes>, RequestFailure> {
    let mut expected = txn.meta.position.next_index;
    for entry in &entries {
        if entry.index > expected {
            return Err(RequestFailure::Gap(ApplyError::Gap { got: entry.index, expected }));
        }
        if entry.index == expected {
            expected += 1;
        }
    }
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        if entry.index < txn.meta.position.next_index {
            let count = match &entry.kind {
                EntryKind::Payloads(payloads) => payloads.len().max(1),
                _ => 1,
            };
            answers.extend(std::iter::repeat_n(Bytes::new(), count));
        } else {
            machine.apply(txn, entry, &mut answers).map_err(RequestFailure::Fault)?;
        }
    }
    Ok(answers)
}
