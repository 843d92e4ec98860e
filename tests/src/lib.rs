//! Harness for cluster and fault tests: real processes on loopback, real containers, and fault injection.
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
//! Use [`Shards`] for several groups behind routers.
//!
//! Dropping a cluster kills its processes. Only [`Cluster::finish`], the last call of every test, removes the files. A
//! failed test keeps the data and logs, and prints the directory.

//!
//! Environment variables:
//!
//! | variable | meaning |
//! |---|---|
//! | `RAFTKV_BIN_DIR` | directory of the programs; default: the target directory of the test |
//! | `RAFTKV_TEST_SEED` | replays the random choices of an earlier run, from the printed seed |
//! | `RAFTKV_TEST_SNAPSHOT_MIB` | size of the group in the test of adding a fourth node (1024) |
//! | `RAFTKV_TEST_CLIENTS` | clients in the tests of moving slots (16; the guarantee is for 64) |
//! | `RAFTKV_TEST_FULL` | 1: test every combination of fault and move step, not a random selection |
//! | `RAFTKV_HOSTILE_SECONDS` | duration of the hostile messages to every gRPC service, in seconds (15) |
//! | `RAFTKV_TEST_IMAGE` | image of the container tests; without an image, the tests are skipped with a notice |
//! | `RAFTKV_REQUIRE_DOCKER` | 1: fail without a Docker engine or image |
//! | `RAFTKV_REQUIRE_LOOP` | 1: fail if no [`SmallDisk`] can be mounted |
//! | `RAFTKV_REQUIRE_FUSE` | 1: fail if no disk of [`faultfs`] can be mounted |
//! | `RAFTKV_REQUIRE_FAKETIME` | 1: fail without libfaketime ([`WallClock`]) |
//! | `RAFTKV_REQUIRE_NETNS` | 1: fail without network namespaces ([`Lan`]) |
//! | `RAFTKV_PLANTED_BIN_DIR` | directory of the programs with planted bugs and failpoints; default: `planted` beside the others |
//! | `RAFTKV_REQUIRE_PLANTED` | 1: fail without these programs |
//! | `RAFTKV_OLD_BIN_DIR` | directory of the programs of an older version, for upgrade tests |
//! | `RAFTKV_REQUIRE_OLD` | 1: fail without these programs |
//! | `RAFTKV_TEST_POWER_LOSSES` | number of power losses per power-loss test (8) |
//!
//! Tests named `heavy_…` take half a minute and use the whole machine. Lines with the prefix `figure:` are measurements.

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
