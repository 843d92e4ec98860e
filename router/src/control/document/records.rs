//! What the cluster document is made of.

use raftkv_kv::{MoveId, SlotSet};
use serde::{Deserialize, Serialize};

pub use crate::data::map::GroupId;

/// Names an operation. From 1, rising.
pub type OperationId = u64;

/// Where a group is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// Known, but not adopted yet or waiting for its nodes. Owns nothing.
    Forming,
    /// Owns slots, or may.
    Active,
    /// Gives its slots away, then is removed.
    Draining,
    /// Owns nothing and is not asked any more.
    Removed,
}

/// A group of nodes with one log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GroupRecord {
    /// Which.
    pub id: GroupId,
    /// For people.
    pub name: String,
    /// Where it is in its life.
    pub state: GroupState,
    /// Its part of the slots, relative to the other groups. 0 = none.
    pub weight: u32,
    /// What it owns.
    pub slots: SlotSet,
    /// Where routers reach its nodes, `host:port`.
    pub addresses: Vec<String>,
    /// The id of its Raft cluster, once it was seen. Another cluster at its addresses is not this group.
    pub cluster_id: String,
    /// Its members, as last seen.
    pub members: Vec<MemberRecord>,
    /// When it was first reached, in milliseconds since the Unix epoch; 0 = never.
    pub reached_ms: u64,
}

/// A member of a group, as last seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberRecord {
    /// Its name.
    pub name: String,
    /// Whether it votes.
    pub voter: bool,
    /// Where its sidecar's management listens; empty = not known.
    pub management_address: String,
    /// Where routers reach it; empty = not known.
    pub group_address: String,
}

/// A node that asked where it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeRecord {
    /// Its group.
    pub group: GroupId,
    /// It is the one that began the group.
    pub bootstrap: bool,
    /// Where its peers reach it.
    pub raft_address: String,
    /// Where its sidecar's management listens.
    pub management_address: String,
    /// Where routers reach it.
    pub group_address: String,
}

/// How far a move is, as recorded before the step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MoveStep {
    /// Both groups are told; keys are copied while all goes on.
    Copying,
    /// The source stops serving; the last changes are copied; the target takes over.
    Fencing,
    /// The target owns the slots; the source gives them up.
    Releasing,
    /// The source deletes what it no longer owns.
    Purging,
    /// The target forgets the move, then the source serves on, then leftovers are deleted.
    Aborting,
    /// Slots that nobody owns are given to a group. No copy.
    Claiming,
    /// The last group deletes everything. No copy.
    Disowning,
}

impl MoveStep {
    /// As it is written everywhere.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Fencing => "fencing",
            Self::Releasing => "releasing",
            Self::Purging => "purging",
            Self::Aborting => "aborting",
            Self::Claiming => "claiming",
            Self::Disowning => "disowning",
        }
    }
}

/// The move under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MoveRecord {
    /// Names it in both groups.
    pub id: MoveId,
    /// What it is a part of.
    pub operation: OperationId,
    /// The owner; `None` = nobody owns the slots.
    pub from: Option<GroupId>,
    /// The owner to be; `None` = nobody will, and their keys are deleted.
    pub to: Option<GroupId>,
    /// Which.
    pub slots: SlotSet,
    /// How far it is.
    pub step: MoveStep,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When the step [`MoveStep::Fencing`] was recorded; 0 = not yet.
    pub fencing_ms: u64,
    /// Keys copied so far, those of changes counted again.
    pub keys: u64,
    /// Bytes copied so far.
    pub bytes: u64,
    /// About how many keys there are to copy; 0 = not known.
    pub keys_estimate: u64,
    /// How long the slots were not served; 0 = not known yet.
    pub pause_ms: u64,
    /// Why it is being aborted, where it was not cancelled.
    pub failure: Option<String>,
}

/// A move that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FinishedMove {
    /// Named it.
    #[schema(value_type = u64)]
    pub id: MoveId,
    /// What it was a part of.
    pub operation: OperationId,
    /// The owner before.
    pub from: Option<GroupId>,
    /// The owner after, where it was committed.
    pub to: Option<GroupId>,
    /// Which slots; cut where they are many ranges.
    pub slots: String,
    /// How many slots.
    pub count: usize,
    /// Whether the slots changed their owner.
    pub committed: bool,
    /// Keys copied.
    pub keys: u64,
    /// Bytes copied.
    pub bytes: u64,
    /// How long the slots were not served, in milliseconds.
    pub pause_ms: u64,
    /// When it began, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When it ended.
    pub ended_ms: u64,
}

/// What an operation is to bring about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum OperationKind {
    /// A group gets its share of the slots, once it is active.
    AddGroup {
        /// Which.
        group: GroupId,
    },
    /// A group gives its slots away and is removed.
    RemoveGroup {
        /// Which.
        group: GroupId,
        /// It may be the last group: then all keys are deleted.
        delete_all_keys: bool,
    },
    /// Every group gets its share.
    Rebalance {},
    /// Slots go to a group.
    MoveSlots {
        /// Which.
        slots: SlotSet,
        /// Where to.
        to: GroupId,
    },
}

impl OperationKind {
    /// As it is written everywhere.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::AddGroup { .. } => "add_group",
            Self::RemoveGroup { .. } => "remove_group",
            Self::Rebalance {} => "rebalance",
            Self::MoveSlots { .. } => "move_slots",
        }
    }
}

/// Where an operation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationState {
    /// Waits for its turn, or for its group.
    Pending,
    /// Its moves are being made. At most one operation runs.
    Running,
    /// It is to end without doing the rest.
    Cancelling,
    /// It brought about what it was to.
    Done,
    /// It could not; what it had done stays.
    Failed,
    /// It was cancelled; what it had done stays.
    Cancelled,
}

impl OperationState {
    /// Whether it is over.
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled)
    }
}

/// Something that takes a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Operation {
    /// Which.
    pub id: OperationId,
    /// What it is to bring about.
    pub task: OperationKind,
    /// Where it stands.
    pub state: OperationState,
    /// Why it does not get on at the moment; it is tried again.
    pub stalled: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// Bytes copied a second at most; `None` = as the routers are configured.
    pub rate_bytes_per_second: Option<u64>,
    /// Slots moved so far.
    pub slots_done: usize,
    /// Slots moved and to be moved; known once it runs.
    pub slots_total: usize,
    /// Keys copied by its finished moves.
    pub keys: u64,
    /// Bytes copied by its finished moves.
    pub bytes: u64,
    /// The longest time that slots were not served, in milliseconds.
    pub longest_pause_ms: u64,
    /// When it was asked for, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it began to run; 0 = not yet.
    pub started_ms: u64,
    /// When it ended; 0 = not yet.
    pub ended_ms: u64,
}
