//! The copy: pages of keys, then of changes, from the source to the target.

use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::{ImportPage, MoveId, SystemAnswer, SystemCommand};
use raftkv_proto::group::ExportPage;

use crate::control::act::catch_up::{PageFacts, Verdict};
use crate::control::act::mover::{Mover, PROGRESS_EVERY, STEP_TIMEOUT, Trouble, not_done, refused};
use crate::control::decide::step::{Action, CopyView};
use crate::control::document::records::{MoveRecord, MoveStep};
use crate::data::group::GroupClient;

/// A page of keys, about: one log entry at the target, small enough to be replicated and applied in a few milliseconds.
const PAGE_BYTES: u32 = 256 * 1024;

impl Mover {
    /// Brings one page from the source to the target.
    pub(super) async fn copy(&mut self, moving: &MoveRecord, page: u64, cursor: Bytes) -> Result<(), Trouble> {
        let (Some(from), Some(to)) = (moving.from, moving.to) else { return Ok(()) };
        let (source, target) = (self.client(from)?, self.client(to)?);
        let Some(active) = &mut self.active else { return Ok(()) };
        let began = Instant::now();
        let cursor = match active.skipped.take() {
            Some((at_page, skipped)) if at_page == page => skipped,
            _ => cursor,
        };
        let export = match active.ahead.take() {
            Some((from_cursor, export)) if from_cursor == cursor => export,
            _ => export(&source, moving.id, cursor.clone()).await.map_err(|reason| refused(from, "export", reason))?,
        };
        let (next, done) = (export.cursor.clone(), export.base_done.then_some(export.changes_done));
        if is_empty(&export.records) {
            active.skipped = Some((page, next.clone()));
            active.views.copy = CopyView { fence_now: false, at_page: page, changes_done: done };
            if next == cursor && !export.base_done {
                let reason = "an export that neither ends nor goes on".to_owned();
                return Err(refused(from, "export", BackendError::Internal(reason)));
            }
        } else {
            let records = export.records.clone();
            let bytes = records.len() as u64;
            let import = SystemCommand::Import { id: moving.id, page, cursor: next.clone(), records };
            let until = Instant::now() + STEP_TIMEOUT;
            // The next page is read while this one is replicated; of changes only when there are some left.
            let reads_ahead = !export.base_done;
            let ahead = async {
                match reads_ahead {
                    true => self::export(&source, moving.id, next.clone()).await.ok(),
                    false => None,
                }
            };
            let (answer, ahead) = tokio::join!(target.system(import, until), ahead);
            let answer = answer.map_err(|error| not_done(to, "import", error))?;
            active.ahead = ahead.map(|export| (next.clone(), export));
            let action = Action::CopyPage { page, cursor };
            if let SystemAnswer::Imported { next_page } = answer {
                active.views.imported(next_page, next);
                active.views.copy = CopyView { fence_now: false, at_page: next_page, changes_done: done };
                active.progress.keys += export.keys;
                active.progress.bytes += bytes;
                metrics::counter!("raftkv_router_move_bytes_total").increment(bytes);
                metrics::counter!("raftkv_router_move_keys_total").increment(export.keys);
                if moving.step == MoveStep::Copying {
                    let wait = active.pace.spend(bytes, Instant::now());
                    tokio::time::sleep(wait.min(PROGRESS_EVERY)).await;
                }
            } else {
                self.learn(to, &action, &answer).await?;
            }
        }
        self.judge(moving, &export, began.elapsed());
        self.note_progress(moving).await
    }

    /// Decides whether to fence, after a page.
    fn judge(&mut self, moving: &MoveRecord, export: &ExportPage, took: Duration) {
        let Some(active) = &mut self.active else { return };
        if !export.base_done || moving.step != MoveStep::Copying {
            return;
        }
        let facts = PageFacts {
            changes: export.changes_done.saturating_sub(active.changes_done),
            done: export.changes_done,
            total: export.changes_total,
            took,
        };
        active.changes_done = export.changes_done;
        let verdict = active.catch_up.page(facts);
        let left = facts.total.saturating_sub(facts.done);
        match verdict {
            Verdict::GoOn => return,
            Verdict::Little => {
                tracing::info!(
                    move_id = moving.id,
                    changes = facts.total,
                    left,
                    "move: all but the last changes are copied"
                );
            }
            Verdict::NoLess => {
                tracing::warn!(
                    move_id = moving.id,
                    left,
                    pause = ?active.catch_up.estimate(left),
                    "move: keys change as fast as they are copied; the pause will be longer than it should"
                );
            }
        }
        active.views.copy.fence_now = true;
    }
}

async fn export(source: &GroupClient, id: MoveId, cursor: Bytes) -> Result<ExportPage, BackendError> {
    source.export(id, cursor, PAGE_BYTES, Instant::now() + STEP_TIMEOUT).await
}

/// Whether a page holds no records.
fn is_empty(records: &Bytes) -> bool {
    records.is_empty() || *records == ImportPage::default().encode()
}
