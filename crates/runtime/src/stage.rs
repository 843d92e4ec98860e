//! [`Stage`]: where the time of a write goes, as `raftkv_stage_seconds` on `/metrics`.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use metrics::{Histogram, Unit};

/// Name of the histograms; the label `stage` tells them apart.
const NAME: &str = "raftkv_stage_seconds";

/// A part of a write's way, in the order in which a write meets them. The fsync inside of [`Stage::Append`] is
/// `raftkv_wal_fsync_seconds`; the whole of it is `raftkv_http_request_seconds`, and what that has more than the first three is
/// the answer on its way from the batch to the client.
///
/// Stages that batches go through are recorded once a batch, for the one that waited longest. They overlap where the way
/// does: a leader appends and replicates at once, and both are within [`Stage::Commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Engine or router: from a request's head to its operation being handed to the proposer, with the body's arrival.
    Parse,
    /// Engine or router: from there until its batch leaves.
    Queue,
    /// Engine or router: from the batch's leaving to its answer, however often it was repeated.
    Propose,
    /// Leader's sidecar: from a batch's arrival until the entry that holds it is proposed.
    Gather,
    /// Each sidecar: from entries being handed to the log until they are durable.
    Append,
    /// Leader's sidecar: from an append leaving for a member until its answer.
    Replicate,
    /// Leader's sidecar: from an entry's proposal until a majority has it.
    Commit,
    /// Each sidecar: from committed entries being handed to the engine until its answers are here.
    Apply,
    /// Each engine, within [`Stage::Apply`]: the change of the store alone.
    Store,
}

const COUNT: usize = Stage::Store as usize + 1;

static HISTOGRAMS: [OnceLock<Histogram>; COUNT] = [const { OnceLock::new() }; COUNT];

impl Stage {
    /// The value of the label.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Queue => "queue",
            Self::Propose => "propose",
            Self::Gather => "gather",
            Self::Append => "append",
            Self::Replicate => "replicate",
            Self::Commit => "commit",
            Self::Apply => "apply",
            Self::Store => "store",
        }
    }

    /// It took that long, once. Costs a few tens of nanoseconds; goes to the recorder that was installed when the stage
    /// was first recorded.
    pub fn took(self, time: Duration) {
        HISTOGRAMS[self as usize]
            .get_or_init(|| {
                metrics::describe_histogram!(NAME, Unit::Seconds, "Time of a part of a write's way");
                metrics::histogram!(NAME, "stage" => self.name())
            })
            .record(time);
    }

    /// It began then and is over now.
    pub fn since(self, begin: Instant) {
        self.took(begin.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stage_is_a_histogram_of_its_own() {
        crate::metrics::install().expect("install");
        Stage::Queue.took(Duration::from_millis(2));
        Stage::Store.since(Instant::now());
        let text = crate::metrics::render();
        assert!(text.contains("raftkv_stage_seconds_bucket{stage=\"queue\",le=\"0.001\"} 0"), "{text}");
        assert!(text.contains("raftkv_stage_seconds_count{stage=\"queue\"} 1"), "{text}");
        assert!(text.contains("raftkv_stage_seconds_count{stage=\"store\"} 1"), "{text}");
    }
}
