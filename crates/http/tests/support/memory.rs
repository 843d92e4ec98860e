//! [`Memory`]: a backend that keeps everything in one map.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use raftkv_backend::{Backend, BackendError, Entry, ListRequest, Page, Read, RequestContext, ServedBy};
use raftkv_http::RaftStats;
use raftkv_kv::{Command, Key, Op, Outcome, Precondition};
use tokio::sync::Notify;

#[derive(Clone, Default)]
pub(crate) struct Memory {
    state: Arc<Mutex<State>>,
    /// Wakes the requests that wait while `stalled`.
    go_on: Arc<Notify>,
}

#[derive(Default)]
struct State {
    revision: u64,
    entries: BTreeMap<Bytes, Entry>,
    records: HashMap<Bytes, (u64, Outcome)>,
    members: BTreeMap<String, String>,
    failure: Option<BackendError>,
    stalled: bool,
    waiting: usize,
    writes: usize,
}

impl Memory {
    /// Every request fails so from now on, until `None`.
    pub(crate) fn fail(&self, failure: Option<BackendError>) {
        self.state.lock().unwrap().failure = failure;
    }

    /// Requests wait from now on, until [`go_on`](Self::go_on).
    pub(crate) fn stall(&self) {
        self.state.lock().unwrap().stalled = true;
    }

    pub(crate) fn go_on(&self) {
        self.state.lock().unwrap().stalled = false;
        self.go_on.notify_waiters();
    }

    /// How many requests wait.
    pub(crate) fn waiting(&self) -> usize {
        self.state.lock().unwrap().waiting
    }

    /// How many operations changed something.
    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().unwrap().revision
    }

    /// How many writes came through.
    pub(crate) fn writes(&self) -> usize {
        self.state.lock().unwrap().writes
    }

    async fn pass(&self) -> Result<(), BackendError> {
        let woken = self.go_on.notified();
        tokio::pin!(woken);
        woken.as_mut().enable();
        let stalled = {
            let mut state = self.state.lock().unwrap();
            state.waiting += usize::from(state.stalled);
            state.stalled
        };
        if stalled {
            woken.await;
            self.state.lock().unwrap().waiting -= 1;
        }
        self.state.lock().unwrap().failure.clone().map_or(Ok(()), Err)
    }
}

impl State {
    fn apply(&mut self, op: Op) -> Outcome {
        let Some(record) = &op.idempotency else {
            return self.change(op.command, op.precondition);
        };
        if let Some((fingerprint, outcome)) = self.records.get(&record.key) {
            return if *fingerprint == record.fingerprint {
                Outcome::Replayed(Box::new(outcome.clone()))
            } else {
                Outcome::IdempotencyMismatch
            };
        }
        let (key, fingerprint) = (record.key.clone(), record.fingerprint);
        let outcome = self.change(op.command, op.precondition);
        self.records.insert(key, (fingerprint, outcome.clone()));
        outcome
    }

    fn change(&mut self, command: Command, precondition: Option<Precondition>) -> Outcome {
        let name = command.key().clone().into_bytes();
        let old = self.entries.get(&name);
        let current = old.map_or(0, |entry| entry.revision);
        let holds = match precondition {
            None => true,
            Some(Precondition::Absent) => old.is_none(),
            Some(Precondition::Present) => old.is_some(),
            Some(Precondition::Revision(wanted)) => old.is_some() && current == wanted,
        };
        if !holds {
            return Outcome::PreconditionFailed { current };
        }
        match command {
            Command::Set { key, value, expires_at_ms } => {
                self.revision += 1;
                let revision = self.revision;
                let create_revision = old.map_or(revision, |entry| entry.create_revision);
                let created = old.is_none();
                let entry = Entry { key, value: Some(value), revision, create_revision, expires_at_ms };
                self.entries.insert(name, entry);
                Outcome::Set { revision, created }
            }
            Command::Delete { .. } if old.is_none() => Outcome::Deleted { revision: 0, existed: false },
            Command::Delete { .. } => {
                self.entries.remove(&name);
                self.revision += 1;
                Outcome::Deleted { revision: self.revision, existed: true }
            }
        }
    }
}

impl Backend for Memory {
    async fn write(&self, _: RequestContext, ops: Vec<Op>) -> Result<Vec<Outcome>, BackendError> {
        self.pass().await?;
        let mut state = self.state.lock().unwrap();
        state.writes += 1;
        Ok(ops.into_iter().map(|op| state.apply(op)).collect())
    }

    async fn get(&self, ctx: RequestContext, key: Key) -> Result<Read<Option<Entry>>, BackendError> {
        self.pass().await?;
        let state = self.state.lock().unwrap();
        let value = state.entries.get(key.as_bytes()).cloned();
        Ok(Read { value, store_revision: state.revision, consistency: ctx.consistency })
    }

    async fn list(&self, ctx: RequestContext, request: ListRequest) -> Result<Read<Page>, BackendError> {
        self.pass().await?;
        let state = self.state.lock().unwrap();
        let end = request.end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = Page { entries: Vec::new(), next: None };
        let mut bytes = 0;
        for (name, entry) in state.entries.range((Bound::Included(request.start), end)) {
            let size = name.len() + entry.value.as_ref().map_or(0, |v| v.as_msgpack().len());
            if page.entries.len() == request.limit || (!page.entries.is_empty() && bytes + size > request.max_bytes) {
                page.next = Some(name.clone());
                break;
            }
            bytes += size;
            let mut entry = entry.clone();
            if request.keys_only {
                entry.value = None;
            }
            page.entries.push(entry);
        }
        Ok(Read { value: page, store_revision: state.revision, consistency: ctx.consistency })
    }

    async fn join(&self, _: RequestContext, name: String, raft_address: String) -> Result<String, BackendError> {
        self.pass().await?;
        let message = format!("node {name} at {raft_address} joined");
        self.state.lock().unwrap().members.insert(name, raft_address);
        Ok(message)
    }

    async fn remove(&self, _: RequestContext, name: String) -> Result<String, BackendError> {
        self.pass().await?;
        match self.state.lock().unwrap().members.remove(&name) {
            Some(_) => Ok(format!("node {name} removed")),
            None => Err(BackendError::Rejected(format!("there is no node {name}"))),
        }
    }

    fn served_by(&self) -> ServedBy {
        ServedBy { node: "memory".to_owned() }
    }

    async fn ready(&self) -> Result<(), BackendError> {
        self.state.lock().unwrap().failure.clone().map_or(Ok(()), Err)
    }
}

impl RaftStats for Memory {
    async fn raft_stats(&self, _: RequestContext) -> Result<BTreeMap<String, String>, BackendError> {
        self.pass().await?;
        Ok(self.state.lock().unwrap().members.clone())
    }
}
