//! The replicated state of a group on disk, over fjall.
//!
//! [`Store`] is the handle. One thread changes the state ([`applier`]), by rules that depend on nothing but the entries
//! of the log ([`machine`]), in batches that become visible as a whole ([`txn`]). What is applied is in memory first
//! ([`memtable`]) and is flushed into tables now and then ([`flusher`]), which are compacted as the disk has room ([`compactor`],
//! [`levels`], [`brake`], [`room`]). Readers see a moment between two batches, of both
//! ([`read`], [`piece`]). The live state is one *generation*, a directory with a fjall database ([`generation`],
//! [`directory`], [`journal`]). A snapshot that is received becomes the next generation ([`snapshot`], [`staged`]). In a sharded store a group
//! serves a part of the slots only, and slots move ([`shards`]). What the keys and records look like is in [`layout`] and
//! [`record`].
//!
//! Promises:
//!
//! - Data, counters, sessions and the applied position become durable together: what is recovered after a crash is the
//!   state after some prefix of the entries applied, never less than what was persisted.
//! - No record is served whose checksum does not hold.
//! - Replicas at the same position hold the same state, whatever the requests were that brought them there.
//!
//! Not promised: that what was applied survives a crash, of the process or of the machine, before [`Store::persist`]. The
//! log does that: it is the only write-ahead log there is.

mod applier;
mod brake;
mod changes;
mod compactor;
mod directory;
mod dues;
mod error;
mod flusher;
mod frame;
mod generation;
mod handle;
mod hashed;
mod journal;
mod layout;
mod levels;
mod limits;
mod machine;
mod memtable;
mod meta;
mod piece;
mod read;
mod record;
mod room;
mod seat;
mod sessions;
mod shards;
mod shared;
mod snapshot;
mod staged;
mod txn;
mod types;

pub use error::{ApplyError, Fatal, StoreError};
pub use handle::{FatalHook, Many, NotServed, Store, StoreOptions, Ticket};
pub use limits::StateLimits;
pub use read::Verified;
pub use room::Reclaimed;
pub use shards::{Export, ExportError, ExportedPage};
pub use snapshot::{SnapshotHeader, SnapshotPart, SnapshotReader};
pub use types::{Applied, ApplyEntry, EntryKind, Position, StoreStatus};
