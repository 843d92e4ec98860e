//! A segmented, preallocated write-ahead log with group commit.
//!
//! # On disk
//!
//! The log is a row of *segments*, files of a fixed size allocated ahead. A segment is a header and then *frames*. A
//! frame is the unit of one write and one fsync, and holds *records*: entries, votes, truncations, purges, committed
//! positions. The first record of a segment is a checkpoint of all but the entries, so older segments can be removed.
//! Checksums are CRC-32C: one for a segment's header, one for a frame's header, one for its payload, one for each record.
//!
//! # Durability
//!
//! One thread writes. It takes all that waits as one frame, writes it with one call, makes it durable with one
//! fsync, and only then tells those waiting and looks at the queue again. There is no timer: under load frames grow by
//! themselves. A failed write or fsync is never tried again; the log takes nothing more and calls
//! [`WalOptions::fatal`], which ends the process.
//!
//! # Recovery
//!
//! Because frame n + 1 is written only after frame n is durable, at most the last frame can be cut short by a crash, and
//! nothing that counted was in it. A start reads everything and decides at the first byte X that begins no whole frame:
//!
//! | found at X | then |
//! | --- | --- |
//! | zeros to the end of the file, no later segment | the log's end |
//! | anything but a whole frame, and a later frame of this log after it, or a later segment that goes on further | damage |
//! | the end of the file inside the frame or its header | torn |
//! | no valid header, but flipping one bit gives a frame that is whole | damage |
//! | no valid header otherwise | torn |
//! | a valid header with another sequence number, segment or offset | damage |
//! | a valid header, a trailer one bit off, a payload that matches its checksum | damage |
//! | a valid header and no trailer otherwise | torn |
//! | header and trailer whole, a payload one flipped bit away from its checksum | damage |
//! | header and trailer whole, more zero sectors in the payload than were written | torn |
//! | header and trailer whole, any other payload that does not match its checksum | damage |
//! | a last segment that ends, or is zero, from inside its header on | torn: the file is removed |
//! | any other segment header that is not what was written; a segment missing | damage |
//!
//! A torn end is cut off and its space allocated anew, durably, before anything is written, so that stale bytes never come back.
//! Damage stops the start with an error that names the file and the byte, and changes nothing on disk. So: any one flipped bit
//! in what was durable is an error; truncation or zeros from any byte of the last frame on, and garbage after it or from
//! before its trailer on, give exactly the frames before. What cannot be told from a crash is the loss of whole frames at
//! the very end (a device that lies about fsync, a last segment removed by hand), and more than one wrong bit in the
//! header or the trailer of the very last frame. In the other direction one rare crash is taken for damage: a sector that
//! was to hold a single set bit is the only one that did not reach the disk.

mod bounds;
mod cache;
mod directory;
mod disk;
mod error;
mod frame;
mod janitor;
mod log;
mod metrics;
mod options;
mod queue;
mod read;
mod record;
mod recovery;
mod segment;
mod state;
mod writer;

pub use bounds::Bounds;
pub use error::WalError;
pub use log::{Shortage, Wal};
pub use options::{
    DEFAULT_CACHE_BYTES, DEFAULT_FRAME_BYTES, DEFAULT_QUEUE_BYTES, DEFAULT_SEGMENT_BYTES, FatalHook, FaultHook, IoStep,
    WalOptions,
};
pub use queue::Done;
pub use read::{ReadLimit, ReadPlan};
pub use record::{Ballot, Entry, Leader, Position};
pub use recovery::{RecoveryReport, TornTail};
