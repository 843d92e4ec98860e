//! [`Ownership`]: which slots a group serves, and where its moves stand. Replicated in the group's own state.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{MoveId, SlotSet, SlotTimes, codec, slot_time};

/// What a group owns, as of one entry of its log.
///
/// The default is a group by itself: it serves every slot and belongs to no sharded store.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ownership {
    /// The sharded store it is a part of; 0 = none.
    pub store: u64,
    /// Its id in that store; 0 = none.
    pub group: u32,
    /// The slots it owns; without a meaning while it is in no store.
    pub owned: SlotSet,
    /// The highest move (or claim, or disowning) that was begun here: a lower one is late.
    pub last_move: MoveId,
    /// The move under way from here.
    pub outgoing: Option<Outgoing>,
    /// The move under way to here.
    pub incoming: Option<Incoming>,
    /// How the last move to here ended.
    pub last_import: Option<Ended>,
    /// How the last move from here ended.
    pub last_export: Option<Ended>,
    /// What is to be deleted.
    pub purge: Option<PurgeState>,
    /// How the time of slots differs from the clock of the group. Not written where no slot has an offset, as below the cluster version
    /// that knows slot time.
    #[serde(default, skip_serializing_if = "SlotTimes::is_empty")]
    pub times: SlotTimes,
}

/// A move from this group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// Which.
    pub id: MoveId,
    /// Its slots; owned until the move ends.
    pub slots: SlotSet,
    /// Since when they are not served; `None` = they still are.
    pub fence: Option<FencePoint>,
    /// Changes recorded so far.
    pub changes: u64,
}

/// Where the source stood when it was fenced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FencePoint {
    /// Changes recorded in all.
    pub changes: u64,
    /// The group's revision.
    pub revision: u64,
    /// The group's replicated clock.
    pub clock_ms: u64,
}

/// A move to this group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incoming {
    /// Which.
    pub id: MoveId,
    /// Its slots; hidden until the move is committed.
    pub slots: SlotSet,
    /// Pages imported so far.
    pub pages: u64,
    /// Where the export goes on; empty = at its beginning.
    #[serde(with = "crate::codec::bin")]
    pub cursor: Bytes,
}

/// How a move ended here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Which.
    pub id: MoveId,
    /// Committed (imported, or released), or else aborted.
    pub committed: bool,
}

/// What a purge has still to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeState {
    /// Whose keys and outcomes are to be deleted.
    pub slots: SlotSet,
    /// Where it goes on; opaque.
    #[serde(with = "crate::codec::bin")]
    pub cursor: Bytes,
}

impl Ownership {
    /// Whether it is a part of a sharded store.
    pub fn is_sharded(&self) -> bool {
        self.store != 0
    }

    /// Whether reads and writes of this slot are served.
    pub fn serves(&self, slot: u16) -> bool {
        !self.is_sharded()
            || (self.owned.contains(slot)
                && !self.outgoing.as_ref().is_some_and(|out| out.fence.is_some() && out.slots.contains(slot)))
    }

    /// The slots that are served.
    pub fn served(&self) -> SlotSet {
        match &self.outgoing {
            _ if !self.is_sharded() => SlotSet::all(),
            Some(out) if out.fence.is_some() => self.owned.difference(&out.slots),
            _ => self.owned.clone(),
        }
    }

    /// The time of a slot when the group's clock shows that. It stands still while the slot is not served.
    pub fn time_of(&self, slot: u16, clock_ms: u64) -> u64 {
        let fence = self.outgoing.as_ref().filter(|out| out.slots.contains(slot)).and_then(|out| out.fence);
        slot_time(fence.map_or(clock_ms, |fence| fence.clock_ms), self.times.offset(slot))
    }

    /// Encodes it, version first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) made. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
