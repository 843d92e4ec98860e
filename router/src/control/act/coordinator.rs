//! [`Coordinator`]: works off the operations, on the one router that holds the lease.

use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_kv::MoveId;
use raftkv_link::backoff::Backoff;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{Notify, watch};

use crate::control::act::mover::{Mover, Trouble};
use crate::control::decide::agenda::{self, Next};
use crate::control::document::records::{MoveStep, Operation, OperationId, OperationState};
use crate::control::document::state::ClusterState;
use crate::control::document::store::{ClusterStore, StoreError};
use crate::control::now_ms;

/// The longest that a new operation waits to be seen when it was asked for at another router: the map is polled as often.
const LOOK: Duration = Duration::from_millis(250);
/// First wait after trouble: much of it is an election, and slots may be waiting.
const FIRST_WAIT: Duration = Duration::from_millis(20);
/// Longest wait after trouble.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Trouble that lasts longer than this is shown; shorter is an election.
const SHOWN_AFTER: Duration = Duration::from_secs(3);
/// A move that has been at the step `fencing` for so long keeps clients waiting, most likely because its coordinator died:
/// whoever sees it helps, without waiting for the lease. Far above what the step takes; both at once do no harm.
const RESCUE_AFTER: Duration = Duration::from_secs(2);
/// The document gets this long to be changed.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Works off the operations while its router coordinates. Everything it does is safe to be done by two at once.
#[derive(Debug)]
pub(in crate::control) struct Coordinator {
    store: ClusterStore,
    mover: Mover,
    wake: Arc<Notify>,
    stop: Shutdown,
    /// Since when nothing works, and what was shown of it.
    troubled: Option<(Instant, Option<String>)>,
    backoff: Backoff,
    /// The move that was first seen at the step `fencing`, and when.
    fencing: Option<(MoveId, Instant)>,
}

/// What a turn came to.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Worked,
    Idle,
}

impl Coordinator {
    pub(in crate::control) fn new(store: ClusterStore, mover: Mover, wake: Arc<Notify>, stop: Shutdown) -> Self {
        let backoff = Backoff::new(FIRST_WAIT, LONGEST_WAIT);
        Self { store, mover, wake, stop, troubled: None, backoff, fencing: None }
    }

