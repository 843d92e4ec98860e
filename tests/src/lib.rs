//! The harness of the cluster and fault tests: real processes on loopback, real containers, and the faults between them.
//!
//! ```no_run
//! # async fn story() -> anyhow::Result<()> {
//! use raftkv_tests::Cluster;
//!
//! let cluster = Cluster::builder().nodes(3).partitionable().start().await?;
//! cluster.node(1).client().put("greeting", "hello").await?.acked()?;
//! let leader = cluster.leader().await?;
//! cluster.isolate(&leader);
//! let other = cluster.leader_other_than(&leader).await?;
//! assert_eq!(other.client().get("greeting").await?.text()?, "hello");
//! cluster.heal();
//! cluster.finish().await
//! # }
//! ```
//!
//! Several groups with routers in front of them are [`Shards`].
//!
//! A cluster's processes are killed when it is dropped. Its files are removed by [`Cluster::finish`] only, the last call
//! of every test: whatever ended without it keeps its logs, and says where they are.

//!
//! What they can be told, by environment:
//!
//! | variable | meaning |
//! |---|---|
//! | `RAFTKV_BIN_DIR` | where the programs are; else the target directory of the test |
//! | `RAFTKV_TEST_SEED` | make the random choices of the run that printed it again |
//! | `RAFTKV_TEST_SNAPSHOT_MIB` | size of the group that a fourth node joins (1024) |
//! | `RAFTKV_TEST_CLIENTS` | clients of the tests of moving slots (16; the promise is made for 64) |
//! | `RAFTKV_TEST_FULL` | 1: every combination of fault and step of a move, not a few chosen by the seed |
//! | `RAFTKV_HOSTILE_SECONDS` | how long strangers send hostile messages to every gRPC service (15) |
//! | `RAFTKV_TEST_IMAGE` | image of the container tests; without it they say that they test nothing |
//! | `RAFTKV_REQUIRE_DOCKER` | 1: a missing Docker engine or image is a failure |
//! | `RAFTKV_REQUIRE_LOOP` | 1: a machine on which a [`SmallDisk`] cannot be mounted is a failure |
//! | `RAFTKV_REQUIRE_FUSE` | 1: a machine on which the disks of [`faultfs`] cannot be mounted is a failure |
//! | `RAFTKV_REQUIRE_FAKETIME` | 1: a machine without libfaketime ([`WallClock`]) is a failure |
//! | `RAFTKV_REQUIRE_NETNS` | 1: a machine on which no network namespaces can be made ([`Lan`]) is a failure |
//! | `RAFTKV_PLANTED_BIN_DIR` | where the programs with planted bugs and failpoints are; else in `planted` beside the others |
//! | `RAFTKV_REQUIRE_PLANTED` | 1: that there are none is a failure |
//! | `RAFTKV_OLD_BIN_DIR` | where the programs of an older version are, for the tests of upgrades |
//! | `RAFTKV_REQUIRE_OLD` | 1: that there are none is a failure |
//! | `RAFTKV_TEST_POWER_LOSSES` | how often the power fails in each of those tests (8) |
//!
//! Tests called `heavy_…` take half a minute and all of the machine. Lines that begin with `figure:` are measurements.

mod admin;
mod answer;
pub mod archive;
mod binaries;
mod bulk;
mod client;
mod cluster;
mod containers;
mod contents;
pub mod damage;
mod failpoints;
pub mod faultfs;
mod files;
mod group_peer;
mod lan;
mod linearizability;
mod load;
mod local;
mod loopback;
mod node;
mod old;
mod partition;
mod peer;
mod planted;
mod probe;
mod process;
mod proxy;
mod recorded;
mod registers;
mod report;
mod router;
mod seed;
mod shards;
mod small_disk;
pub mod soak;
mod status;
mod supervisor;
mod wait;
mod wall_clock;

pub use admin::{Admin, ClusterView, GroupView, OperationView};
pub use answer::{Answer, Put};
pub use binaries::binary;
pub use bulk::BulkLoad;
pub use client::{Client, encode_key, http};
pub use cluster::{Cluster, ClusterBuilder};
pub use containers::{ContainerCluster, ContainerNode};
pub use contents::Contents;
pub use failpoints::{Deaths, Failpoints};
pub use files::{allocated_bytes, tail};
pub use group_peer::{GroupPeer, Held};
pub use lan::Lan;
pub use linearizability::{History, Operation};
pub use load::{Load, LoadReport};
pub use local::{LocalCluster, LocalNode, LocalRouter, LocalState, signal};
pub use loopback::Loopback;
pub use node::Node;
pub use old::{new_programs, old_programs};
pub use partition::{Flow, FlowCounts, Partition, Weather};
pub use peer::PeerClient;
pub use planted::planted_programs;
pub use probe::{Memory, memory_of, socket_inodes};
pub use process::{Exit, Process};
pub use recorded::{Recorded, Sender};
pub use registers::{Registers, RegistersReport, Tolerance};
pub use report::{figure, human_bytes};
pub use router::Router;
pub use seed::{Seed, clients_from_env, full_from_env};
pub use shards::{Shards, ShardsBuilder};
pub use small_disk::SmallDisk;
pub use status::{EngineStatus, Member, NodeStatus, Status};
pub use wait::{eventually, eventually_within};
pub use wall_clock::{WallClock, faketime_library};
