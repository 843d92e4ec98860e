//! [`ClusterState`]: the one document that says what the store is made of. Kept in the meta group, changed by
//! compare-and-set, and only by the transitions in [`change`](crate::control::decide::change).

use std::collections::BTreeMap;

use raftkv_kv::{MoveId, SLOTS, SlotSet};
use serde::{Deserialize, Serialize};

use crate::control::document::plan::Share;
use crate::control::document::records::{
    FinishedMove, GroupId, GroupRecord, GroupState, MoveRecord, MoveStep, NodeRecord, Operation, OperationId,
};
use crate::data::map::{GroupEntry, Moving, ShardMap, SlotTable};

/// The format that this version reads and writes.
pub const FORMAT: u32 = 1;
/// The meta group's id: the group that the document lives in.
pub const META_GROUP: GroupId = 1;

/// Most groups that are not removed. Bounds the document.
pub const MAX_GROUPS: usize = 128;
/// Removed groups that are remembered.
pub const MAX_REMOVED_GROUPS: usize = 16;
/// Most registered nodes: three for each group. Bounds the document.
pub const MAX_NODES: usize = 384;
/// Most members of a group that are written down, and most of its addresses.
pub const MAX_MEMBERS: usize = 9;
/// Longest name or address.
pub const MAX_TEXT_BYTES: usize = 255;
/// Longest name of a group, as a DNS label.
pub const MAX_GROUP_NAME_BYTES: usize = 63;
/// Largest weight: shares of slots are exact to a thousandth, finer ones would say nothing.
pub const MAX_WEIGHT: u32 = 1_000;
/// Operations that wait or run. More are refused.
pub const MAX_OPEN_OPERATIONS: usize = 32;
/// Operations that are over and remembered.
pub const MAX_PAST_OPERATIONS: usize = 64;
/// Moves that are over and remembered.
pub const MAX_PAST_MOVES: usize = 64;
/// Most ranges of slots that one explicit move may name.
pub const MAX_ASKED_RANGES: usize = 256;
/// Most slots of one move: keeps what changes meanwhile, and so the pause, small. A larger one is made in parts, each of
/// which scans the source once.
pub const MAX_SLOTS_PER_MOVE: usize = 2_048;
/// Marks of writes that are kept: more than others write while a lost answer is found out.
pub const MAX_WRITES: usize = 64;
/// Longest reason or error that is written down.
pub const MAX_REASON_BYTES: usize = 300;

/// What the store is made of, where it stands, and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterState {
    /// [`FORMAT`]. Another one is refused.
    pub format: u32,
    /// Marks of the last writes, the newest last: by its mark a router knows that its write took place when the answer
    /// was lost.
    pub writes: Vec<String>,
    /// Names the sharded store. Never 0.
    #[serde(with = "hexadecimal")]
    pub store: u64,
    /// Rises with every change of slots or groups.
    pub epoch: u64,
    /// Nodes that a group is to have.
    pub replicas: usize,
    /// The id of the next group.
    pub next_group: GroupId,
    /// The id of the next move.
    pub next_move: MoveId,
    /// The id of the next operation.
    pub next_operation: OperationId,
    /// By id.
    pub groups: BTreeMap<GroupId, GroupRecord>,
    /// Nodes that asked where they belong, by name.
    pub nodes: BTreeMap<String, NodeRecord>,
    /// The move under way. There is at most one.
    pub moving: Option<MoveRecord>,
    /// Moves that are over, oldest first, so many as are remembered.
    pub past_moves: Vec<FinishedMove>,
    /// By id: those that wait or run, and so many of those that are over as are remembered.
    pub operations: BTreeMap<OperationId, Operation>,
}

/// Why bytes are not a cluster document of this version.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Written by another version of this software.
    #[error(
        "the cluster document has format {found}, this router knows format {FORMAT}: run a router of the version that wrote it"
    )]
    UnknownFormat {
        /// The one found.
        found: u64,
    },
    /// Not what this version writes.
    #[error("the cluster document is malformed: {0}")]
    Malformed(#[from] serde_json::Error),
    /// It contradicts itself.
    #[error("the cluster document contradicts itself: {0}")]
    Contradiction(String),
}

impl ClusterState {
    /// A new store with one group, which owns everything.
    pub fn init(store: u64, addresses: Vec<String>, replicas: usize) -> Self {
        let meta = GroupRecord {
            id: META_GROUP,
            name: format!("group{META_GROUP}"),
            state: GroupState::Active,
            weight: 1,
            slots: SlotSet::all(),
            addresses,
            cluster_id: String::new(),
            members: Vec::new(),
            reached_ms: 0,
        };
        Self {
            format: FORMAT,
            writes: Vec::new(),
            store,
            epoch: 1,
            replicas,
            next_group: META_GROUP + 1,
            next_move: 1,
            next_operation: 1,
            groups: BTreeMap::from([(META_GROUP, meta)]),
            nodes: BTreeMap::new(),
            moving: None,
            past_moves: Vec::new(),
            operations: BTreeMap::new(),
        }
    }

