//! openraft's log on the write-ahead log.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::time::Instant;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::{Stream, TryStreamExt, stream};
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use raftkv_runtime::stage::Stage;
use raftkv_runtime::{failpoint, planted};
use tokio::sync::{oneshot, watch};

use crate::raft::keeper::Keeper;
use crate::raft::types::{Command, Entry, EntryPayload, LeaderId, LogId, Membership, TypeConfig, Vote};
use crate::wal::{self, Ballot, Leader, Position, ReadLimit, Wal, WalError, WalOptions};

/// Entries and bytes read at once for replication and applying, at least one entry. It bounds a replication message, and
/// the memory a node catching up costs.
pub const READ_LIMIT: ReadLimit = ReadLimit { entries: 4096, bytes: 1024 * 1024 };

// Kinds of entries in the log. A kind's encoding never changes; another encoding gets another number.
const BLANK: u8 = 0;
/// The payload's bytes; the wall clock is the entry's stamp, the group's clock its second one.
const COMMAND: u8 = 1;
/// A membership as JSON.
const MEMBERSHIP_JSON: u8 = 2;
/// Several payloads, each behind its length as u32 in little-endian order; the clocks are as of [`COMMAND`]. With a second
/// stamp there may be none: the entry only stamps the clock.
const COMMANDS: u8 = 3;

/// The log as openraft wants it. Clones are the same log, and readers of it.
#[derive(Debug, Clone)]
pub struct LogStore {
    wal: Wal,
    /// Has to let go of the lease before a vote for another is stored.
    keeper: Option<Keeper>,
}

impl LogStore {
    /// Opens the log in `options.dir`, or makes a new one there. Blocks while it reads the log.
    ///
    /// # Errors
    ///
    /// As [`Wal::open`].
    pub fn open(options: WalOptions) -> Result<Self, WalError> {
        Wal::open(options).map(Self::new)
    }

    /// A store on a log that is open.
    pub fn new(wal: Wal) -> Self {
        Self { wal, keeper: None }
    }

    /// The same log; it stores a vote for another leader only after `keeper` has revoked the lease.
    pub fn guarded_by(self, keeper: Keeper) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// The log below.
    pub fn wal(&self) -> &Wal {
        &self.wal
    }

    /// The last entry, durable or not; `None` = there never was one.
    pub fn last_log_id(&self) -> Option<LogId> {
        self.wal.bounds().last.map(from_position)
    }

    /// Follows the index after the last entry that is durable here: an entry is applied only once this is above its index.
    pub fn durable(&self) -> watch::Receiver<u64> {
        self.wal.durable()
    }

    /// Reads entries; those in memory without leaving the task, others on a thread that may block.
    async fn read(&self, range: Range<u64>, limit: ReadLimit) -> io::Result<Vec<Entry>> {
        let plan = self.wal.read(range, limit);
        let entries = if plan.is_cached() {
            plan.load()?
        } else {
            tokio::task::spawn_blocking(move || plan.load()).await.map_err(io::Error::other)??
        };
        entries.into_iter().map(decode).collect()
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In portions: what is to be applied after a restart may be far more than memory.
        let store = self.clone();
        let range = clamp(&range, &self.wal);
        stream::try_unfold((store, range), |(store, range)| async move {
            if range.is_empty() {
                return Ok(None);
            }
            let portion = store.read(range.clone(), READ_LIMIT).await?;
            match portion.first() {
                Some(entry) if entry.log_id.index == range.start => {}
                _ => {
                    return Err(io::Error::other(format!("entry {} left the log while being read", range.start)));
                }
            }
            let next = range.start + portion.len() as u64;
            Ok(Some((stream::iter(portion.into_iter().map(Ok)), (store, next..range.end))))
        })
        .try_flatten()
    }

    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.read(clamp(&range, &self.wal), ReadLimit::NONE).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.wal.vote().map(|ballot| Vote { leader_id: from_leader(ballot.leader), committed: ballot.committed }))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        if start < self.wal.bounds().start {
            // What begins later would be sent as if it followed `start`. Nothing is a heartbeat, and a snapshot is next.
            return Ok(Vec::new());
        }
        let entries = self.read(start..end, READ_LIMIT).await?;
        // Purged in between.
        let whole = entries.first().is_none_or(|entry| entry.log_id.index == start);
        Ok(if whole { entries } else { Vec::new() })
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let bounds = self.wal.bounds();
        Ok(LogState {
            last_purged_log_id: bounds.purged.map(from_position),
            last_log_id: bounds.last.map(from_position),
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if let Some(keeper) = &self.keeper {
            keeper.before_vote(vote.leader_id).await;
        }
        failpoint!("sidecar::log_store::before_vote");
        if planted!(VoteNotPersisted) {
            return Ok(());
        }
        let ballot = Ballot { leader: to_leader(vote.leader_id), committed: vote.committed };
        let (done, durable) = oneshot::channel();
        let done = move |result| {
            // Nobody waits any more when the node is stopping.
            let _ = done.send(result);
        };
        self.wal.save_vote(ballot, Some(Box::new(done)))?;
        durable.await.map_err(|_| WalError::Closed)??;
        failpoint!("sidecar::log_store::after_vote");
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        failpoint!("sidecar::log_store::before_commit");
        self.wal.save_committed(committed.map(to_position))?;
        failpoint!("sidecar::log_store::after_commit");
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.wal.committed().map(from_position))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(encode).collect::<io::Result<Vec<_>>>()?;
        failpoint!("sidecar::log_store::before_append");
        #[cfg(feature = "failpoints")]
        if entries.iter().any(|entry| entry.kind == MEMBERSHIP_JSON) {
            failpoint!("sidecar::log_store::before_membership");
        }
        self.wal.room().await;
        let begin = Instant::now();
        let done = move |result: Result<(), WalError>| {
            Stage::Append.since(begin);
            callback.io_completed(result.map_err(io::Error::from));
        };
        self.wal.append(entries, Some(Box::new(done)))?;
        failpoint!("sidecar::log_store::after_append");
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        Ok(self.wal.truncate_after(last_log_id.map(to_position), None)?)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        failpoint!("sidecar::log_store::before_purge");
        self.wal.purge(to_position(log_id), None)?;
        failpoint!("sidecar::log_store::after_purge");
        Ok(())
    }
}

