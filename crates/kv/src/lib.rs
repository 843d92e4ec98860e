//! The data model of RaftKV: keys, values, commands, batches, sessions, slots and limits.
//!
//! The crate is pure: no I/O, no clock, no locks. All data for the replicated log and the disk is encoded here with a
//! version byte. Decoding never panics on any input.

mod admission;
mod batch;
mod borrowed;
mod codec;
mod command;
mod documents;
mod json;
mod key;
mod limits;
mod msgpack;
mod outcome;
mod ownership;
mod parts;
mod slot;
mod slot_set;
mod slot_times;
mod system;
mod transition;
mod upgrade;
mod value;

pub use admission::{
    AdmissionError, MAX_BATCH_OPS, MAX_IDEMPOTENCY_KEEP_MS, MAX_IDEMPOTENCY_KEY_BYTES, STRICT_VERSION, admit,
    check_applicable,
};
pub use batch::{Batch, Proposal};
pub use borrowed::{BatchRef, CommandRef, IdempotencyRef, OpRef, ProposalRef};
pub use codec::{CodecError, FORMAT_VERSION};
pub use command::{Command, Idempotency, Op, Precondition};
pub use documents::{CLUSTER_KEY, ROUTERS_KEY, check_document};
pub use key::{Key, KeyError};
pub use limits::{Limits, MAX_CLOCK_MS, MAX_REVISION};
pub use outcome::{Answer, Outcome};
pub use ownership::{Ended, FencePoint, Incoming, Outgoing, Ownership, PurgeState};
pub use parts::{Part, Parts};
pub use slot::{SLOTS, slot_of};
pub use slot_set::{SlotSet, SlotSetError};
pub use slot_times::{SLOT_TIME_VERSION, SlotTime, SlotTimes, offset_of, slot_time};
pub use system::{ImportPage, ImportRecord, MoveId, Refusal, SystemAnswer, SystemCommand};
pub use transition::{
    Effect, GroupFacts, MAX_IMPORT_KEY_BYTES, MAX_SYSTEM_KEY_BYTES, MAX_SYSTEM_VALUE_BYTES, PutKey, put_key,
    raise_version,
};
pub use upgrade::{ROUTER_VERSIONS_KEY, RouterVersions, UPGRADE_KEY, UpgradePolicy};
pub use value::{Kind, Value, ValueError};

/// Appends `text` to `out` as a JSON string, quoted and escaped.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    json::write_string(text, out);
}
