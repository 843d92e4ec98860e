//! [`Mover`]: carries out the move under way, one action after the other, as [`next_step`] decides.

mod copy;
mod whole;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::{MoveId, Ownership, SystemAnswer, SystemCommand};
use raftkv_proto::FIRST_VERSION;
use raftkv_proto::group::ExportPage;

use crate::control::act::catch_up::CatchUp;
use crate::control::act::hold::Hold;
use crate::control::act::pace::{Pace, PurgeSize};
use crate::control::decide::change::Progress;
use crate::control::decide::step::{Action, Learned, SourceView, TargetView, Versions, Views, next_step};
use crate::control::document::records::{GroupId, MoveRecord, MoveStep};
use crate::control::document::state::ClusterState;
use crate::control::document::store::{ClusterStore, StoreError};
use crate::control::now_ms;
use crate::data::group::GroupClient;
use crate::data::groups::Groups;

/// A group gets this long for a step; then the step is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// A move waits so long for a target whose cluster version is lower than the source's: versions rise group by group.
const VERSION_PATIENCE: Duration = Duration::from_secs(30);
/// How often progress is written down, where there is any.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Why a move does not get on just now.
#[derive(Debug, thiserror::Error)]
pub(in crate::control) enum Trouble {
    /// A group does not answer, or refuses for now.
    #[error("group {group} while the move is to {action}: {reason}")]
    Group {
        /// Which.
        group: GroupId,
        /// What it was asked for.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// A group will never do it.
    #[error("group {group} refuses to {action}: {reason}")]
    Hopeless {
        /// Which.
        group: GroupId,
        /// What it was asked for.
        action: &'static str,
        /// Why not.
        reason: String,
    },
    /// The document cannot be changed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This should not happen; somebody has to look.
    #[error("{0}")]
    Stuck(String),
}

/// Carries out moves. Keeps nothing that must survive: a new one goes on where the groups and the document stand.
#[derive(Debug)]
pub(in crate::control) struct Mover {
    store: ClusterStore,
    groups: Groups,
    hold: Hold,
    default_rate: Option<u64>,
    active: Option<Active>,
}

/// What is known of the move under way.
#[derive(Debug)]
struct Active {
    id: MoveId,
    views: Views,
    versions: Versions,
    begun: Instant,
    catch_up: CatchUp,
    pace: Pace,
    purge: PurgeSize,
    /// A page that was read ahead, and the cursor that it was read from.
    ahead: Option<(Bytes, ExportPage)>,
    /// Where the export goes on behind pages that held nothing, which the target need not be told of; and for which of its
    /// pages that is so.
    skipped: Option<(u64, Bytes)>,
    progress: Progress,
    noted_at: Instant,
    changes_done: u64,
    /// When the fence was sent, if by this router.
    fenced_at: Option<Instant>,
    pause: Option<Duration>,
    held: BTreeSet<&'static str>,
    must_describe: bool,
}

impl Mover {
    pub(in crate::control) fn new(store: ClusterStore, groups: Groups, hold: Hold, default_rate: Option<u64>) -> Self {
        Self { store, groups, hold, default_rate, active: None }
    }

    /// Forgets what is known: the next action begins with asking.
    pub(in crate::control) fn forget(&mut self) {
        self.active = None;
    }

    /// Takes the next action of the move under way.
    pub(in crate::control) async fn turn(&mut self, state: &ClusterState, moving: &MoveRecord) -> Result<(), Trouble> {
        match (moving.from, moving.to) {
            (None, Some(to)) => return self.claim(moving, to).await,
            (Some(from), None) if moving.step == MoveStep::Disowning => return self.disown(moving, from).await,
            _ => {}
        }
        if self.active.as_ref().is_none_or(|active| active.id != moving.id) {
            self.active = Some(self.begin(state, moving));
        }
        if self.active.as_ref().is_some_and(|active| active.must_describe) {
            self.describe(moving).await?;
        }
        let Some(active) = &self.active else { return Ok(()) };
        let action = match (moving.from, moving.to) {
            // Nothing but the deletion is left of a move to nobody.
            (Some(_), None) if active.views.source_purged => Action::RecordFinished,
            (Some(_), None) => Action::PurgeSource,
            _ => next_step(moving.step, &active.views),
        };
        if self.hold_before(moving, &action).await {
            return Ok(());
        }
        let done = match self.act(moving, &action).await {
            Err(hopeless @ Trouble::Hopeless { .. })
                if matches!(moving.step, MoveStep::Copying | MoveStep::Fencing) =>
            {
                self.undo(moving, &hopeless.to_string()).await
            }
            done => done,
        };
        if done.is_err()
            && let Some(active) = &mut self.active
        {
            active.must_describe = true;
        }
        done
    }

