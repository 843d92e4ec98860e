//! [`SystemCommand`]: requests of a router's coordinator to a group: system keys, slot ownership, slot moves.
//!
//! System commands belong to no session. A command may arrive repeatedly, late, and from a coordinator already
//! replaced. Each command therefore carries the move id and the expected state; on a mismatch the group refuses the
//! command without any effect.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Outcome, SlotSet, SlotTime, codec};

/// Id of a move of slots. Rises with every move of a sharded store and is never reused.
pub type MoveId = u64;

/// A change of a group, not available to clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemCommand {
    /// Writes a system key: a document kept by routers in the meta group. A repeat of the write of the current version
    /// gets the same answer as the first write.
    PutKey {
        /// Name, 1 to [`MAX_SYSTEM_KEY_BYTES`](crate::MAX_SYSTEM_KEY_BYTES) bytes; separate from the keys of clients.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// Expected current version; 0 = the key must not exist.
        expected_version: u64,
        /// The document, at most [`MAX_SYSTEM_VALUE_BYTES`](crate::MAX_SYSTEM_VALUE_BYTES).
        #[serde(with = "crate::codec::bin")]
        value: Bytes,
    },
    /// Makes the group part of a sharded store, permanently. A standalone group owns every slot; after adoption the
    /// group owns no slot. Refused if the group stores keys and `keep` is not set.
    Adopt {
        /// Id of the sharded store, never 0.
        store: u64,
        /// Id of the group in the store, never 0.
        group: u32,
        /// Set for the first group, which keeps all slots and all keys.
        keep: bool,
    },
    /// Takes ownership of unowned slots, without any keys. Only for a store after removal of the last group.
    Claim {
        /// Ensures at-most-once execution.
        id: MoveId,
        /// The slots to claim.
        slots: SlotSet,
    },
    /// Gives up ownership of slots; the keys are purged.
    Disown {
        /// Ensures at-most-once execution.
        id: MoveId,
        /// The slots to give up.
        slots: SlotSet,
    },
    /// At the target: begins an import. Imported data stays hidden until [`CommitImport`](Self::CommitImport).
    BeginImport {
        /// Id of the move.
        id: MoveId,
        /// The slots of the move, none of them owned here or waiting for a purge.
        slots: SlotSet,
        /// Cluster version of the source, at most the local version. Omitted for the first version: version 0.1.0 knows
        /// no other.
        #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
        version: u32,
    },
    /// At the target: imports one page of the export.
    Import {
        /// Id of the move.
        id: MoveId,
        /// Page number, from 0. Pages arrive in order: a wrong number is refused, with the expected number in the
        /// refusal.
        page: u64,
        /// Position from which the export continues after this page: opaque here, returned in
        /// [`Ownership`](crate::Ownership).
        #[serde(with = "crate::codec::bin")]
        cursor: Bytes,
        /// An [`ImportPage`] as encoded by the source.
        #[serde(with = "crate::codec::bin")]
        records: Bytes,
    },
    /// At the target: takes ownership of the slots. The point of no return: a move can be aborted only before the
    /// commit, and only be finished afterwards.
    CommitImport {
        /// Id of the move.
        id: MoveId,
        /// Number of imported pages; any other number is refused.
        pages: u64,
        /// Revision of the source at the fence: new revisions of the keys are higher.
        revision: u64,
        /// Clock of the source at the fence.
        clock_ms: u64,
        /// Slot times at the fence. Omitted below the cluster version with slot time, where the clock of the source is
        /// the slot time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        times: Vec<SlotTime>,
    },
    /// At the target: aborts the move permanently, even before `BeginImport` arrives. Imported data is purged.
    AbortImport {
        /// Id of the move.
        id: MoveId,
    },
    /// At the source: starts to record changed keys, while the slots are still served.
    BeginExport {
        /// Id of the move.
        id: MoveId,
        /// The slots of the move, all owned here.
        slots: SlotSet,
        /// Cluster version of the source, known to be supported by the target; refused if the version has changed. The
        /// version does not rise during the export.
        #[serde(default = "first_version", skip_serializing_if = "is_first_version")]
        version: u32,
    },
    /// At the source: stops serving the slots. The answer contains the total number of changes to export.
    Fence {
        /// Id of the move.
        id: MoveId,
    },
    /// At the source: serves the slots again and never begins this move. Only after the target has answered
    /// [`AbortImport`](Self::AbortImport).
    AbortExport {
        /// Id of the move.
        id: MoveId,
    },
    /// At the source: gives up ownership of the slots. Only after the target has answered
    /// [`CommitImport`](Self::CommitImport).
    Release {
        /// Id of the move.
        id: MoveId,
    },
    /// Deletes part of the data not owned any more, and change records not needed by any move.
    Purge {
        /// Maximum number of records to examine.
        limit: u32,
    },
    /// Raises the cluster version, unless an [`UpgradePolicy`](crate::UpgradePolicy) holds the version. Propose only if
    /// every member can decode the command: a version 0.1.0 process exits.
    RaiseVersion {
        /// Expected current version.
        from: u32,
        /// The next version.
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

/// The answer to a [`SystemCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SystemAnswer {
    /// The requested state holds now, and may have held before.
    Done,
    /// The system key is written.
    KeyPut {
        /// The current version, which rises with every change of the key.
        version: u64,
    },
    /// The source does not serve the slots of the move any more.
    Fenced {
        /// Changes recorded since the export began: the export is complete after this number of changes.
        changes: u64,
        /// Revision of the group.
        revision: u64,
        /// Clock of the group.
        clock_ms: u64,
        /// Slot times of the move, constant while no group serves the slots. Omitted below the cluster version with
        /// slot time.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        times: Vec<SlotTime>,
    },
    /// All pages below `next_page` are imported.
    Imported {
        /// The number of the next page.
        next_page: u64,
    },
    /// Part of the leftover data is deleted.
    Purged {
        /// Number of records removed.
        removed: u64,
        /// Whether the purge is complete.
        done: bool,
    },
    /// Nothing changed.
    Refused(Refusal),
}

