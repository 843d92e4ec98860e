//! [`SystemCommand`]: what a router's coordinator asks of a group: system keys, ownership of slots, moves.
//!
//! None of them is in a session. Each may arrive any number of times, late, and from a coordinator that was replaced
//! meanwhile: it says which move it belongs to, what it expects, and is otherwise refused without any effect.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Outcome, SlotSet, SlotTime, codec};

/// Names one move of slots. Rises with every move of a sharded store; never used again.
pub type MoveId = u64;

/// A change of a group that no client can ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemCommand {
    /// Writes a system key: a document that a router keeps in the meta group. A repeat of the write that made the present
    /// version is answered as the first time.
    PutKey {
        /// Its name, 1 to [`MAX_SYSTEM_KEY_BYTES`](crate::MAX_SYSTEM_KEY_BYTES) bytes; apart from clients' keys.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// The version it must have now; 0 = it must not exist.
        expected_version: u64,
        /// The document, [`MAX_SYSTEM_VALUE_BYTES`](crate::MAX_SYSTEM_VALUE_BYTES) at most.
        #[serde(with = "crate::codec::bin")]
        value: Bytes,
    },
    /// Makes the group a part of a sharded store, from which it never returns. It owns no slot from then on; before, a
    /// group owns every slot. Refused when keys are stored and `keep` is not set.
    Adopt {
        /// Id of the sharded store, never 0.
        store: u64,
        /// Id of the group in it, never 0.
        group: u32,
        /// The group is the first one: it goes on owning every slot, with all its keys.
        keep: bool,
    },
    /// Owns slots that no group owns, without any keys. Only for a store whose last group was removed.
    Claim {
        /// Makes it happen once.
        id: MoveId,
        /// Which.
        slots: SlotSet,
    },
    /// Owns these slots no more; their keys are to be purged.
    Disown {
        /// Makes it happen once.
        id: MoveId,
        /// Which.
        slots: SlotSet,
    },
    /// At the target: makes room for a move. What is imported stays hidden until [`CommitImport`](Self::CommitImport).
    BeginImport {
        /// Which move.
        id: MoveId,
        /// Its slots, none of them owned here or waiting for a purge.
        slots: SlotSet,
        /// The source's cluster version, which is not above the one here. Not written where it is the first: version 0.1.0 knows no other.
        #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
        version: u32,
    },
    /// At the target: one page of what the source exports.
    Import {
        /// Which move.
        id: MoveId,
        /// Its number, from 0. Pages come in order: another number is refused with the one expected.
        page: u64,
        /// Where the export goes on after this page: opaque here, told by [`Ownership`](crate::Ownership).
        #[serde(with = "crate::codec::bin")]
        cursor: Bytes,
        /// An encoded [`ImportPage`], as the source made it.
        #[serde(with = "crate::codec::bin")]
        records: Bytes,
    },
    /// At the target: owns the slots from now on. The point of no return: before it a move can be aborted, after it it
    /// can only be finished.
    CommitImport {
        /// Which move.
        id: MoveId,
        /// How many pages were imported; another number is refused.
        pages: u64,
        /// The source's revision when it was fenced: revisions of the keys go on above it.
        revision: u64,
        /// The source's clock when it was fenced.
        clock_ms: u64,
        /// What the time of the slots was then. Not written where the source's cluster version knows no slot time: it was the clock.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        times: Vec<SlotTime>,
    },
    /// At the target: forgets the move, for ever, also one whose beginning has not come yet. What was imported is to be
    /// purged.
    AbortImport {
        /// Which move.
        id: MoveId,
    },
    /// At the source: records from now on which keys change, while all goes on.
    BeginExport {
        /// Which move.
        id: MoveId,
        /// Its slots, all owned here.
        slots: SlotSet,
        /// Its cluster version, which the target is known to understand; refused when the version is another one now. It does not rise
        /// while the export is under way.
        #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
        version: u32,
    },
    /// At the source: serves these slots no more. Answered with how much there was to export in all.
    Fence {
        /// Which move.
        id: MoveId,
    },
    /// At the source: serves the slots again, and never begins this move. Only after
    /// [`AbortImport`](Self::AbortImport) at the target was answered.
    AbortExport {
        /// Which move.
        id: MoveId,
    },
    /// At the source: owns the slots no more. Only after [`CommitImport`](Self::CommitImport) at the target was answered.
    Release {
        /// Which move.
        id: MoveId,
    },
    /// Deletes some of what is not owned any more, and records of changes that no move needs.
    Purge {
        /// Most records looked at.
        limit: u32,
    },
    /// Raises the cluster version, unless an [`UpgradePolicy`](crate::UpgradePolicy) holds it. To be proposed only when every member decodes it: a program of
    /// version 0.1.0 ends.
    RaiseVersion {
        /// The version that it must be now.
        from: u32,
        /// The next one.
        to: u32,
    },
}

