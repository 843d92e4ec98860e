//! [`Fault`]: what goes wrong with a disk on command, and [`Counts`]: what went wrong.

use std::ops::Add;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::io::Errno;

/// Which calls a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// fsync and fdatasync, of files and of directories.
    Fsync,
    /// Writes to files.
    Write,
}

/// What a fault does to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done, and the call fails. After a failed fsync the writes it should have made durable never will be.
    Fail(Errno),
    /// Of a write, some sectors from its start reach the file; then it fails with EIO. Any other call fails as a whole.
    Tear,
    /// It fails with EIO, and what becomes of what was written is open until the power fails: as when the disk goes away with it.
    Gone,
    /// It succeeds, so much later. What was written meanwhile is not covered.
    Delay(Duration),
}

/// Something to go wrong.
#[derive(Debug, Clone)]
pub struct Fault {
    call: Call,
    effect: Effect,
    below: PathBuf,
    after: u64,
    times: u64,
}

impl Fault {
    /// Every call of this kind, until the fault is cleared, unless told otherwise.
    pub fn new(call: Call, effect: Effect) -> Self {
        Self { call, effect, below: PathBuf::new(), after: 0, times: u64::MAX }
    }

    /// Only of files in this directory, or in one below it; relative to the root of the file system.
    pub fn below(mut self, path: impl Into<PathBuf>) -> Self {
        self.below = path.into();
        self
    }

    /// Lets the first `calls` pass.
    pub fn after(mut self, calls: u64) -> Self {
        self.after = calls;
        self
    }

    /// Is over after so many calls.
    pub fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }
}

/// Says how often a fault has fired.
#[derive(Debug, Clone, Default)]
pub struct Fired(Arc<AtomicU64>);

impl Fired {
    /// How often until now.
    pub fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a disk has done and refused since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that succeeded.
    pub writes: u64,
    /// fsyncs that succeeded, of files and directories.
    pub fsyncs: u64,
    /// Calls that failed by a fault.
    pub failed: u64,
    /// Writes that were cut short by a fault.
    pub torn: u64,
    /// fsyncs that were delayed by a fault.
    pub delayed: u64,
    /// Calls refused because there was no space.
    pub no_space: u64,
    /// Calls refused because the file system was read-only.
    pub read_only: u64,
    /// Power losses.
    pub power_losses: u64,
    /// Changes of files that a power loss undid, whole or in part.
    pub changes_lost: u64,
    /// Changes of names that a power loss undid.
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

/// The faults that are set.
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

    /// What happens to this call, by the first fault that is for it.
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
