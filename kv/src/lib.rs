//! The data model of RaftKV: keys, values, commands, batches, sessions, slots and limits.
//!
//! Pure: no I/O, no clock, no locks. Everything that goes into the replicated log or onto the disk is encoded here,
//! with a version, and decoding never panics on any bytes.

mod batch;
mod codec;
mod command;
mod json;
mod key;
mod limits;
mod msgpack;
mod outcome;
mod slot;
mod value;

pub use batch::{Batch, Proposal};
pub use codec::{CodecError, FORMAT_VERSION};
pub use command::{Command, Idempotency, Op, Precondition};
pub use key::{Key, KeyError};
pub use limits::Limits;
pub use outcome::{Answer, Outcome};
pub use slot::{SLOTS, slot_of};
pub use value::{Kind, Value, ValueError};

/// Appends `text` to `out` as a JSON string, quoted and escaped.
pub fn write_json_string(text: &str, out: &mut Vec<u8>) {
    json::write_string(text, out);
}
