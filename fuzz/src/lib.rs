//! What the fuzz targets share.
//!
//! The decoders of the log and of snapshots are private parts of large crates. Their files are compiled here by path, so
//! that a target is built in a minute and the crates need no door for it. What those files want of other crates, and
//! decoding does not need, is stood in for below.

#[allow(dead_code, unreachable_pub)] // The files have more than decoding.
pub mod store;
#[allow(dead_code, unreachable_pub)]
pub mod wal;

pub mod http;
pub mod memory;

mod slice;
#[allow(dead_code, unreachable_pub)]
#[path = "../../proto/src/version.rs"]
mod version;

// The names by which the files of the log and of the store know their crates.
extern crate self as fjall;
extern crate self as raftkv_proto;
extern crate self as raftkv_runtime;

pub use slice::Slice;
pub use version::{ClusterVersion, FIRST_VERSION, SPOKEN};

/// Failpoints do nothing here, as in what is released.
#[macro_export]
macro_rules! failpoint {
    ($($any:tt)*) => {};
}