fn clamp(range: &impl RangeBounds<u64>, wal: &Wal) -> Range<u64> {
    let bounds = wal.bounds();
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    start.max(bounds.start)..end.min(bounds.next)
}

fn encode(entry: Entry) -> io::Result<wal::Entry> {
    // Version 0.1.0 reads no second stamp, and no entry has one below the cluster version that introduces the group's clock.
    let second = |group_clock_ms: u64| (group_clock_ms != 0).then_some(group_clock_ms);
    let (kind, stamp, second_stamp, data) = match entry.payload {
        EntryPayload::Blank => (BLANK, 0, None, Bytes::new()),
        EntryPayload::Normal(Command { wall_ms, group_clock_ms, mut payloads }) if payloads.len() == 1 => {
            (COMMAND, wall_ms, second(group_clock_ms), payloads.remove(0))
        }
        EntryPayload::Normal(command) => (COMMANDS, command.wall_ms, second(command.group_clock_ms), join(&command)?),
        EntryPayload::Membership(membership) => (MEMBERSHIP_JSON, 0, None, serde_json::to_vec(&membership)?.into()),
    };
    let position = to_position(entry.log_id);
    Ok(wal::Entry { position, kind, stamp, second_stamp, data })
}

fn decode(entry: wal::Entry) -> io::Result<Entry> {
    let (wall_ms, group_clock_ms) = (entry.stamp, entry.second_stamp.unwrap_or(0));
    let payload = match entry.kind {
        BLANK => EntryPayload::Blank,
        COMMAND => EntryPayload::Normal(Command { wall_ms, group_clock_ms, payloads: vec![entry.data] }),
        // It only stamps the clock.
        COMMANDS if entry.data.is_empty() && group_clock_ms != 0 => {
            EntryPayload::Normal(Command { wall_ms, group_clock_ms, payloads: Vec::new() })
        }
        COMMANDS => {
            let payloads = split(entry.data).ok_or_else(|| {
                let message = format!("the payloads of entry {} do not fill it", entry.position.index);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            EntryPayload::Normal(Command { wall_ms, group_clock_ms, payloads })
        }
        MEMBERSHIP_JSON => EntryPayload::Membership(serde_json::from_slice::<Membership>(&entry.data)?),
        kind => {
            let index = entry.position.index;
            let message =
                format!("entry {index} is of kind {kind}, unknown to this release: run the one that wrote it");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
    };
    Ok(Entry { log_id: from_position(entry.position), payload })
}

fn join(command: &Command) -> io::Result<Bytes> {
    let mut data = BytesMut::with_capacity(command.payload_bytes() + 4 * command.payloads.len());
    for payload in &command.payloads {
        data.put_u32_le(u32::try_from(payload.len()).map_err(io::Error::other)?);
        data.put_slice(payload);
    }
    Ok(data.freeze())
}

/// Shares the bytes. `None` = this is not what [`join`] makes.
fn split(mut data: Bytes) -> Option<Vec<Bytes>> {
    let mut payloads = Vec::new();
    while !data.is_empty() {
        let length = data.try_get_u32_le().ok()? as usize;
        if length > data.len() {
            return None;
        }
        payloads.push(data.split_to(length));
    }
    (!payloads.is_empty()).then_some(payloads)
}

fn to_leader(leader: LeaderId) -> Leader {
    Leader { term: leader.term, node: leader.node_id }
}

fn from_leader(leader: Leader) -> LeaderId {
    LeaderId { term: leader.term, node_id: leader.node }
}

fn to_position(log_id: LogId) -> Position {
    Position { leader: to_leader(log_id.leader_id), index: log_id.index }
}

fn from_position(position: Position) -> LogId {
    LogId { leader_id: from_leader(position.leader), index: position.index }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_that_share_an_entry_come_apart_as_they_were() {
        let payloads: Vec<Bytes> = [&b"one"[..], b"", b"three"].map(Bytes::from_static).to_vec();
        let data = join(&Command { wall_ms: 7, group_clock_ms: 0, payloads: payloads.clone() }).expect("short");
        assert_eq!(split(data.clone()), Some(payloads));
        for end in 0..data.len() {
            let cut = split(data.slice(..end));
            assert!(cut.is_none_or(|cut| cut.len() < 3), "cut at {end}");
        }
        assert_eq!(split(Bytes::new()), None);
        assert_eq!(split(Bytes::from_static(&[255; 9])), None);
    }
}
