//! [`Brake`]: ends a compaction that would fill the disk.
//!
//! How much a compaction writes is not known before: what was removed is read and not written. So it may begin, and is ended when it
//! has used what may be used. Nothing has changed then, and what was written of the new tables is removed.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fjall::LsmError;
use fjall::compaction::filter::{CompactionFilter, CompactionFilterResult, Context, Factory, ItemAccessor, Verdict};
use raftkv_runtime::disk::{DiskPlan, Space};

/// The disk is looked at each time this many bytes were written.
const LOOK_EVERY_BYTES: usize = 1024 * 1024;

/// What part of the default reserve is left to flushes and to the log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kept {
    /// Half: values are refused while less is free than the reserve, and a compaction is not to bring that about for long.
    Half,
    /// An eighth: what is removed gives more back.
    Eighth,
}

impl Kept {
    pub(super) fn bytes(self, plan: &DiskPlan) -> u64 {
        match self {
            Self::Half => plan.reserve / 2,
            Self::Eighth => plan.reserve / 8,
        }
    }

    /// Compacts on this thread, with a brake that keeps so much.
    pub(super) fn while_compacting<T>(self, compact: impl FnOnce() -> T) -> T {
        KEPT.set(self);
        compact()
    }
}

thread_local! {
    /// For the compaction of this thread: fjall makes the brake where it compacts.
    static KEPT: Cell<Kept> = const { Cell::new(Kept::Half) };
}

/// Makes the brakes of the compactions of a database in a directory. Fjall has no other way to end one, and calls it a filter; this
/// one lets all records pass.
#[derive(Debug)]
pub(super) struct Brakes {
    dir: PathBuf,
}

impl Brakes {
    pub(super) fn of(dir: &Path) -> Arc<dyn Factory> {
        Arc::new(Self { dir: dir.to_owned() })
    }
}

impl Factory for Brakes {
    fn name(&self) -> &str {
        "brake"
    }

    fn make_filter(&self, _: &Context) -> Box<dyn CompactionFilter> {
        Box::new(Brake { dir: self.dir.clone(), kept: KEPT.get(), written: 0 })
    }
}

struct Brake {
    dir: PathBuf,
    kept: Kept,
    /// Since the last look.
    written: usize,
}

impl CompactionFilter for Brake {
    fn filter_item(&mut self, item: ItemAccessor<'_>, _: &Context) -> CompactionFilterResult {
        // Sharing the value costs nothing: tombstones do not come here, and values are not kept apart.
        self.written += item.key().len() + item.value()?.len();
        if self.written >= LOOK_EVERY_BYTES {
            self.written = 0;
            let is_used_up = |space: Space| space.free_bytes < self.kept.bytes(&DiskPlan::for_disk(space.total_bytes));
            if Space::of(&self.dir).is_ok_and(is_used_up) {
                return Err(LsmError::Io(std::io::ErrorKind::StorageFull.into()));
            }
        }
        Ok(Verdict::Keep)
    }
}
