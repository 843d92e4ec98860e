//! [`Chunk`]: entries on their way to the engine.

use openraft::EntryPayload;
use openraft::storage::{ApplyResponder, EntryResponder};
use raftkv_proto::state_machine as proto;

use crate::raft::types::{Command, LogId, StoredMembership, TypeConfig};
use crate::raft::wire;

type Responder = ApplyResponder<TypeConfig>;

/// Entries per request to the engine.
const MAX_ENTRIES: usize = 1_024;
/// Bytes per request to the engine, give or take one entry.
const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Entries that travel in one request.
#[derive(Default)]
pub(crate) struct Chunk {
    pub(crate) entries: Vec<proto::Entry>,
    /// With how many answers each gets.
    pub(crate) responders: Vec<(usize, Option<Responder>)>,
    /// How many all get.
    pub(crate) answers: usize,
    bytes: usize,
    pub(crate) last: Option<LogId>,
}

impl Chunk {
    /// Adds the next entry.
    pub(crate) fn push(&mut self, (entry, responder): EntryResponder<TypeConfig>) {
        use proto::entry::Kind;
        let mut count = 1;
        let (kind, clock_ms, group_clock_ms) = match entry.payload {
            EntryPayload::Blank => (Kind::Blank(true), 0, 0),
            EntryPayload::Normal(command) => {
                self.bytes += command.payload_bytes();
                let Command { wall_ms, group_clock_ms, mut payloads } = command;
                // One without is answered as any other entry that asks for nothing.
                count = payloads.len().max(1);
                let kind = match payloads.len() {
                    1 => Kind::Payload(payloads.remove(0)),
                    _ => Kind::Payloads(proto::Payloads { payloads }),
                };
                (kind, wall_ms, group_clock_ms)
            }
            EntryPayload::Membership(membership) => {
                let stored = StoredMembership::new(Some(entry.log_id), membership);
                (Kind::Membership(wire::stored_membership_bytes(&stored)), 0, 0)
            }
        };
        self.entries.push(proto::Entry {
            index: entry.log_id.index(),
            log_id: wire::log_id_bytes(Some(&entry.log_id)),
            clock_ms,
            group_clock_ms,
            kind: Some(kind),
        });
        self.responders.push((count, responder));
        self.answers += count;
        self.last = Some(entry.log_id);
    }

    /// Whether it should leave.
    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= MAX_ENTRIES || self.bytes >= MAX_BYTES
    }
}
