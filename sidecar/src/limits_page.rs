//! `docs/reference/limits.md` says what the code does, as far as it is the sidecar's: the ports for members and for administration.

use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_runtime::deadlines;
use raftkv_runtime::limits_page::{Part, bytes, count, time};

use crate::engine::disk;
use crate::lead::{barrier, membership, proposals};
use crate::peers::{self, inbound};
use crate::propose::combiner;
use crate::raft::ballot::{MAX_LED_TERM_STEP, MAX_TERM_STEP};
use crate::run::PEER_CONNECTIONS;
use crate::serve::{management, peer_service};

const PAGE: &str = include_str!("../../docs/reference/limits.md");

#[test]
fn the_page_has_the_limits_of_the_raft_port() {
    let power = |step: u64| format!("2^{}", step.ilog2());
    let limits = [
        ("connections", count(PEER_CONNECTIONS.max_connections)),
        ("calls", count(PEER_CONNECTIONS.max_calls)),
        ("message", bytes(MAX_MESSAGE_BYTES)),
        ("payload of a proposal", bytes(proposals::MAX_PAYLOAD_BYTES)),
        ("requests of a stream", count(peer_service::MAX_IN_FLIGHT)),
        ("proposals that wait at the leader", bytes(combiner::MAX_WAITING_BYTES)),
        ("questions that wait at the leader", count(barrier::QUEUE)),
        ("longest wait", time(proposals::LONGEST_TIMEOUT)),
        ("senders that are remembered", count(inbound::MAX_SENDERS)),
        ("silence of a peer", time(peers::PEER_SILENCE)),
        ("term of a candidate", format!("own + {}", power(MAX_TERM_STEP))),
        ("term of a leader", format!("own + {}", power(MAX_LED_TERM_STEP))),
        ("snapshot: its description", time(peer_service::SNAPSHOT_BEGIN_TIMEOUT)),
        ("snapshot: to hear of its leader", time(peer_service::SNAPSHOT_VOTE_TIMEOUT)),
        ("snapshot: each part", time(peer_service::SNAPSHOT_PART_TIMEOUT)),
        ("snapshot: to take the turn of an earlier one", time(peers::TAKE_OVER_PATIENCE)),
        ("snapshot: free space", format!("1/{} of the planned reserve", disk::SNAPSHOT_LEAST_DIVISOR)),
        ("address of a new member", bytes(membership::MAX_ADDRESS_BYTES)),
        ("dialling a new member", time(membership::DIAL_DEADLINE)),
    ];
    let part = Part::of(PAGE, "Raft port");
    assert_eq!(part.differences(&limits), [""; 0]);
    let sources = [
        include_str!("../../crates/runtime/src/grpc/gate.rs"),
        include_str!("propose/combiner.rs"),
        include_str!("serve/peer_service.rs"),
    ];
    assert_eq!(part.unknown_metrics(&sources), [""; 0]);
}

#[test]
fn the_page_has_the_limits_of_the_management_port() {
    let mut limits = management::limits();
    limits.extend([
        ("change of the membership", time(deadlines::CHANGE)),
        ("transfer of the leadership", time(deadlines::TRANSFER)),
        ("snapshot", time(deadlines::SNAPSHOT)),
    ]);
    let part = Part::of(PAGE, "Management port");
    assert_eq!(part.differences(&limits), [""; 0]);
    let sources = [include_str!("serve/management/server.rs"), include_str!("serve/management/browsers.rs")];
    assert_eq!(part.unknown_metrics(&sources), [""; 0]);
}