    /// As JSON.
    pub fn encode(&self) -> Vec<u8> {
        // Structs, maps with text or integer keys: always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote. Refuses another format and whatever contradicts itself, rather than to
    /// go on from a guess.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Header {
            format: u64,
        }
        let header: Header = serde_json::from_slice(bytes)?;
        if header.format != u64::from(FORMAT) {
            return Err(StateError::UnknownFormat { found: header.format });
        }
        let state: Self = serde_json::from_slice(bytes)?;
        state.check().map_err(StateError::Contradiction)?;
        Ok(state)
    }

    /// What always holds.
    pub fn check(&self) -> Result<(), String> {
        let mut seen = SlotSet::new();
        for (id, group) in &self.groups {
            if *id == 0 || group.id != *id || *id >= self.next_group {
                return Err(format!("group {id} has an id that was not given out"));
            }
            if group.slots.overlaps(&seen) {
                return Err(format!("slots of group {id} have another owner as well"));
            }
            if !group.slots.is_empty() && !matches!(group.state, GroupState::Active | GroupState::Draining) {
                return Err(format!("group {id} owns slots and is not active"));
            }
            seen = seen.union(&group.slots);
        }
        if !self.groups.contains_key(&META_GROUP) {
            return Err("the meta group is missing".to_owned());
        }
        // The last group gives up all slots at once, and a first one claims all at once.
        if !seen.is_empty() && seen.len() < usize::from(SLOTS) {
            return Err("some slots have no owner".to_owned());
        }
        if let Some(moving) = &self.moving {
            if moving.id == 0 || moving.id >= self.next_move {
                return Err(format!("move {} has an id that was not given out", moving.id));
            }
            let is_flipped = matches!(moving.step, MoveStep::Releasing | MoveStep::Purging);
            let owner = if is_flipped { moving.to } else { moving.from };
            let owned = match owner {
                Some(owner) => self.groups.get(&owner).is_some_and(|group| group.slots.contains_all(&moving.slots)),
                None => !seen.overlaps(&moving.slots),
            };
            if !owned {
                return Err(format!("the slots of move {} are not where its step says", moving.id));
            }
            if !self.operations.contains_key(&moving.operation) {
                return Err(format!("move {} is a part of no operation", moving.id));
            }
        }
        if let Some((id, _)) = self.operations.last_key_value().filter(|(id, _)| **id >= self.next_operation) {
            return Err(format!("operation {id} has an id that was not given out"));
        }
        Ok(())
    }

    /// Whether it can have been made of `before` by changes of routers: it is of the same store, and nothing that only rises has gone back.
    ///
    /// # Errors
    /// What cannot be.
    pub fn check_after(&self, before: &Self) -> Result<(), String> {
        if self.store != before.store {
            return Err(format!("it is of store {:016x}; this router serves store {:016x}", self.store, before.store));
        }
        for (name, now, before) in [
            ("epoch", self.epoch, before.epoch),
            ("next_group", self.next_group.into(), before.next_group.into()),
            ("next_move", self.next_move, before.next_move),
            ("next_operation", self.next_operation, before.next_operation),
        ] {
            if now < before {
                return Err(format!("its {name} went back from {before} to {now}"));
            }
        }
        Ok(())
    }

    /// Groups that own slots or may, as a plan sees them. Those that are being removed have no weight.
    pub fn shares(&self) -> Vec<Share> {
        let active =
            self.groups.values().filter(|group| !matches!(group.state, GroupState::Removed | GroupState::Forming));
        let weight = |group: &GroupRecord| if group.state == GroupState::Draining { 0 } else { group.weight };
        active.map(|group| Share { group: group.id, weight: weight(group), slots: group.slots.clone() }).collect()
    }

    /// The slots that no group owns: none, but after the last group was removed.
    pub fn unowned(&self) -> SlotSet {
        let owned = self.groups.values().fold(SlotSet::new(), |all, group| all.union(&group.slots));
        SlotSet::all().difference(&owned)
    }

    /// Who owns a slot.
    pub fn owner(&self, slot: u16) -> Option<&GroupRecord> {
        self.groups.values().find(|group| group.slots.contains(slot))
    }

    /// The operation whose moves are being made.
    pub fn running(&self) -> Option<&Operation> {
        use crate::control::document::records::OperationState::{Cancelling, Running};
        self.operations.values().find(|operation| matches!(operation.state, Running | Cancelling))
    }

    /// Leaves the mark of a write.
    pub fn sign(&mut self, mark: String) {
        self.writes.push(mark);
        let surplus = self.writes.len().saturating_sub(MAX_WRITES);
        self.writes.drain(..surplus);
    }

    /// What the data plane needs of it; `version` is the document's.
    pub fn map(&self, version: u64) -> ShardMap {
        let mut slots = SlotTable::new();
        let mut groups = BTreeMap::new();
        for group in self.groups.values().filter(|group| group.state != GroupState::Removed) {
            slots.assign(&group.slots, group.id);
            let entry = GroupEntry { id: group.id, name: group.name.clone(), addresses: group.reachable_at() };
            groups.insert(group.id, entry);
        }
        let moving = self.moving.as_ref().and_then(|moving| {
            let is_under_way = moving.step != MoveStep::Purging;
            let (from, to) = (moving.from?, moving.to?);
            is_under_way.then(|| Moving { id: moving.id, slots: moving.slots.clone(), from, to })
        });
        ShardMap { store: self.store, version, epoch: self.epoch, groups, slots, moving }
    }
}

impl GroupRecord {
    /// Where its nodes are reached: the members' addresses, and those it was added with.
    pub fn reachable_at(&self) -> Vec<String> {
        let members = self.members.iter().map(|member| &member.group_address).filter(|address| !address.is_empty());
        let mut addresses: Vec<String> = members.chain(&self.addresses).cloned().collect();
        let mut seen = std::collections::BTreeSet::new();
        addresses.retain(|address| seen.insert(address.clone()));
        addresses
    }

    /// Whether it takes part: owns slots, or may soon.
    pub fn is_live(&self) -> bool {
        self.state != GroupState::Removed
    }
}

/// 64 bits as text: JSON's numbers have 53 in many languages.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::control) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{number:016x}"))
    }

    pub(in crate::control) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16).map_err(|_| D::Error::custom("not a hexadecimal number of 64 bits"))
    }
}
