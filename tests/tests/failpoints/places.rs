//! Every failpoint: what brings a process there, and in which role.

/// Whom the process that dies belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leader,
    Follower,
}

use Role::{Follower, Leader};

/// What brings a process to the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Puts and gets.
    Load,
    /// Leadership is handed over.
    Election,
    /// The state is made durable and the log purged.
    Compaction,
    /// More is written than a segment of the log holds, and then purged.
    Segment,
    /// A follower was away so long that only a snapshot helps.
    Install,
    /// A fourth node joins.
    Change,
}

/// A failpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) name: &'static str,
    pub(super) event: Event,
    pub(super) roles: &'static [Role],
    /// It is passed at most so often before the process dies.
    pub(super) skip: u64,
}

pub(super) const BOTH: &[Role] = &[Leader, Follower];

pub(super) const fn place(name: &'static str, event: Event, roles: &'static [Role], skip: u64) -> Place {
    Place { name, event, roles, skip }
}

/// Those that a group of its own passes.
pub(super) const PLACES: [Place; 45] = [
    place("sidecar::log_store::before_append", Event::Load, BOTH, 60),
    place("sidecar::log_store::after_append", Event::Load, BOTH, 60),
    place("sidecar::wal::before_write", Event::Load, BOTH, 60),
    place("sidecar::wal::after_write", Event::Load, BOTH, 60),
    place("sidecar::wal::before_fsync", Event::Load, BOTH, 60),
    place("sidecar::wal::after_fsync", Event::Load, BOTH, 60),
    place("sidecar::wal::before_done", Event::Load, BOTH, 60),
    place("sidecar::log_store::before_commit", Event::Load, BOTH, 60),
    place("sidecar::log_store::after_commit", Event::Load, BOTH, 60),
    place("sidecar::state_machine::before_apply", Event::Load, BOTH, 60),
    place("sidecar::state_machine::after_apply", Event::Load, BOTH, 60),
    place("engine::store::before_commit", Event::Load, BOTH, 60),
    place("engine::store::after_commit", Event::Load, BOTH, 60),
    place("sidecar::log_store::before_vote", Event::Election, BOTH, 1),
    place("sidecar::log_store::after_vote", Event::Election, BOTH, 1),
    place("sidecar::state_machine::before_build", Event::Compaction, BOTH, 2),
    place("sidecar::state_machine::after_build", Event::Compaction, BOTH, 2),
    place("engine::store::before_persist", Event::Compaction, BOTH, 2),
    place("engine::flush::before", Event::Compaction, BOTH, 2),
    place("engine::flush::after", Event::Compaction, BOTH, 2),
    place("engine::store::after_persist", Event::Compaction, BOTH, 2),
    place("sidecar::log_store::before_purge", Event::Compaction, BOTH, 1),
    place("sidecar::log_store::after_purge", Event::Compaction, BOTH, 1),
    place("sidecar::wal::before_rotate", Event::Segment, BOTH, 0),
    place("sidecar::wal::before_segment_named", Event::Segment, BOTH, 0),
    place("sidecar::wal::after_rotate", Event::Segment, BOTH, 0),
    place("sidecar::wal::before_remove", Event::Segment, BOTH, 0),
    place("sidecar::wal::after_remove", Event::Segment, BOTH, 0),
    place("sidecar::network::before_snapshot", Event::Install, &[Leader], 0),
    place("sidecar::network::snapshot_chunk", Event::Install, &[Leader], 1),
    place("sidecar::network::after_snapshot", Event::Install, &[Leader], 0),
    place("engine::snapshot::send_part", Event::Install, &[Leader], 1),
    place("sidecar::peer::before_snapshot", Event::Install, &[Follower], 0),
    place("sidecar::peer::snapshot_staged", Event::Install, &[Follower], 0),
    place("sidecar::peer::snapshot_installed", Event::Install, &[Follower], 0),
    place("engine::snapshot::receive_part", Event::Install, &[Follower], 0),
    place("engine::snapshot::before_durable", Event::Install, &[Follower], 0),
    place("engine::snapshot::before_mark", Event::Install, &[Follower], 0),
    place("engine::snapshot::staged", Event::Install, &[Follower], 0),
    place("engine::swap::requested", Event::Install, &[Follower], 0),
    place("engine::swap::before", Event::Install, &[Follower], 0),
    place("engine::swap::after", Event::Install, &[Follower], 0),
    place("sidecar::log_store::before_membership", Event::Change, BOTH, 1),
    place("sidecar::membership::before_change", Event::Change, &[Leader], 1),
    place("sidecar::membership::after_change", Event::Change, &[Leader], 1),
];

/// Those that are passed at a start, too: dying there needs more care than an order to the process that runs.
pub(super) const SWAP_RENAMES: [&str; 2] = ["engine::swap::before_rename", "engine::swap::after_rename"];

/// Which group passes it in a move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Source,
    Target,
}

/// Those that groups pass while slots move, in the order in which they are met.
pub(super) const MOVE_PLACES: [(&str, Side); 7] = [
    ("engine::shards::begin_import", Side::Target),
    ("engine::shards::begin_export", Side::Source),
    ("engine::shards::import", Side::Target),
    ("engine::shards::fence", Side::Source),
    ("engine::shards::commit_import", Side::Target),
    ("engine::shards::release", Side::Source),
    ("engine::shards::purge", Side::Source),
];
