//! What the log measures of itself.

use metrics::{Counter, Gauge, Histogram, Unit};

/// Handles of the log's metrics: looked up once, not for each frame.
pub(super) struct WalMetrics {
    /// Seconds an fsync of a frame took.
    pub(super) fsync: Histogram,
    /// Frames written; each is one write and one fsync.
    pub(super) frames: Counter,
    /// Bytes of the frames written.
    pub(super) bytes: Counter,
    /// Entries in a frame.
    pub(super) frame_entries: Histogram,
    /// Bytes of the frames on disk.
    pub(super) log_bytes: Gauge,
}

impl WalMetrics {
    pub(super) fn new() -> Self {
        metrics::describe_histogram!("raftkv_wal_fsync_seconds", Unit::Seconds, "Time of an fsync of the log");
        metrics::describe_counter!("raftkv_wal_frames_total", "Frames written to the log, one fsync each");
        metrics::describe_counter!("raftkv_wal_bytes_total", Unit::Bytes, "Bytes written to the log");
        metrics::describe_histogram!("raftkv_wal_frame_entries", "Entries in a frame of the log");
        metrics::describe_gauge!("raftkv_wal_size_bytes", Unit::Bytes, "Bytes of the log on disk");
        Self {
            fsync: metrics::histogram!("raftkv_wal_fsync_seconds"),
            frames: metrics::counter!("raftkv_wal_frames_total"),
            bytes: metrics::counter!("raftkv_wal_bytes_total"),
            frame_entries: metrics::histogram!("raftkv_wal_frame_entries"),
            log_bytes: metrics::gauge!("raftkv_wal_size_bytes"),
        }
    }
}