fn first_version() -> u32 {
    1
}

// Serde passes a reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_first_version(version: &u32) -> bool {
    *version == first_version()
}

/// What became of a [`SystemCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemAnswer {
    /// It is so now; maybe it was so before.
    Done,
    /// The system key has this version now.
    KeyPut {
        /// Rises with every change of the key.
        version: u64,
    },
    /// The source serves the slots of the move no more.
    Fenced {
        /// Changes recorded since the export began: the export is complete when it has come to this one.
        changes: u64,
        /// The group's revision.
        revision: u64,
        /// The group's clock.
        clock_ms: u64,
        /// What the time of the slots of the move is, and stays while nobody serves them. Not written below the cluster version that knows
        /// slot time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        times: Vec<SlotTime>,
    },
    /// Pages up to this one are imported.
    Imported {
        /// The number of the next page.
        next_page: u64,
    },
    /// Some leftovers are gone.
    Purged {
        /// Records removed.
        removed: u64,
        /// Nothing is left to purge.
        done: bool,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// Why a [`SystemCommand`] changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The system key has another version.
    #[error("the system key has version {version}")]
    Version {
        /// The one it has; 0 = there is no such key.
        version: u64,
    },
    /// The document is too large.
    #[error("the document has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// How large.
        bytes: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The group is not a part of a sharded store.
    #[error("the group is not part of a sharded store")]
    NotAdopted,
    /// The group is another one, or in another store.
    #[error("this is group {group} of store {store:016x}")]
    OtherIdentity {
        /// The store it is in.
        store: u64,
        /// Its id there.
        group: u32,
    },
    /// The group holds keys, which joining would hide.
    #[error("the group holds {keys} keys; only an empty group can be added")]
    NotEmpty {
        /// How many.
        keys: u64,
    },
    /// Some of the slots are not owned here.
    #[error("some of the slots are not owned by this group")]
    NotOwned,
    /// Some of the slots are owned here.
    #[error("some of the slots are owned by this group already")]
    Owned,
    /// Keys of some of the slots wait to be purged.
    #[error("keys of an earlier move have not been purged yet")]
    PurgePending,
    /// Another move is under way in this direction.
    #[error("move {id} is under way")]
    Busy {
        /// Which one.
        id: MoveId,
    },
    /// The move is over here, committed.
    #[error("the move is over: it was committed")]
    Committed,
    /// The move is over here, aborted; or its number is lower than that of a move seen here.
    #[error("the move is over: it was aborted, or a later one was begun")]
    Aborted,
    /// No such move was begun here.
    #[error("no such move was begun here")]
    Unknown,
    /// The step does not fit where the move is.
    #[error("the step does not fit: the move is {0}")]
    Step(String),
    /// Another page is expected.
    #[error("page {next_page} is expected")]
    Page {
        /// Its number.
        next_page: u64,
    },
    /// The cluster version is another one, or too low for what comes from a group with a higher one.
    #[error("the cluster version is {version}")]
    ClusterVersion {
        /// Which.
        version: u32,
    },
    /// The cluster version is held.
    #[error("the cluster version is held")]
    Held,
    /// What was sent makes no sense: a page that cannot be decoded or holds keys of other slots, an id of 0.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// What one page of an export holds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportPage {
    /// In no particular order, each key at most once.
    pub records: Vec<ImportRecord>,
}

/// One record on its way from one group to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportRecord {
    /// A key has this value.
    Value {
        /// The key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// Its revision at the source, which it keeps.
        revision: u64,
        /// Its creation revision, which it keeps.
        create_revision: u64,
        /// When it expires, in milliseconds since the Unix epoch; 0 = never.
        expires_at_ms: u64,
        /// The encoded value.
        #[serde(with = "crate::codec::bin")]
        value: Bytes,
    },
    /// A key has no value (any more).
    Absent {
        /// The key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
    },
    /// The outcome kept for an `Idempotency-Key`.
    Idempotency {
        /// The slot in which it was used.
        slot: u16,
        /// The client's key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// Of the request.
        fingerprint: u64,
        /// When it is forgotten, in milliseconds since the Unix epoch.
        expires_at_ms: u64,
        /// What the request came to.
        outcome: Outcome,
    },
}

impl ImportPage {
    /// Encodes it, version first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) made. Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
