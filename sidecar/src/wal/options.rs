//! How a log is opened.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::WalError;

/// Size a segment is preallocated with: large enough that a rotation (two more fsyncs) is rare, small enough that
/// purging gives space back soon and that reading one into memory at a start costs little.
pub const DEFAULT_SEGMENT_BYTES: u64 = 16 * 1024 * 1024;
/// Recent entries kept in memory for replication and applying; a follower further behind than this is read for from disk.
pub const DEFAULT_CACHE_BYTES: usize = 32 * 1024 * 1024;
/// Entries waiting to be written before [`room`](super::Wal::room) makes callers wait: a few frames.
pub const DEFAULT_QUEUE_BYTES: usize = 16 * 1024 * 1024;
/// A frame takes no more waiting operations once it holds this much: one fsync should not wait for a long write.
pub const DEFAULT_FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Called when the log can no longer promise anything: a write or an fsync failed.
pub type FatalHook = Arc<dyn Fn(&WalError) + Send + Sync>;

/// Called before each step of input and output; its error is taken for the step's own.
pub type FaultHook = Arc<dyn Fn(IoStep) -> io::Result<()> + Send + Sync>;

/// A step of input and output that a test can make fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoStep {
    /// Writing a frame.
    Write,
    /// Making a frame durable.
    Sync,
    /// Making a new segment.
    Rotate,
}

/// How a log is opened.
#[derive(Clone)]
pub struct WalOptions {
    /// The directory; made when missing. Nothing else may live in it.
    pub dir: PathBuf,
    /// Size a segment is preallocated with; held between 512 bytes and 1 GiB.
    pub segment_bytes: u64,
    /// Bound of the recent entries kept in memory. Entries not yet durable are kept beyond it.
    pub cache_bytes: usize,
    /// Bytes waiting to be written at which callers are made to wait.
    pub queue_bytes: usize,
    /// A frame takes no more waiting operations once it holds this much.
    pub frame_bytes: usize,
    /// Free bytes that are left to others before a segment is begun for a large frame, for a while.
    pub kept_bytes: u64,
    /// And those that are left to them for good.
    pub least_bytes: u64,
    /// Called once when a write or an fsync failed, before anyone waiting hears of it. The default ends the process
    /// with the exit code for input/output errors: what is on disk is not known any more.
    pub fatal: FatalHook,
    /// For tests: makes a step of input and output fail.
    pub faults: Option<FaultHook>,
}

impl WalOptions {
    /// The defaults for a log in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            segment_bytes: DEFAULT_SEGMENT_BYTES,
            cache_bytes: DEFAULT_CACHE_BYTES,
            queue_bytes: DEFAULT_QUEUE_BYTES,
            frame_bytes: DEFAULT_FRAME_BYTES,
            kept_bytes: 0,
            least_bytes: 0,
            fatal: Arc::new(|error| raftkv_runtime::exit::fatal(raftkv_runtime::exit::IO, error)),
            faults: None,
        }
    }

    pub(super) fn fault(&self, step: IoStep) -> io::Result<()> {
        self.faults.as_ref().map_or(Ok(()), |hook| hook(step))
    }
}

impl fmt::Debug for WalOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WalOptions")
            .field("dir", &self.dir)
            .field("segment_bytes", &self.segment_bytes)
            .field("cache_bytes", &self.cache_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("frame_bytes", &self.frame_bytes)
            .finish_non_exhaustive()
    }
}