    /// Runs until `stop`; works only while `leads` says so, or to end a pause that lasts too long. What is under way is left as it is: whoever coordinates next
    /// goes on with it.
    pub(in crate::control) async fn run(mut self, leads: watch::Receiver<bool>) {
        let stop = self.stop.clone();
        loop {
            let works = *leads.borrow() || self.must_rescue();
            let turn = async {
                match works {
                    true => self.turn().await,
                    false => {
                        self.mover.forget();
                        Ok(Turn::Idle)
                    }
                }
            };
            let turn = tokio::select! {
                () = stop.wait() => return,
                turn = turn => turn,
            };
            let pause = match turn {
                Ok(Turn::Worked) => {
                    self.recovered().await;
                    continue;
                }
                Ok(Turn::Idle) => {
                    self.recovered().await;
                    LOOK
                }
                Err(trouble) => {
                    self.troubled(&trouble).await;
                    self.backoff.wait()
                }
            };
            tokio::select! {
                () = stop.wait() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn turn(&mut self) -> Result<Turn, Trouble> {
        let Some(latest) = self.store.latest() else { return Ok(Turn::Idle) };
        let state = latest.state;
        if let Some(moving) = &state.moving {
            self.mover.turn(&state, moving).await?;
            return Ok(Turn::Worked);
        }
        if let Some(operation) = state.running() {
            self.go_on(operation).await?;
            return Ok(Turn::Worked);
        }
        let Some(id) = state.next_runnable() else { return Ok(Turn::Idle) };
        self.start(id).await?;
        Ok(Turn::Worked)
    }

    /// Whether a move keeps clients waiting for longer than a coordinator that works would let it.
    fn must_rescue(&mut self) -> bool {
        let latest = self.store.latest();
        let moving = latest.as_ref().and_then(|latest| latest.state.moving.as_ref());
        let Some(moving) = moving.filter(|moving| moving.step == MoveStep::Fencing) else {
            self.fencing = None;
            return false;
        };
        match self.fencing {
            Some((id, since)) if id == moving.id => since.elapsed() >= RESCUE_AFTER,
            _ => {
                self.fencing = Some((moving.id, Instant::now()));
                false
            }
        }
    }

    async fn start(&self, id: OperationId) -> Result<(), Trouble> {
        let started = self.store.update(Instant::now() + TIMEOUT, |state| {
            state.start_operation(id, now_ms())?;
            Ok(state.operations.get(&id).map(|operation| operation.task.clone()))
        });
        if let Some((Some(task), _)) = outdated_is_fine(started.await)? {
            tracing::info!(operation = id, task = ?task, "operation: begun");
        }
        Ok(())
    }

    /// Begins the operation's next move, or ends it.
    async fn go_on(&self, operation: &Operation) -> Result<(), Trouble> {
        let id = operation.id;
        let went = self.store.update(Instant::now() + TIMEOUT, |state| {
            let now = now_ms();
            let Some(operation) = state.operations.get(&id).cloned() else { return Ok(None) };
            let (end, error) = match (operation.state, agenda::next(state, &operation)) {
                // Cancelled too late: there is nothing left of it.
                (_, Next::Done) => (OperationState::Done, None),
                (OperationState::Cancelling, _) => (OperationState::Cancelled, None),
                (_, Next::Move { from, to, slots, remaining }) => {
                    state.note_remaining(id, remaining)?;
                    state.begin_move(id, from, to, slots, now)?;
                    return Ok(None);
                }
                (_, Next::Retire(group)) => {
                    state.retire_group(group)?;
                    (OperationState::Done, None)
                }
                (_, Next::Fail(why)) => (OperationState::Failed, Some(why)),
            };
            state.end_operation(id, end, error.as_deref(), now)?;
            Ok(Some((end, error)))
        });
        let Some((ended, found)) = outdated_is_fine(went.await)? else { return Ok(()) };
        match (ended, &found.state.moving) {
            (Some((end, error)), _) => {
                let slots = found.state.operations.get(&id).map_or(0, |operation| operation.slots_done);
                metrics::counter!("raftkv_router_operations_total", "outcome" => name(end)).increment(1);
                tracing::info!(operation = id, outcome = name(end), slots, error, "operation: over");
            }
            (None, Some(moving)) => tracing::info!(
                operation = id,
                move_id = moving.id,
                from = moving.from,
                to = moving.to,
                count = moving.slots.len(),
                slots = %brief(&moving.slots),
                "move: begun"
            ),
            (None, None) => {}
        }
        Ok(())
    }

    async fn troubled(&mut self, trouble: &Trouble) {
        let reason = trouble.to_string();
        let (since, shown) = self.troubled.get_or_insert_with(|| (Instant::now(), None));
        if since.elapsed() < SHOWN_AFTER || shown.as_deref() == Some(reason.as_str()) {
            return;
        }
        tracing::warn!(since = ?since.elapsed(), reason, "operation: stalled; it is tried again");
        *shown = Some(reason.clone());
        self.note(Some(&reason)).await;
    }

    async fn recovered(&mut self) {
        self.backoff.reset();
        if let Some((since, Some(_))) = self.troubled.take() {
            tracing::info!(after = ?since.elapsed(), "operation: goes on");
            self.note(None).await;
        }
    }

    /// Shows in the operation under way why it stalls, as far as the document can be changed at all.
    async fn note(&self, reason: Option<&str>) {
        metrics::gauge!("raftkv_router_operation_stalled").set(f64::from(u8::from(reason.is_some())));
        let Some(id) = self.store.latest().and_then(|latest| running(&latest.state)) else { return };
        let noted = self.store.update(Instant::now() + TIMEOUT, |state| state.note_stalled(id, reason)).await;
        if let Err(error) = noted {
            tracing::debug!(operation = id, "the reason was not written down: {error}");
        }
    }
}

fn running(state: &ClusterState) -> Option<OperationId> {
    state.running().map(|operation| operation.id)
}

/// That the document went on meanwhile is no trouble: the next turn sees what it says now.
fn outdated_is_fine<T>(updated: Result<T, StoreError>) -> Result<Option<T>, Trouble> {
    match updated {
        Ok(updated) => Ok(Some(updated)),
        Err(StoreError::Rejected(rejected))
            if rejected.code == crate::control::document::rejected::RejectedCode::Outdated =>
        {
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn name(state: OperationState) -> &'static str {
    match state {
        OperationState::Pending => "pending",
        OperationState::Running => "running",
        OperationState::Cancelling => "cancelling",
        OperationState::Done => "done",
        OperationState::Failed => "failed",
        OperationState::Cancelled => "cancelled",
    }
}

/// A set of slots for the log.
fn brief(slots: &raftkv_kv::SlotSet) -> String {
    match slots.ranges() {
        [] | [_] | [_, _] | [_, _, _] => slots.to_string(),
        ranges => format!("{} ranges from {} to {}", ranges.len(), ranges[0].0, ranges[ranges.len() - 1].1),
    }
}
