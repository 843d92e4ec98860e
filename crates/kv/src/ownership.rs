//! [`Ownership`]: the slots served by a group and the state of slot moves. Replicated in the state of the group.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{MoveId, SlotSet, SlotTimes, codec, slot_time};

/// Slot ownership of a group after a given log entry.
///
/// The default is a standalone group, which serves every slot and belongs to no sharded store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// Id of the sharded store; 0 = none.
    pub store: u64,
    /// Id of the group within the store; 0 = none.
    pub group: u32,
    /// Slots owned by the group; meaningless while the group belongs to no store.
    pub owned: SlotSet,
    /// The highest move (or claim, or disown) begun here: commands for lower moves are late.
    pub last_move: MoveId,
    /// The export under way.
    pub outgoing: Option<Outgoing>,
    /// The import under way.
    pub incoming: Option<Incoming>,
    /// Result of the last import.
    pub last_import: Option<Ended>,
    /// Result of the last export.
    pub last_export: Option<Ended>,
    /// The purge under way.
    pub purge: Option<PurgeState>,
    /// Offsets of slot time from the clock of the group. Omitted while empty, as is always the case below the cluster
    /// version with slot time.
    #[serde(default, skip_serializing_if = "SlotTimes::is_empty")]
    pub times: SlotTimes,
}

/// A move from this group to another group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Id of the move.
    pub id: MoveId,
    /// The slots of the move; owned here until the move ends.
    pub slots: SlotSet,
    /// The fence, after which the slots are not served; `None` = still served.
    pub fence: Option<FencePoint>,
    /// Number of changes recorded so far.
    pub changes: u64,
}

/// State of the source group at the fence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencePoint {
    /// Total number of changes recorded.
    pub changes: u64,
    /// Revision of the group.
    pub revision: u64,
    /// Replicated clock of the group.
    pub clock_ms: u64,
}

/// A move from another group to this group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Id of the move.
    pub id: MoveId,
    /// The slots of the move; hidden until the move is committed.
    pub slots: SlotSet,
    /// Number of pages imported so far.
    pub pages: u64,
    /// Position from which the export continues; empty = start.
    #[serde(with = "crate::codec::bin")]
    pub cursor: Bytes,
}

/// Result of a move in this group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Id of the move.
    pub id: MoveId,
    /// Committed (imported or released) if true, aborted otherwise.
    pub committed: bool,
}

/// State of a purge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeState {
    /// Slots with keys and idempotency outcomes left to delete.
    pub slots: SlotSet,
    /// Position from which the purge continues; opaque.
    #[serde(with = "crate::codec::bin")]
    pub cursor: Bytes,
}

impl Ownership {
    /// Whether the group is part of a sharded store.
    pub fn is_sharded(&self) -> bool {
        self.store != 0
    }

    /// Whether the group serves reads and writes of `slot`.
    pub fn serves(&self, slot: u16) -> bool {
        !self.is_sharded()
            || (self.owned.contains(slot)
                && !self.outgoing.as_ref().is_some_and(|out| out.fence.is_some() && out.slots.contains(slot)))
    }

    /// Returns the slots served by the group.
    pub fn served(&self) -> SlotSet {
        match &self.outgoing {
            _ if !self.is_sharded() => SlotSet::all(),
            Some(out) if out.fence.is_some() => self.owned.difference(&out.slots),
            _ => self.owned.clone(),
        }
    }

    /// Returns the time of a slot at the given group clock. Slot time stands still while the slot is not served.
    pub fn time_of(&self, slot: u16, clock_ms: u64) -> u64 {
        let fence = self.outgoing.as_ref().filter(|out| out.slots.contains(slot)).and_then(|out| out.fence);
        slot_time(fence.map_or(clock_ms, |fence| fence.clock_ms), self.times.offset(slot))
    }

    /// Encodes the ownership, version byte first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
