//! [`Forge`]: messages that a stranger would send.

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use raftkv_kv::{Batch, Command, Idempotency, Key, Op, Proposal, SlotSet, SystemCommand, Value};
use raftkv_proto::consensus::ProposeRequest;
use raftkv_proto::raft::{
    AdoptRequest, AppendRequest, LeaderId, LogEntry, LogId, SnapshotBegin, SnapshotPart, TransferLeaderRequest, Vote,
    VoteRequest, log_entry, snapshot_part,
};
use raftkv_proto::state_machine::{SnapshotChunk, SnapshotHeader, snapshot_chunk};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::contract::{Contract, Kind};
use super::world::World;

/// Numbers at which arithmetic ends, and those next to them.
const NUMBERS: [u64; 16] = [
    0,
    1,
    2,
    255,
    65_535,
    65_536,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 32,
    (1 << 48) - 2,
    1 << 48,
    1 << 53,
    i64::MAX as u64,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];
const TEXTS: [&[u8]; 9] = [
    b"",
    b" ",
    b"\0",
    b"\xff\xfe\xc0 no UTF-8",
    b"../../../etc/passwd",
    b"node1\n2026-01-01T00:00:00Z ERROR forged",
    b"127.0.0.1:1",
    b"[::1]:99999",
    b"00000000000000000000000000000000",
];
/// Messages in messages.
const DEPTH: usize = 6;
/// A message is not made much larger.
const LARGE: usize = 2 << 20;
/// Keys of strangers: few, for what they store is no fault.
const KEYS: u32 = 64;

/// Makes messages from random numbers.
#[derive(Debug)]
pub(super) struct Forge<'a> {
    pub(super) rng: &'a mut StdRng,
    pub(super) contract: &'a Contract,
    pub(super) world: &'a World,
}

