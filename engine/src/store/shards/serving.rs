//! [`Serving`]: whether the state that a reader has read was served.

use std::sync::Arc;

use raftkv_kv::{Ownership, SlotSet};

use crate::store::StoreError;
use crate::store::generation::Generation;
use crate::store::read::View;

/// Version of what is served while the group is in no sharded store: reads need not look any further.
const UNSHARDED: u64 = 0;

/// Taken before a reader looks at the state.
///
/// What is served is published after the batch that changes it, and a number is odd in between. A reader that finds the
/// number unchanged has seen a state that what was published goes with. One that does not asks the state itself, which
/// is always right and costs a read.
pub(in crate::store) struct Serving {
    version: u64,
    /// `None` while unsharded.
    ownership: Option<Arc<Ownership>>,
}

impl Serving {
    /// Before the view is taken.
    pub(in crate::store) fn now(generation: &Generation) -> Self {
        let version = generation.serving_version();
        let ownership = (version != UNSHARDED).then(|| generation.ownership());
        Self { version, ownership }
    }

    /// After everything was read from `view`: whether `slot` was served in it.
    pub(in crate::store) fn serves(&self, generation: &Generation, view: &View, slot: u16) -> Result<bool, StoreError> {
        match self.unchanged(generation) {
            Some(None) => Ok(true),
            Some(Some(ownership)) => Ok(ownership.serves(slot)),
            None => view.ownership().map(|ownership| ownership.serves(slot)),
        }
    }

    /// Whether the group was in no sharded store before the view was taken and still is in none.
    pub(in crate::store) fn is_unsharded(&self, generation: &Generation) -> bool {
        matches!(self.unchanged(generation), Some(None))
    }

    /// The ownership that goes with a view taken since, where that is known; `Some(None)` = unsharded.
    fn unchanged(&self, generation: &Generation) -> Option<Option<&Ownership>> {
        let is_same = self.version.is_multiple_of(2) && generation.serving_version() == self.version;
        is_same.then_some(self.ownership.as_deref())
    }

    /// The version that a generation begins with.
    pub(in crate::store) fn first_version(ownership: &Ownership) -> u64 {
        if ownership.is_sharded() { 2 } else { UNSHARDED }
    }
}

impl View {
    /// The slots that were served; `None` = all of them, the group being in no sharded store.
    pub(in crate::store) fn served(
        &self,
        before: &Serving,
        generation: &Generation,
    ) -> Result<Option<SlotSet>, StoreError> {
        if before.is_unsharded(generation) {
            return Ok(None);
        }
        let ownership = self.ownership()?;
        Ok(ownership.is_sharded().then(|| ownership.served()))
    }
}