    fn begin(&self, state: &ClusterState, moving: &MoveRecord) -> Active {
        let operation = state.operations.get(&moving.operation);
        let rate = operation.and_then(|operation| operation.rate_bytes_per_second).or(self.default_rate);
        tracing::info!(
            move_id = moving.id,
            operation = moving.operation,
            from = moving.from,
            to = moving.to,
            slots = moving.slots.len(),
            step = moving.step.as_str(),
            "move: taking it up"
        );
        Active {
            id: moving.id,
            views: Views::default(),
            versions: Versions::default(),
            begun: Instant::now(),
            catch_up: CatchUp::default(),
            pace: Pace::new(rate),
            purge: PurgeSize::default(),
            ahead: None,
            skipped: None,
            progress: Progress { keys: moving.keys, bytes: moving.bytes, keys_estimate: moving.keys_estimate },
            noted_at: Instant::now(),
            changes_done: 0,
            fenced_at: None,
            pause: None,
            held: BTreeSet::new(),
            must_describe: true,
        }
    }

    /// Asks both groups where they stand. The one that is not needed for the next action may be away.
    async fn describe(&mut self, moving: &MoveRecord) -> Result<(), Trouble> {
        let (Some(from), Some(to)) = (moving.from, moving.to) else { return Ok(()) };
        let until = Instant::now() + STEP_TIMEOUT;
        let source = self.client(from)?;
        let target = self.client(to)?;
        let (source, target) = tokio::join!(source.describe(until), target.describe(until));
        let Some(active) = &mut self.active else { return Ok(()) };
        if let Ok(described) = source {
            let ownership = Ownership::decode(&described.ownership).map_err(|error| undecoded(from, &error))?;
            active.versions.see_source(described.cluster_version);
            active.views.source.advance(SourceView::of(&ownership, active.versions.source(), moving.id));
            let owned = ownership.owned.len().max(1) as u64;
            if active.progress.keys_estimate == 0 && moving.step == MoveStep::Copying {
                active.progress.keys_estimate = described.keys * moving.slots.len() as u64 / owned;
            }
        }
        if let Ok(described) = target {
            let ownership = Ownership::decode(&described.ownership).map_err(|error| undecoded(to, &error))?;
            active.versions.see_target(described.cluster_version);
            active.views.target.advance(TargetView::of(&ownership, moving.id));
        }
        active.must_describe = false;
        Ok(())
    }

    async fn act(&mut self, moving: &MoveRecord, action: &Action) -> Result<(), Trouble> {
        if matches!(action, Action::BeginImport | Action::BeginExport)
            && let Some(reason) = self.active.as_ref().and_then(|active| active.versions.gap())
        {
            return self.wait_for_version(moving, action, reason).await;
        }
        let (id, slots) = (moving.id, moving.slots.clone());
        let version = self.active.as_ref().map_or(FIRST_VERSION, |active| active.versions.source());
        let command = match action {
            Action::BeginImport => SystemCommand::BeginImport { id, slots, version },
            Action::BeginExport => SystemCommand::BeginExport { id, slots, version },
            Action::Fence => {
                if let Some(active) = &mut self.active {
                    active.fenced_at.get_or_insert_with(Instant::now);
                }
                SystemCommand::Fence { id }
            }
            Action::Commit { pages, revision, clock_ms, times } => SystemCommand::CommitImport {
                id,
                pages: *pages,
                revision: *revision,
                clock_ms: *clock_ms,
                times: times.clone(),
            },
            Action::Release => SystemCommand::Release { id },
            Action::AbortImport => SystemCommand::AbortImport { id },
            Action::AbortExport => SystemCommand::AbortExport { id },
            Action::PurgeSource | Action::PurgeTarget => return self.purge(moving, action).await,
            Action::CopyPage { page, cursor } => return self.copy(moving, *page, cursor.clone()).await,
            Action::RecordFencing
            | Action::RecordCommitted
            | Action::RecordReleased
            | Action::RecordAborted
            | Action::RecordFinished => return self.record(moving, action).await,
            Action::Impossible(what) => return Err(Trouble::Stuck(format!("move {id}: {what}"))),
        };
        let Some(group) = (if action.is_at_source() { moving.from } else { moving.to }) else { return Ok(()) };
        let answer = self.command(group, action.name(), command).await?;
        tracing::info!(move_id = id, group, action = action.name(), answer = ?answer, "move");
        if let Some(active) = &mut self.active
            && matches!(action, Action::Commit { .. })
            && let Some(fenced_at) = active.fenced_at
        {
            active.pause = Some(fenced_at.elapsed());
        }
        self.learn(group, action, &answer).await
    }

