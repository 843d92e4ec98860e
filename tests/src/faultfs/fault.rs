//! [`Fault`]: an injected disk fault; [`Counts`]: operations and faults so far.

use std::ops::Add;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

/// Calls affected by a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// fsync and fdatasync, of files and of directories.
    Fsync,
    /// Writes to files.
    Write,
}

/// Effect of a fault on a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// The call has no effect and fails. After a failed fsync, the covered writes never become durable.
    Fail(Errno),
    /// A write stores some sectors from the start of the data, then fails with EIO. An fsync fails completely with EIO.
    Tear,
    /// The call fails with EIO; a power loss decides whether earlier writes survive, as if the disk were lost along with the power.
    Gone,
    /// An fsync succeeds after this delay, without covering writes made during the delay.
    Delay(Duration),
}

/// An injected fault.
#[derive(Debug, Clone)]
pub struct Fault {
    call: Call,
    effect: Effect,
    below: PathBuf,
    after: u64,
    times: u64,
}

impl Fault {
    /// Affects every call of this kind until cleared, by default.
    pub fn new(call: Call, effect: Effect) -> Self {
        Self { call, effect, below: PathBuf::new(), after: 0, times: u64::MAX }
    }

    /// Limits the fault to files in this directory and its subdirectories; relative to the root of the file system.
    pub fn below(mut self, path: impl Into<PathBuf>) -> Self {
        self.below = path.into();
        self
    }

    /// Lets the first `calls` pass.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// Ends the fault after this number of calls.
    pub fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }
}

/// Counter of a fault's effects.
#[derive(Debug, Clone, Default)]
pub struct Fired(Arc<AtomicU64>);

impl Fired {
    /// Number of effects so far.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Operations and refusals of a disk since its creation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Successful writes.
    pub writes: u64,
    /// Successful fsyncs, of files and directories.
    pub fsyncs: u64,
    /// Calls failed by a fault.
    pub failed: u64,
    /// Writes cut short by a fault.
    pub torn: u64,
    /// Fsyncs delayed by a fault.
    pub delayed: u64,
    /// Calls refused for lack of space.
    pub no_space: u64,
    /// Calls refused by a read-only file system.
    pub read_only: u64,
    /// Power losses.
    pub power_losses: u64,
    /// File changes undone by power losses, completely or in part.
    pub changes_lost: u64,
    /// Name changes undone by power losses.
    pub names_lost: u64,
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            writes: self.writes + other.writes,
            fsyncs: self.fsyncs + other.fsyncs,
            failed: self.failed + other.failed,
            torn: self.torn + other.torn,
            delayed: self.delayed + other.delayed,
            no_space: self.no_space + other.no_space,
            read_only: self.read_only + other.read_only,
            power_losses: self.power_losses + other.power_losses,
            changes_lost: self.changes_lost + other.changes_lost,
            names_lost: self.names_lost + other.names_lost,
        }
    }
}

/// The active faults.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Armed>);

#[derive(Debug)]
struct Armed {
    fault: Fault,
    fired: Fired,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> Fired {
        let fired = Fired::default();
        self.0.push(Armed { fault, fired: fired.clone() });
        fired
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Effect of the first matching fault on this call.
    pub(super) fn effect(&mut self, call: Call, path: &Path) -> Option<Effect> {
        for Armed { fault, fired } in &mut self.0 {
            if fault.call != call || fault.times == 0 || !path.starts_with(&fault.below) {
                continue;
            }
            if fault.after > 0 {
                fault.after -= 1;
                continue;
            }
            fault.times = if fault.times == u64::MAX { u64::MAX } else { fault.times - 1 };
            fired.0.fetch_add(1, Ordering::Relaxed);
            return Some(fault.effect);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_for_its_calls_only_and_counts() {
        let mut faults = Faults::default();
        let fired = faults.add(Fault::new(Call::Fsync, Effect::Fail(Errno::IO)).below("wal").after(1).times(2));
        let mut fsync = |path: &str| faults.effect(Call::Fsync, Path::new(path));
        assert_eq!(fsync("walrus/a"), None);
        assert_eq!(fsync("wal/a"), None, "the first passes");
        assert_eq!(fsync("wal/a"), Some(Effect::Fail(Errno::IO)));
        assert_eq!(fsync("wal"), Some(Effect::Fail(Errno::IO)));
        assert_eq!(fsync("wal/a"), None, "it is over");
        assert_eq!(fired.count(), 2);
        assert_eq!(faults.effect(Call::Write, Path::new("wal/a")), None);
    }
}