impl Forge<'_> {
    /// A request of a type: with fields that are hostile, or one that could be a member's but for a field or two.
    pub(super) fn request(&mut self, message: &str) -> Vec<u8> {
        if self.rng.random_bool(0.5)
            && let Some(credible) = self.credible(message)
        {
            return credible;
        }
        let mut bytes = Vec::new();
        self.fields(message, DEPTH, &mut bytes);
        // A field that nobody knows, or the end of one.
        if self.rng.random_bool(0.05) {
            bytes.extend(self.noise(40));
        }
        bytes
    }

    /// Any bytes.
    pub(super) fn noise(&mut self, most: usize) -> Vec<u8> {
        let length = self.rng.random_range(0..=most);
        (0..length).map(|_| self.rng.random()).collect()
    }

    fn fields(&mut self, message: &str, depth: usize, bytes: &mut Vec<u8>) {
        let contract = self.contract;
        for field in contract.fields(message) {
            let times = match (field.is_repeated, self.rng.random_range(0..100)) {
                (_, 0..20) => 0,
                (true, 20..25) if depth == DEPTH => 20_000,
                (true, _) => self.rng.random_range(1..4),
                // Twice: the last one counts, and messages are merged.
                (false, 20..25) => 2,
                (false, _) => 1,
            };
            let begin = bytes.len();
            for _ in 0..times {
                self.field(field.number, &field.kind, depth, bytes);
                if bytes.len() - begin > LARGE {
                    break;
                }
            }
        }
    }

    fn field(&mut self, number: u32, kind: &Kind, depth: usize, bytes: &mut Vec<u8>) {
        let nested = match kind {
            _ if self.rng.random_bool(0.01) => {
                // Of another type than it should be.
                encode_key(number, WireType::SixtyFourBit, bytes);
                return bytes.put_u64_le(self.rng.random());
            }
            Kind::Number => {
                encode_key(number, WireType::Varint, bytes);
                return encode_varint(self.number(), bytes);
            }
            Kind::Text => self.text(),
            Kind::Bytes => self.bytes(),
            Kind::Message(name) => {
                let mut nested = Vec::new();
                if depth > 0 {
                    self.fields(name, depth - 1, &mut nested);
                }
                nested
            }
        };
        encode_key(number, WireType::LengthDelimited, bytes);
        let length = if self.rng.random_bool(0.01) { self.number() } else { nested.len() as u64 };
        encode_varint(length, bytes);
        bytes.extend(nested);
    }

    fn number(&mut self) -> u64 {
        let world = self.world;
        let likely =
            [world.term, world.term + 1, world.leader, world.last_log, world.last_log + 1, world.applied, 4_711];
        match self.rng.random_range(0..4) {
            0 => self.rng.random(),
            1 => *likely.choose(self.rng).unwrap_or(&0),
            2 => world.nodes.choose(self.rng).map_or(0, |node| node.raft_id),
            _ => *NUMBERS.choose(self.rng).unwrap_or(&0),
        }
    }

    fn text(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..6) {
            0 => vec![b'a'; *[63, 64, 65_536, LARGE].choose(self.rng).unwrap_or(&64)],
            1 => self.noise(200),
            2 => self.world.cluster_id.clone().into_bytes(),
            3 => self.world.nodes.choose(self.rng).map_or_else(Vec::new, |node| node.name.clone().into_bytes()),
            4 => self.world.nodes.choose(self.rng).map_or_else(Vec::new, |node| node.raft_address.clone().into_bytes()),
            _ => TEXTS.choose(self.rng).map_or_else(Vec::new, |text| text.to_vec()),
        }
    }

    fn bytes(&mut self) -> Vec<u8> {
        match self.rng.random_range(0..10) {
            0 => Vec::new(),
            1 => vec![0x91; self.rng.random_range(0..LARGE)],
            2..5 => self.proposal(),
            5 => b"{\"log_id\":null,\"membership\":{\"configs\":[[1]],\"nodes\":{}}}".to_vec(),
            6 => self.snapshot_chunk().encode_to_vec(),
            7 => self.text(),
            _ => self.noise(2_000),
        }
    }

    /// What a member would send, but for what a stranger wants with it.
    fn credible(&mut self, message: &str) -> Option<Vec<u8>> {
        Some(match message.rsplit_once('.')?.1 {
            "ProposeRequest" => ProposeRequest {
                id: self.number(),
                payload: self.proposal().into(),
                timeout_ms: *[0, 1, 500, u32::MAX].choose(self.rng)?,
                callers: *[0, 1, u32::MAX].choose(self.rng)?,
                takes_space: self.rng.random(),
            }
            .encode_to_vec(),
            "VoteRequest" => VoteRequest {
                vote: Some(self.vote()),
                last_log_id: self.log_id(),
                pre_vote: self.rng.random(),
                leadership_transfer: self.rng.random(),
            }
            .encode_to_vec(),
            "TransferLeaderRequest" => TransferLeaderRequest {
                from_leader: Some(self.vote()),
                to_node_id: self.number(),
                last_log_id: self.log_id(),
            }
            .encode_to_vec(),
            "AppendRequest" => self.append().encode_to_vec(),
            "AdoptRequest" => {
                let cluster_id = String::from_utf8_lossy(&self.text()).into_owned();
                AdoptRequest { cluster_id, raft_id: self.number() }.encode_to_vec()
            }
            "SnapshotPart" => {
                let kind = match self.rng.random_bool(0.5) {
                    true => snapshot_part::Kind::Begin(SnapshotBegin {
                        vote: Some(self.vote()),
                        last_log_id: self.log_id(),
                        membership: if self.rng.random() { Bytes::new() } else { self.bytes().into() },
                    }),
                    false => snapshot_part::Kind::Chunk(self.snapshot_chunk().encode_to_vec().into()),
                };
                SnapshotPart { kind: Some(kind) }.encode_to_vec()
            }
            "SnapshotChunk" => self.snapshot_chunk().encode_to_vec(),
            _ => return None,
        })
    }

    fn append(&mut self) -> AppendRequest {
        let entries = (0..self.rng.random_range(0..3)).map(|_| LogEntry {
            log_id: self.log_id(),
            payload: Some(match self.rng.random_range(0..3) {
                0 => log_entry::Payload::Blank(true),
                1 => log_entry::Payload::Membership(self.bytes().into()),
                _ => log_entry::Payload::Command(raftkv_proto::raft::Command {
                    clock_ms: self.number(),
                    payload: self.proposal().into(),
                    group_clock_ms: self.number(),
                }),
            }),
        });
        let entries = entries.collect();
        AppendRequest {
            vote: Some(self.vote()),
            prev_log_id: self.log_id(),
            entries,
            leader_commit: self.log_id(),
            leader_trouble: Some(self.number() as u32),
            group_clock_ms: self.number(),
            successor: Some(LeaderId { term: self.number(), node_id: self.number() }),
        }
    }

    /// A vote of a member or of a stranger, in terms around the present one, at the bounds of what is heard, or out of reach.
    fn vote(&mut self) -> Vote {
        let term = self.world.term;
        let terms = [term.saturating_sub(1), term, term, term + 1, term + 2, term + (1 << 20) + 9, 1 << 60, u64::MAX];
        let term = *terms.choose(self.rng).unwrap_or(&0);
        let node_id = if self.rng.random() { self.world.leader } else { self.number() };
        Vote { leader_id: Some(LeaderId { term, node_id }), committed: self.rng.random() }
    }

    fn log_id(&mut self) -> Option<LogId> {
        let (term, node_id) = (self.number(), self.number());
        self.rng.random_bool(0.8).then(|| LogId { leader_id: Some(LeaderId { term, node_id }), index: self.number() })
    }

    fn snapshot_chunk(&mut self) -> SnapshotChunk {
        let kind = match self.rng.random_range(0..3) {
            0 => snapshot_chunk::Kind::Header(SnapshotHeader {
                format: self.rng.random_range(0..4),
                position: Some(raftkv_proto::state_machine::Position {
                    next_index: self.number(),
                    log_id: self.log_id().unwrap_or_default().encode_to_vec().into(),
                    ..Default::default()
                }),
                estimated_bytes: self.number(),
            }),
            _ => snapshot_chunk::Kind::Data(self.noise(70_000).into()),
        };
        SnapshotChunk { kind: Some(kind) }
    }

    /// A payload for the log: one that a group takes, with hostile numbers in it; a part of one; or none at all.
    pub(super) fn proposal(&mut self) -> Vec<u8> {
        let whole = match self.rng.random_range(0..8) {
            0 => Proposal::OpenSession.encode(),
            1..4 => self.batch(),
            4..7 => Proposal::System(self.system()).encode(),
            _ => return self.noise(300),
        };
        let mut whole = whole.to_vec();
        match self.rng.random_range(0..4) {
            0 => whole.truncate(self.rng.random_range(0..=whole.len())),
            1 => {
                for _ in 0..self.rng.random_range(1..4) {
                    let at = self.rng.random_range(1..whole.len());
                    whole[at] = self.rng.random();
                }
            }
            _ => {}
        }
        whole
    }

    fn batch(&mut self) -> Bytes {
        let count = *[0, 1, 1, 2, 300, 5_000].choose(self.rng).unwrap_or(&1);
        let ops = (0..count).map(|_| {
            let key = match self.rng.random_range(0..10) {
                0 => self.noise(8),
                1 => vec![b'k'; *[4_096, 4_097, 65_536].choose(self.rng).unwrap_or(&1)],
                _ => format!("stranger/{}", self.rng.random_range(0..KEYS)).into_bytes(),
            };
            let key = Key::from_stored(key);
            let value: Vec<u8> = match self.rng.random_range(0..6) {
                0 => vec![0xc1],
                // Lists in lists, and one that claims more than it has.
                1 => vec![0x91; self.rng.random_range(0..3_000)],
                2 => b"\xdd\xff\xff\xff\xff".to_vec(),
                _ => b"\xa1x".to_vec(),
            };
            let expires_at_ms = if self.rng.random() { 0 } else { self.number() };
            let command = match self.rng.random_bool(0.8) {
                true => Command::Set { key, value: Value::from_stored(value), expires_at_ms },
                false => Command::Delete { key },
            };
            let mut op = Op::from(command);
            if self.rng.random_bool(0.1) {
                let (key, fingerprint, keep_ms) = (self.noise(300).into(), self.number(), self.number());
                op.idempotency = Some(Idempotency { key, fingerprint, keep_ms });
            }
            op
        });
        let ops = ops.collect();
        let (session, sequence, acknowledged_below) = (self.number(), self.number(), self.number());
        Proposal::Batch(Batch { session, sequence, acknowledged_below, ops }).encode()
    }

    fn system(&mut self) -> SystemCommand {
        let (id, first, last) = (self.number(), self.rng.random_range(0..16_384), self.rng.random_range(0..16_384));
        let slots = SlotSet::range(u16::min(first, last), u16::max(first, last));
        match self.rng.random_range(0..12) {
            0 => SystemCommand::PutKey {
                key: [&b"cluster"[..], b"routers", b"upgrade", b"x"]
                    .choose(self.rng)
                    .map_or_else(Bytes::new, |key| Bytes::from_static(key)),
                expected_version: self.number(),
                value: self.noise(200).into(),
            },
            1 => SystemCommand::Adopt { store: self.number(), group: self.number() as u32, keep: self.rng.random() },
            2 => SystemCommand::Claim { id, slots },
            3 => SystemCommand::Disown { id, slots },
            4 => SystemCommand::BeginImport { id, slots, version: self.number() as u32 },
            5 => SystemCommand::Import {
                id,
                page: self.number(),
                cursor: self.noise(40).into(),
                records: self.noise(300).into(),
            },
            6 => SystemCommand::CommitImport {
                id,
                pages: self.number(),
                revision: self.number(),
                clock_ms: self.number(),
                times: Vec::new(),
            },
            7 => SystemCommand::BeginExport { id, slots, version: self.number() as u32 },
            8 => [SystemCommand::Fence { id }, SystemCommand::Release { id }, SystemCommand::AbortExport { id }]
                .choose(self.rng)
                .cloned()
                .unwrap_or(SystemCommand::Fence { id }),
            9 => SystemCommand::AbortImport { id },
            10 => SystemCommand::Purge { limit: self.number() as u32 },
            _ => SystemCommand::RaiseVersion { from: self.number() as u32, to: self.number() as u32 },
        }
    }
}