    async fn learn(&mut self, group: GroupId, action: &Action, answer: &SystemAnswer) -> Result<(), Trouble> {
        let Some(active) = &mut self.active else { return Ok(()) };
        match active.views.learn(action, answer) {
            Learned::Went => Ok(()),
            Learned::Behind => {
                active.must_describe = true;
                Ok(())
            }
            Learned::Unpurged => {
                let limit = active.purge.records();
                self.command(group, "purge", SystemCommand::Purge { limit }).await.map(drop)
            }
            Learned::Risen => {
                let reason = "its cluster version has risen".to_owned();
                Err(Trouble::Group { group, action: action.name(), reason })
            }
            Learned::Hopeless(reason) => Err(Trouble::Hopeless { group, action: action.name(), reason }),
        }
    }

    /// The target does not know yet what the source would export. Nothing has been copied.
    async fn wait_for_version(&self, moving: &MoveRecord, action: &Action, reason: String) -> Result<(), Trouble> {
        let Some(group) = moving.to else { return Ok(()) };
        if self.active.as_ref().is_some_and(|active| active.begun.elapsed() < VERSION_PATIENCE) {
            return Err(Trouble::Group { group, action: action.name(), reason });
        }
        Err(Trouble::Hopeless { group, action: action.name(), reason })
    }

    /// Records that the move cannot be done. Should its target have committed it all the same, it is found out then.
    async fn undo(&self, moving: &MoveRecord, failure: &str) -> Result<(), Trouble> {
        tracing::warn!(move_id = moving.id, failure, "move: it cannot be done and is undone");
        let until = Instant::now() + STEP_TIMEOUT;
        settled(self.store.update(until, |state| state.abort_move(moving.id, Some(failure))).await)
    }

    async fn purge(&mut self, moving: &MoveRecord, action: &Action) -> Result<(), Trouble> {
        let group = if action.is_at_source() { moving.from } else { moving.to };
        let (Some(group), Some(active)) = (group, &self.active) else { return Ok(()) };
        let limit = active.purge.records();
        let began = Instant::now();
        let answer = self.command(group, "purge", SystemCommand::Purge { limit }).await?;
        let is_done = matches!(answer, SystemAnswer::Purged { done: true, .. });
        if let SystemAnswer::Purged { removed, .. } = answer {
            metrics::counter!("raftkv_router_move_purged_total").increment(removed);
        }
        self.learn(group, action, &answer).await?;
        if is_done {
            tracing::info!(move_id = moving.id, group, "move: leftovers are deleted");
        } else if let Some(active) = &mut self.active {
            let wait = active.purge.took(began.elapsed());
            tokio::time::sleep(wait).await;
        }
        Ok(())
    }

