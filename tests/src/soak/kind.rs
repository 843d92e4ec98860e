//! [`Kind`]: the kinds of fault that a soak knows.

use std::fmt;

/// What a store of a soak is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// One group whose nodes have disks of the harness.
    Plain,
    /// Two groups behind two routers.
    Sharded,
}

macro_rules! kinds {
    ($($(#[doc = $doc:literal])* $kind:ident = $name:literal in $shapes:expr,)*) => {
        /// A kind of fault, or of change that must not hurt.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($(#[doc = $doc])* $kind,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// Its name in schedules and reports.
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
    /// SIGKILL again and again, each time while the node recovers.
    CrashLoop = "crash-loop" in BOTH,
    /// SIGSTOP of an engine.
    EngineStop = "engine-stop" in BOTH,
    /// SIGSTOP of a sidecar.
    SidecarStop = "sidecar-stop" in BOTH,
    /// SIGSTOP of a leader, for longer than its lease.
    LeaderStop = "leader-stop" in BOTH,
    /// SIGSTOP of the leader's engine alone, whose reads were granted before.
    LeaderEngineStop = "leader-engine-stop" in BOTH,
    /// SIGTERM of a node, and its start.
    NodeTerm = "node-term" in BOTH,
    /// SIGTERM of the leader, and its start.
    LeaderTerm = "leader-term" in BOTH,
    /// SIGKILL of a router.
    RouterKill = "router-kill" in SHARDED,
    /// SIGSTOP of a router.
    RouterStop = "router-stop" in SHARDED,
    /// SIGTERM of a router, and its start.
    RouterTerm = "router-term" in SHARDED,
    /// The leader hears nobody and is not heard.
    IsolateLeader = "isolate-leader" in BOTH,
    /// A follower hears nobody and is not heard.
    IsolateFollower = "isolate-follower" in BOTH,
    /// The leader hears the others, and is not heard.
    FromLeaderCut = "leader-not-heard" in BOTH,
    /// The leader is heard, and hears nobody.
    ToLeaderCut = "leader-hears-nobody" in BOTH,
    /// Two nodes reach each other through a third only.
    Bridge = "bridge" in BOTH,
    /// No node reaches another.
    NoMajority = "no-majority" in BOTH,
    /// Connections between a node and the others break, and new ones are refused.
    Refused = "connections-refused" in BOTH,
    /// Clients lose their connections in the middle of requests.
    ClientCut = "client-cut" in BOTH,
    /// Messages between nodes take longer.
    Delay = "delay" in BOTH,
    /// Messages between nodes are lost with their connections.
    Loss = "loss" in BOTH,
    /// Little bandwidth between nodes.
    Bandwidth = "bandwidth" in BOTH,
    /// Packets between nodes that are larger than some size are lost.
    LargeLost = "large-packets-lost" in BOTH,
    /// All that a node sends to others and receives from them shares a slow link.
    SlowLink = "slow-link" in BOTH,
    /// A follower comes back under another address, and later under its own again.
    AddressChange = "address-change" in BOTH,
    /// A node's data is gone; it comes back empty.
    Wipe = "wiped-node" in BOTH,
    /// A node is removed from its group, and joins it anew.
    LeaveJoin = "leave-and-join" in BOTH,
    /// Leadership is handed over.
    Transfer = "leadership-transfer" in BOTH,
    /// All nodes make their state durable and their logs short.
    Compact = "compaction" in BOTH,
    /// A node was away for so long that it needs a snapshot.
    SnapshotInstall = "snapshot-install" in BOTH,
    /// The engine of a node dies when the node needs a snapshot: entries of its log and the snapshot arrive together.
    SnapshotIntoRecovery = "snapshot-into-recovery" in BOTH,
    /// The wall clock of the leader jumps ahead, then back.
    ClockJump = "clock-jump" in BOTH,
    /// A node loses power: with it what was not synced.
    PowerLossOne = "power-loss-one" in PLAIN,
    /// All nodes lose power at once.
    PowerLossAll = "power-loss-all" in PLAIN,
    /// All nodes lose power at once, in the middle of writes.
    PowerLossTorn = "power-loss-torn" in PLAIN,
    /// An fsync of the log fails.
    FsyncFails = "fsync-fails" in PLAIN,
    /// Each fsync of a node takes long.
    FsyncSlow = "fsync-slow" in PLAIN,
    /// A write of the log is cut short.
    TornWrite = "torn-write" in PLAIN,
    /// A write of the engine is cut short.
    TornEngineWrite = "torn-write-engine" in PLAIN,
    /// A node has less space than its reserve.
    DiskFull = "disk-full" in PLAIN,
    /// A node's disk is filled until it takes no more values.
    SmallDisk = "small-disk" in PLAIN,
    /// A node has no byte of space left.
    DiskNoByte = "disk-no-byte" in PLAIN,
    /// A node's disk turns read-only.
    DiskReadOnly = "disk-read-only" in PLAIN,
    /// Slots move to the other group.
    Move = "slot-move" in SHARDED,
    /// A move is cancelled.
    MoveCancel = "move-cancelled" in SHARDED,
    /// SIGKILL of the router that carries out a move.
    CoordinatorKill = "coordinator-kill-in-move" in SHARDED,
    /// SIGKILL of the leader of a move's source.
    SourceKill = "source-leader-kill-in-move" in SHARDED,
    /// SIGKILL of the leader of a move's target.
    TargetKill = "target-leader-kill-in-move" in SHARDED,
}

impl Kind {
    /// Whether a store of this shape can have it.
    pub fn is_in(self, shape: Shape) -> bool {
        self.shapes().contains(&shape)
    }

    /// Whether it needs a disk of the harness.
    pub fn is_of_disks(self) -> bool {
        self.shapes() == PLAIN
    }

    /// The kind of this name.
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
    /// Its name in schedules and reports.
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