/// The reason a [`SystemCommand`] was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// The system key has a different version.
    #[error("the system key has version {version}")]
    Version {
        /// The current version; 0 = the key does not exist.
        version: u64,
    },
    /// The name or the document is too large.
    #[error("the document has {bytes} bytes; the limit is {limit}")]
    TooLarge {
        /// Actual size.
        bytes: u64,
        /// Maximum size.
        limit: u64,
    },
    /// The group is not part of a sharded store.
    #[error("the group is not part of a sharded store")]
    NotAdopted,
    /// The group has a different id, or belongs to a different store.
    #[error("this is group {group} of store {store:016x}")]
    OtherIdentity {
        /// Id of the store of the group.
        store: u64,
        /// Id of the group in the store.
        group: u32,
    },
    /// The group holds keys, which adoption would hide.
    #[error("the group holds {keys} keys; only an empty group can be added")]
    NotEmpty {
        /// Number of keys.
        keys: u64,
    },
    /// Some slots are not owned here.
    #[error("some of the slots are not owned by this group")]
    NotOwned,
    /// Some slots are owned here, or being imported.
    #[error("some of the slots are owned by this group already")]
    Owned,
    /// Keys in some slots are still waiting for a purge.
    #[error("keys of an earlier move have not been purged yet")]
    PurgePending,
    /// Another move in the same direction is under way.
    #[error("move {id} is under way")]
    Busy {
        /// Id of the other move.
        id: MoveId,
    },
    /// The move has ended here with a commit.
    #[error("the move is over: it was committed")]
    Committed,
    /// The move has ended here with an abort, or the move id is lower than the highest id seen here.
    #[error("the move is over: it was aborted, or a later one was begun")]
    Aborted,
    /// The move was never begun here.
    #[error("no such move was begun here")]
    Unknown,
    /// The command does not fit the state of the move.
    #[error("the step does not fit: the move is {0}")]
    Step(String),
    /// Another page is expected.
    #[error("page {next_page} is expected")]
    Page {
        /// The expected page number.
        next_page: u64,
    },
    /// The cluster version differs from the expected version, or is lower than the version of the source group.
    #[error("the cluster version is {version}")]
    ClusterVersion {
        /// The current version.
        version: u32,
    },
    /// The cluster version is held.
    #[error("the cluster version is held")]
    Held,
    /// Invalid content: a page with broken encoding or with keys of other slots, an id of 0.
    #[error("malformed: {0}")]
    Malformed(String),
}

/// One page of an export.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ImportPage {
    /// Records in arbitrary order, each key at most once.
    pub records: Vec<ImportRecord>,
}

/// One record of an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ImportRecord {
    /// The key has this value.
    Value {
        /// The key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// Revision at the source, kept at the target.
        revision: u64,
        /// Creation revision, kept at the target.
        create_revision: u64,
        /// Expiry time in milliseconds since the Unix epoch; 0 = never.
        expires_at_ms: u64,
        /// The encoded value.
        #[serde(with = "crate::codec::bin")]
        value: Bytes,
    },
    /// The key has no value (any more).
    Absent {
        /// The key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
    },
    /// The outcome kept for an `Idempotency-Key`.
    Idempotency {
        /// The slot of the keyed write.
        slot: u16,
        /// The client's key.
        #[serde(with = "crate::codec::bin")]
        key: Bytes,
        /// Hash of the request.
        fingerprint: u64,
        /// Expiry time of the outcome in milliseconds since the Unix epoch.
        expires_at_ms: u64,
        /// Outcome of the request.
        outcome: Outcome,
    },
}

impl ImportPage {
    /// Encodes the page, version byte first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}
