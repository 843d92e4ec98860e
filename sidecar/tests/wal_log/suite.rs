//! openraft's own tests of a log store, with a state machine in memory.

use std::io;
use std::sync::{Arc, Mutex};

use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, IOFlushed, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;
use openraft::{EntryPayload, OptionalSend, RaftLogReader, RaftSnapshotBuilder, Snapshot};
use raftkv_sidecar::raft::log_store::LogStore;
use raftkv_sidecar::raft::types::{
    Answer, Command, Entry, LeaderId, LogId, Member, Membership, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};
use raftkv_sidecar::wal::WalOptions;
use tempfile::TempDir;

use super::support::options;

type StorageError = openraft::StorageError<TypeConfig>;
type StoredSnapshot = openraft::alias::SnapshotOf<TypeConfig, Vec<u8>>;

/// Remembers positions and memberships, and nothing else.
#[derive(Debug, Clone, Default)]
struct Machine(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Option<SnapshotMeta>,
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;

    async fn build_snapshot(&mut self) -> io::Result<StoredSnapshot> {
        let mut state = self.0.lock().unwrap();
        let meta = SnapshotMeta { last_log_id: state.applied, last_membership: state.membership.clone() };
        state.snapshot = Some(meta.clone());
        let snapshot = Vec::new();
        Ok(Snapshot { meta, snapshot })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = Vec<u8>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.0.lock().unwrap();
        Ok((state.applied, state.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let mut state = self.0.lock().unwrap();
            state.applied = Some(entry.log_id);
            if let EntryPayload::Membership(membership) = entry.payload {
                state.membership = StoredMembership::new(Some(entry.log_id), membership);
            }
            if let Some(responder) = responder {
                responder.send(Answer::default());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, _snapshot: Vec<u8>) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.applied = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.snapshot = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<StoredSnapshot>> {
        let meta = self.0.lock().unwrap().snapshot.clone();
        Ok(meta.map(|meta| Snapshot { meta, snapshot: Vec::new() }))
    }
}

struct Builder {
    cache_bytes: usize,
}

impl StoreBuilder<TypeConfig, LogStore, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError> {
        let dir = TempDir::new().unwrap();
        let options = WalOptions { cache_bytes: self.cache_bytes, ..options(dir.path(), 1024) };
        let store = LogStore::open(options).map_err(|error| StorageError::write(TypeConfig::err_from_error(&error)))?;
        Ok((dir, store, Machine::default()))
    }
}

#[tokio::test]
async fn openraft_suite_with_entries_in_memory() {
    let cache_bytes = 1 << 20;
    Suite::test_all(Builder { cache_bytes }).await.unwrap();
}

#[tokio::test]
async fn openraft_suite_with_entries_on_disk() {
    Suite::test_all(Builder { cache_bytes: 0 }).await.unwrap();
}

#[tokio::test]
async fn every_kind_of_entry_and_the_vote_come_back_after_a_restart() {
    let dir = TempDir::new().unwrap();
    let leader_id = LeaderId { term: 4, node_id: u64::MAX };
    let log_id = |index| LogId { leader_id, index };
    let member = Member { name: "node1".into(), raft_address: "node1:8088".into(), ..Member::default() };
    let membership =
        Membership::new(vec![[1].into()], [(1, member)].into_iter().collect::<std::collections::BTreeMap<_, _>>())
            .unwrap();
    let payloads = [
        EntryPayload::Membership(membership),
        EntryPayload::Blank,
        EntryPayload::Normal(Command {
            wall_ms: 1_700_000_000_123,
            group_clock_ms: 0,
            payloads: vec![vec![9; 5000].into()],
        }),
        EntryPayload::Normal(Command {
            wall_ms: 5,
            group_clock_ms: 7,
            payloads: vec![vec![1; 3].into(), vec![].into(), vec![2; 70_000].into()],
        }),
    ];
    let entries: Vec<Entry> =
        (0..).zip(payloads).map(|(index, payload)| Entry { log_id: log_id(index), payload }).collect();
    let vote = Vote { leader_id, committed: true };
    {
        let mut store = LogStore::open(options(dir.path(), 4096)).unwrap();
        store.save_vote(&vote).await.unwrap();
        let (sender, flushed) = TypeConfig::oneshot();
        store.append(entries.clone(), IOFlushed::signal(sender)).await.unwrap();
        flushed.await.unwrap().unwrap();
        store.save_committed(Some(log_id(1))).await.unwrap();
    }
    let mut store = LogStore::open(options(dir.path(), 4096)).unwrap();
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
    assert_eq!(store.read_committed().await.unwrap(), Some(log_id(1)));
    assert!(store.try_get_log_entries(..).await.unwrap() == entries);
    let streamed: Vec<_> = store.entries_stream(0..4).await.try_collect().await.unwrap();
    assert!(streamed == entries);
    store.purge(log_id(0)).await.unwrap();
    assert!(store.limited_get_log_entries(0, 3).await.unwrap().is_empty(), "nothing that does not follow");
    assert_eq!(store.limited_get_log_entries(1, 3).await.unwrap().len(), 2);
}
