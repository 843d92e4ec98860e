//! [`Kind`]: the kinds of fault in a soak.

use std::fmt;

/// Topology of a store in a soak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A single group with simulated disks.
    Plain,
    /// Two groups behind two routers.
    Sharded,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal in $shapes:expr,)*) => {
        /// A kind of fault, or of a change that must be harmless.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl Kind {
            /// All kinds.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Name in schedules and reports.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            fn shapes(self) -> &'static [Shape] {
                match self {
                    $(Self::$kind => $shapes,)*
                }
            }
        }
    };
}

const BOTH: &[Shape] = &[Shape::Plain, Shape::Sharded];
const PLAIN: &[Shape] = &[Shape::Plain];
const SHARDED: &[Shape] = &[Shape::Sharded];

kinds! {
    /// SIGKILL of an engine.
    EngineKill = "engine-kill" in BOTH,
    /// SIGKILL of a sidecar.
    SidecarKill = "sidecar-kill" in BOTH,
    /// SIGKILL of both processes of a node.
    NodeKill = "node-kill" in BOTH,
    /// SIGKILL of both processes of the leader.
    LeaderKill = "leader-kill" in BOTH,
    /// SIGKILL of all nodes of a group at once.
    GroupKill = "group-kill" in BOTH,
    /// Repeated SIGKILL, each time during the node's recovery.
    CrashLoop = "crash-loop" in BOTH,
    /// SIGSTOP of an engine.
    EngineStop = "engine-stop" in BOTH,
    /// SIGSTOP of a sidecar.
    SidecarStop = "sidecar-stop" in BOTH,
    /// SIGSTOP of a leader for longer than the leader lease.
    LeaderStop = "leader-stop" in BOTH,
    /// SIGSTOP of only the leader's engine, with reads already granted.
    LeaderEngineStop = "leader-engine-stop" in BOTH,
    /// SIGTERM of a node, followed by a start.
    NodeTerm = "node-term" in BOTH,
    /// SIGTERM of the leader, followed by a start.
    LeaderTerm = "leader-term" in BOTH,
    /// SIGKILL of a router.
    RouterKill = "router-kill" in SHARDED,
    /// SIGSTOP of a router.
    RouterStop = "router-stop" in SHARDED,
    /// SIGTERM of a router, followed by a start.
    RouterTerm = "router-term" in SHARDED,
    /// The leader is partitioned from all nodes in both directions.
    IsolateLeader = "isolate-leader" in BOTH,
    /// A follower is partitioned from all nodes in both directions.
    IsolateFollower = "isolate-follower" in BOTH,
    /// Messages from the leader are dropped.
    FromLeaderCut = "leader-not-heard" in BOTH,
    /// Messages to the leader are dropped.
    ToLeaderCut = "leader-hears-nobody" in BOTH,
    /// Two nodes reach each other through a third only.
    Bridge = "bridge" in BOTH,
    /// No node reaches any other.
    NoMajority = "no-majority" in BOTH,
    /// Connections between a node and all others break, and new connections are refused.
    Refused = "connections-refused" in BOTH,
    /// Clients lose connections in the middle of requests.
    ClientCut = "client-cut" in BOTH,
    /// Messages between nodes are delayed.
    Delay = "delay" in BOTH,
    /// Messages between nodes are lost together with the connections.
    Loss = "loss" in BOTH,
    /// Low bandwidth between nodes.
    Bandwidth = "bandwidth" in BOTH,
    /// Packets between nodes above a size limit are lost.
    LargeLost = "large-packets-lost" in BOTH,
    /// All traffic of a node shares a slow link.
    SlowLink = "slow-link" in BOTH,
    /// A follower returns under another address, and later under the original address.
    AddressChange = "address-change" in BOTH,
    /// A node loses all data and restarts empty.
    Wipe = "wiped-node" in BOTH,
    /// A node is removed from the group and joins again.
    LeaveJoin = "leave-and-join" in BOTH,
    /// Leadership transfer.
    Transfer = "leadership-transfer" in BOTH,
    /// All nodes make their state durable and compact the log.
    Compact = "compaction" in BOTH,
    /// A node returns after the log was purged, and needs a snapshot.
    SnapshotInstall = "snapshot-install" in BOTH,
    /// A node's engine dies while the node needs a snapshot: log entries and the snapshot arrive concurrently.
    SnapshotIntoRecovery = "snapshot-into-recovery" in BOTH,
    /// The wall clock of the leader jumps ahead, then back.
    ClockJump = "clock-jump" in BOTH,
    /// A node loses power and all unsynced data.
    PowerLossOne = "power-loss-one" in PLAIN,
    /// All nodes lose power at once.
    PowerLossAll = "power-loss-all" in PLAIN,
    /// All nodes lose power at once, in the middle of writes.
    PowerLossTorn = "power-loss-torn" in PLAIN,
    /// An fsync of the log fails.
    FsyncFails = "fsync-fails" in PLAIN,
    /// Every fsync of a node is slow.
    FsyncSlow = "fsync-slow" in PLAIN,
    /// A write of the log is cut short.
    TornWrite = "torn-write" in PLAIN,
    /// A write of the engine is cut short.
    TornEngineWrite = "torn-write-engine" in PLAIN,
    /// A node has less free space than the disk reserve.
    DiskFull = "disk-full" in PLAIN,
    /// A node's disk is filled until the node refuses values.
    SmallDisk = "small-disk" in PLAIN,
    /// A node has no free space at all.
    DiskNoByte = "disk-no-byte" in PLAIN,
    /// A node's disk becomes read-only.
    DiskReadOnly = "disk-read-only" in PLAIN,
    /// Slots move to the other group.
    Move = "slot-move" in SHARDED,
    /// A move is cancelled.
    MoveCancel = "move-cancelled" in SHARDED,
    /// SIGKILL of the router that coordinates a move.
    CoordinatorKill = "coordinator-kill-in-move" in SHARDED,
    /// SIGKILL of the leader of a move's source.
    SourceKill = "source-leader-kill-in-move" in SHARDED,
    /// SIGKILL of the leader of a move's target.
    TargetKill = "target-leader-kill-in-move" in SHARDED,
}

impl Kind {
    /// Whether this kind is possible in a store of the given shape.
    pub fn is_in(self, shape: Shape) -> bool {
        self.shapes().contains(&shape)
    }

    /// Whether this kind needs a simulated disk.
    pub fn is_of_disks(self) -> bool {
        self.shapes() == PLAIN
    }

    /// Finds a kind by name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Shape {
    /// Name in schedules and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Sharded => "sharded",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_to_its_kind() {
        for kind in Kind::ALL {
            assert_eq!(Kind::named(kind.name()), Some(*kind));
        }
        assert!(Kind::ALL.len() >= 25);
    }
}
