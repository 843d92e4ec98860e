//! Known faults, planted on purpose, to prove that the tests would find them.
//!
//! A crate with the feature `planted-bugs` has a branch at each place that [`planted!`](crate::planted!) names; the
//! environment chooses one at run time. Without the feature, as in everything that is released, each branch is the constant
//! `false` and compiles to nothing. `tests/tests/planted.rs` runs a scenario for each that must notice it.

use std::sync::OnceLock;

use crate::exit;

/// Chooses the bug of this process.
const VARIABLE: &str = "RAFTKV_PLANTED_BUG";

/// A fault that a test must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// Linearizable reads are served from the node's own state, whatever its age.
    LocalReads,
    /// A lease that was granted once holds for ever.
    StaleLease,
    /// The log reports a frame as durable before its fsync, which comes with the next frame.
    AckBeforeFsync,
    /// A vote is not written to the log.
    VoteNotPersisted,
    /// A batch that comes a second time is applied a second time.
    ApplyTwice,
    /// The applied position is not in the batch of what was applied, but in a later one.
    PositionApart,
    /// The log is purged up to a state that is not durable.
    PurgeTooEarly,
    /// Writes to slots that the group does not own are applied.
    SkippedFence,
    /// The leader's wall clock moves the clock of the state, whatever the cluster version.
    WallClock,
    /// A new leader begins with the clock of its engine only, whatever it was told.
    ClockForgets,
    /// A member that has restarted votes after its own promise, however long an earlier one was.
    RestartWaitsShort,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::LocalReads,
        Self::StaleLease,
        Self::AckBeforeFsync,
        Self::VoteNotPersisted,
        Self::ApplyTwice,
        Self::PositionApart,
        Self::PurgeTooEarly,
        Self::SkippedFence,
        Self::WallClock,
        Self::ClockForgets,
        Self::RestartWaitsShort,
    ];

    /// As the environment names it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LocalReads => "local-reads",
            Self::StaleLease => "stale-lease",
            Self::AckBeforeFsync => "ack-before-fsync",
            Self::VoteNotPersisted => "vote-not-persisted",
            Self::ApplyTwice => "apply-twice",
            Self::PositionApart => "position-apart",
            Self::PurgeTooEarly => "purge-too-early",
            Self::SkippedFence => "skipped-fence",
            Self::WallClock => "wall-clock",
            Self::ClockForgets => "clock-forgets",
            Self::RestartWaitsShort => "restart-waits-short",
        }
    }
}

/// Whether this process is to have this bug. Ends the process when the environment names none that there is.
pub fn is_planted(bug: Bug) -> bool {
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let name = std::env::var(VARIABLE).ok().filter(|name| !name.is_empty())?;
        let Some(bug) = Bug::ALL.into_iter().find(|bug| bug.name() == name) else {
            let known = Bug::ALL.map(Bug::name).join(", ");
            exit::fatal(exit::USAGE, format!("{VARIABLE}={name:?} is none of {known}"));
        };
        tracing::warn!(bug = bug.name(), "THIS PROCESS HAS A PLANTED BUG: for tests only");
        Some(bug)
    });
    *chosen == Some(bug)
}

/// Whether the bug is planted here: the constant `false` in a crate without the feature `planted-bugs`.
#[macro_export]
macro_rules! planted {
    ($bug:ident) => {
        cfg!(feature = "planted-bugs") && $crate::planted::is_planted($crate::planted::Bug::$bug)
    };
}
