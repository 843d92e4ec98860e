//! The wire contracts between the processes of RaftKV, as generated gRPC code.
//!
//! The `.proto` files in `proto/` are the documentation of record. `bytes` fields are [`bytes::Bytes`]: decoding a
//! message does not copy its payloads.

// Generated code: its lints are not ours.
#![allow(missing_docs, unreachable_pub, clippy::all)]

mod expiry;
mod version;

pub use expiry::{EXPIRY_HEADER, Expiry, NoExpiry};
pub use version::{ClusterVersion, FIRST_VERSION, GROUP_CLOCK_VERSION, SPOKEN, STRICT_VERSION, VersionRange};

mod generated {
    // The module tree follows the package names, as the generated cross-references expect.
    pub mod raftkv {
        pub mod state_machine {
            pub mod v1 {
                tonic::include_proto!("raftkv.state_machine.v1");
            }
        }
        pub mod consensus {
            pub mod v1 {
                tonic::include_proto!("raftkv.consensus.v1");
            }
        }
        pub mod group {
            pub mod v1 {
                tonic::include_proto!("raftkv.group.v1");
            }
        }
        pub mod raft {
            pub mod v1 {
                tonic::include_proto!("raftkv.raft.v1");
            }
        }
    }
}

/// The sidecar's service: proposals, read barriers, membership, status.
pub use generated::raftkv::consensus::v1 as consensus;
/// The engine's service for routers: one group of a sharded store.
pub use generated::raftkv::group::v1 as group;
/// Sidecar to sidecar.
pub use generated::raftkv::raft::v1 as raft;
/// The engine's service: apply, snapshots, position.
pub use generated::raftkv::state_machine::v1 as state_machine;

/// Version of the peer-to-peer messages; nodes of another one are refused. It stays what version 0.1.0 sends: what may be said beyond
/// that is decided by the cluster version, whose range ([`SPOKEN`]) travels beside it.
pub const WIRE_VERSION: u32 = 1;

/// Metadata key: the cluster a peer message is meant for.
pub const CLUSTER_ID_HEADER: &str = "raftkv-cluster-id";
/// Metadata key: the raft id a peer message is meant for, in decimal.
pub const TARGET_ID_HEADER: &str = "raftkv-target-id";
/// Metadata key: [`WIRE_VERSION`] of the sender.
pub const WIRE_VERSION_HEADER: &str = "raftkv-wire";

/// Metadata key: the raft id of the node that sends a peer message, in decimal. Version 0.1.0 does not send it.
pub const SENDER_ID_HEADER: &str = "raftkv-sender-id";

/// Metadata key: the sharded store a router's call is meant for, 16 hexadecimal digits.
pub const STORE_HEADER: &str = "raftkv-store";
/// Metadata key: the group a router's call is meant for, in decimal.
pub const GROUP_HEADER: &str = "raftkv-group";

/// Largest gRPC message any of our services accepts: a batch of entries, or one snapshot chunk.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;
