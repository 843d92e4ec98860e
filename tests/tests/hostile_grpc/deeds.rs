//! What stays possible without certificates, and is not done here: [`EXCLUDED`]. Everything else is done.

use std::ops::RangeInclusive;

use prost::Message;
use raftkv_kv::{CodecError, Proposal, ProposalRef, SystemCommand};
use raftkv_proto::consensus::{ProposeRequest, RemoveRequest};
use raftkv_proto::raft::{AppendRequest, SnapshotPart, snapshot_part};
use raftkv_proto::state_machine::{ApplyRequest, SnapshotChunk, StagedSnapshot, snapshot_chunk};

use super::world::World;

/// A deed that needs more than bounds and checks: who may do it is for certificates and rights to say.
pub(super) struct Deed {
    /// In which requests it is found.
    methods: &'static [&'static str],
    /// What it does, and why it is possible. A letter with a number is a row of the table of issue 19.
    pub(super) reason: &'static str,
    is_it: fn(&[u8], &World) -> bool,
}

/// Terms and positions move on while a request is made.
const SLACK: u64 = 10_000_000;
/// The highest term above the own one of which a leader is believed, and some more.
const LED_TERM_STEP: u64 = 1 << 41;

const PROPOSALS: &[&str] = &["Group.Propose", "Raft.ForwardPropose", "Consensus.Propose"];

/// All of them. `Raft.Adopt` of a waiting node (H7) is none: no node waits in this test, and members refuse it.
pub(super) const EXCLUDED: &[Deed] = &[
    Deed {
        methods: &["Raft.Append"],
        reason: "C3: under the vote of the leader, or one that is higher and within reach, entries of anybody are appended",
        is_it: |bytes, world| {
            AppendRequest::decode(bytes).is_ok_and(|request| {
                let terms: RangeInclusive<u64> = world.term..=world.term + LED_TERM_STEP;
                request
                    .vote
                    .is_some_and(|vote| vote.committed && terms.contains(&vote.leader_id.unwrap_or_default().term))
            })
        },
    },
    Deed {
        methods: &["Raft.Snapshot"],
        reason: "C3: under the vote of the leader a whole snapshot of anybody is installed; parts of one are sent",
        is_it: |bytes, _| match SnapshotPart::decode(bytes) {
            Ok(SnapshotPart { kind: Some(snapshot_part::Kind::Chunk(chunk)) }) => ends_a_snapshot(&chunk),
            _ => false,
        },
    },
    Deed {
        methods: &["StateMachine.SnapshotIn"],
        reason: "the socket is the node's user's: the engine stages a whole snapshot; parts of one are sent",
        is_it: |bytes, _| ends_a_snapshot(bytes),
    },
    Deed {
        methods: &["StateMachine.ActivateSnapshot"],
        reason: "the socket is the node's user's: a snapshot that the sidecar has staged goes live",
        is_it: |bytes, _| StagedSnapshot::decode(bytes).is_ok_and(|staged| staged.token < SLACK),
    },
    Deed {
        methods: &["StateMachine.Apply"],
        reason: "the socket is the node's user's: the engine applies what is next, whoever says so",
        is_it: |bytes, world| {
            let due = world.applied..=world.applied + SLACK;
            ApplyRequest::decode(bytes)
                .is_ok_and(|request| request.entries.iter().any(|entry| due.contains(&entry.index)))
        },
    },
    Deed {
        methods: &["Consensus.Remove"],
        reason: "C6, and the socket is the node's user's: a member is removed",
        is_it: |bytes, world| RemoveRequest::decode(bytes).is_ok_and(|request| world.is_member(&request.name)),
    },
    Deed {
        methods: &["Consensus.Propose"],
        reason: "the socket is the node's user's: what its engine proposes is not decoded again, and a format or a cluster version that no \
                 program knows ends every engine by design (exit 70)",
        is_it: |bytes, _| {
            payload(bytes, |payload| {
                let is_unknown =
                    matches!(ProposalRef::decode(payload), Err(CodecError::UnknownVersion { .. } | CodecError::Empty));
                is_unknown
                    || matches!(Proposal::decode(payload), Ok(Proposal::System(SystemCommand::RaiseVersion { .. })))
            })
        },
    },
    Deed {
        methods: PROPOSALS,
        reason: "a router's deeds: a plain group becomes part of a sharded store, and takes the document of one",
        is_it: |bytes, _| {
            payload(bytes, |payload| {
                matches!(
                    Proposal::decode(payload),
                    Ok(Proposal::System(SystemCommand::Adopt { .. } | SystemCommand::PutKey { .. }))
                ) && raftkv_kv::admit(payload).is_ok()
            })
        },
    },
];

impl Deed {
    /// The deed that a request would be.
    pub(super) fn of(method: &str, request: &[u8], world: &World) -> Option<&'static Self> {
        EXCLUDED.iter().find(|deed| deed.methods.contains(&method) && (deed.is_it)(request, world))
    }
}

fn payload(request: &[u8], is_it: impl Fn(&[u8]) -> bool) -> bool {
    ProposeRequest::decode(request).is_ok_and(|request| is_it(&request.payload))
}

/// A trailer; the numbers in it may fit to what came before.
fn ends_a_snapshot(chunk: &[u8]) -> bool {
    SnapshotChunk::decode(chunk).is_ok_and(|chunk| matches!(chunk.kind, Some(snapshot_chunk::Kind::Trailer(_))))
}