    /// Writes a step down.
    async fn record(&mut self, moving: &MoveRecord, action: &Action) -> Result<(), Trouble> {
        let Some(active) = &self.active else { return Ok(()) };
        let (id, progress) = (moving.id, active.progress);
        // A router that took over after the fence knows only when it was going to be.
        let since_fence = if moving.fencing_ms > 0 { now_ms().saturating_sub(moving.fencing_ms) } else { 0 };
        let pause_ms = active.pause.map_or(since_fence, |pause| (pause.as_millis() as u64).max(1));
        let until = Instant::now() + STEP_TIMEOUT;
        let recorded = self.store.update(until, |state| {
            let now = now_ms();
            // What was copied is a part of every step.
            state.note_progress(id, progress)?;
            match action {
                Action::RecordFencing => state.fence_move(id, now),
                Action::RecordCommitted => state.flip_move(id, pause_ms),
                Action::RecordReleased => state.release_move(id),
                Action::RecordFinished => state.finish_move(id, now),
                _ => state.abort_move(id, Some("the move was aborted in one of its groups")),
            }
        });
        settled(recorded.await)?;
        tracing::info!(move_id = id, action = action.name(), "move");
        match action {
            Action::RecordCommitted => {
                metrics::histogram!("raftkv_router_move_pause_seconds").record(pause_ms as f64 / 1_000.0);
                tracing::info!(move_id = id, pause_ms, to = moving.to, "move: the target owns the slots");
            }
            Action::RecordFinished => {
                let outcome = if moving.step == MoveStep::Aborting { "aborted" } else { "committed" };
                metrics::counter!("raftkv_router_moves_total", "outcome" => outcome).increment(1);
                tracing::info!(
                    move_id = id,
                    outcome,
                    keys = progress.keys,
                    bytes = progress.bytes,
                    took_ms = now_ms().saturating_sub(moving.started_ms),
                    "move: over"
                );
                self.active = None;
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes down how much is copied, once in a while.
    async fn note_progress(&mut self, moving: &MoveRecord) -> Result<(), Trouble> {
        let Some(active) = &mut self.active else { return Ok(()) };
        // Not while the slots are not served: that costs time.
        if active.noted_at.elapsed() < PROGRESS_EVERY || moving.step != MoveStep::Copying {
            return Ok(());
        }
        active.noted_at = Instant::now();
        let progress = active.progress;
        let until = Instant::now() + STEP_TIMEOUT;
        settled(self.store.update(until, |state| state.note_progress(moving.id, progress)).await)
    }

    async fn command(
        &self,
        group: GroupId,
        action: &'static str,
        command: SystemCommand,
    ) -> Result<SystemAnswer, Trouble> {
        let client = self.client(group)?;
        client.system(command, Instant::now() + STEP_TIMEOUT).await.map_err(|error| not_done(group, action, error))
    }

    fn client(&self, group: GroupId) -> Result<GroupClient, Trouble> {
        let map = self.store.map();
        let client = map.and_then(|map| self.groups.client(&map, group));
        client.ok_or_else(|| Trouble::Stuck(format!("group {group} is not in the map")))
    }

    /// For tests: waits where the configuration says so. Says whether it did: much may have changed meanwhile.
    async fn hold_before(&mut self, moving: &MoveRecord, action: &Action) -> bool {
        let Some(active) = &mut self.active else { return false };
        // The first action behind the fence is a copy, unless nothing changed since the last one.
        let places: &[&'static str] = match (action, moving.step) {
            (Action::CopyPage { .. }, MoveStep::Fencing) => &["copy-fenced"],
            (Action::Commit { .. }, _) => &["copy-fenced", "commit"],
            _ => &[action.name()],
        };
        for place in places {
            if let Some(time) = self.hold.before(place)
                && active.held.insert(place)
            {
                tracing::warn!(move_id = moving.id, place, ?time, "move: held before this, as configured for tests");
                tokio::time::sleep(time).await;
                return true;
            }
        }
        false
    }
}

/// Somebody else having recorded first is as good as having done so: what follows is read from the document.
fn settled<T>(updated: Result<T, StoreError>) -> Result<(), Trouble> {
    match updated {
        Ok(_) => Ok(()),
        Err(StoreError::Rejected(rejected)) => {
            tracing::debug!("move: the document went on meanwhile: {rejected}");
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// Of a system command: what is rejected is none that any node of that version takes, so the move is not tried again.
fn not_done(group: GroupId, action: &'static str, error: BackendError) -> Trouble {
    match error {
        BackendError::Rejected(reason) => Trouble::Hopeless { group, action, reason },
        error => refused(group, action, error),
    }
}

fn refused(group: GroupId, action: &'static str, error: BackendError) -> Trouble {
    Trouble::Group { group, action, reason: error.to_string() }
}

fn undecoded(group: GroupId, error: &impl std::fmt::Display) -> Trouble {
    Trouble::Group { group, action: "describe", reason: format!("its ownership is not understood: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_group_rejects_fails_a_move_and_what_it_cannot_do_now_does_not() {
        let rejected = not_done(2, "commit", BackendError::Rejected("the revision is too high".to_owned()));
        assert_eq!(rejected.to_string(), "group 2 refuses to commit: the revision is too high");
        assert!(matches!(rejected, Trouble::Hopeless { .. }));
        for passing in [
            BackendError::Unavailable("x".to_owned()),
            BackendError::DiskFull("x".to_owned()),
            BackendError::OutcomeUnknown("x".to_owned()),
        ] {
            assert!(matches!(not_done(2, "commit", passing), Trouble::Group { .. }));
        }
    }
}
