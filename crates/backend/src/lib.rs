//! [`Backend`]: the key-value store behind the client-facing surfaces, and the types of its requests, answers and errors.
//!
//! The engine implements it over one group, the router over many. Nothing here knows HTTP.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_kv::{Key, Op, Outcome, Value};

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// Sees every write acknowledged before the read was asked, on any node. Where the leader holds a lease it is trusted,
    /// which assumes that clocks run at about the same rate.
    #[default]
    Linearizable,
    /// The same, confirmed by a quorum after the read was asked. Assumes nothing about clocks.
    Quorum,
    /// What this node has, at once. It may be old, without bound.
    Stale,
}

/// What every request carries besides its content.
#[derive(Debug, Clone, Copy)]
pub struct RequestContext {
    /// When the request's head had come.
    pub began: Instant,
    /// When the client stops waiting: after it, an answer is an error, never late.
    pub deadline: Instant,
    /// How fresh reads must be.
    pub consistency: Consistency,
}

/// A stored value with what stands beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// The value; `None` where only keys were asked for.
    pub value: Option<Value>,
    /// Rises with every change of the key.
    pub revision: u64,
    /// The revision at which the key was created.
    pub create_revision: u64,
    /// When it expires, in milliseconds since the Unix epoch; 0 = never.
    pub expires_at_ms: u64,
}

impl Entry {
    /// Of its key and its value.
    pub fn bytes(&self) -> usize {
        self.key.as_bytes().len() + self.value.as_ref().map_or(0, |value| value.as_msgpack().len())
    }
}

/// Which part of the key space to list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListRequest {
    /// First key, inclusive. A prefix has been turned into a range before; a cursor has moved it.
    pub start: Bytes,
    /// First key no more listed, not below `start`; `None` = to the end. Equal to `start`, the range is empty, and is read with
    /// the freshness asked for like any other.
    pub end: Option<Bytes>,
    /// Most entries in the page, at least 1.
    pub limit: usize,
    /// Most bytes in the page, keys and values together; one entry is returned even when it alone is larger.
    pub max_bytes: usize,
    /// Leave the values out.
    pub keys_only: bool,
}

/// A part of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub entries: Vec<Entry>,
    /// Where the next page starts, inclusive; `None` = that was all.
    pub next: Option<Bytes>,
}

/// A read's result and how it was served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read<T> {
    /// The result.
    pub value: T,
    /// The store's revision the read saw; 0 where it spans several groups.
    pub store_revision: u64,
    /// The freshness it was really served with.
    pub consistency: Consistency,
}

/// Who answers, for headers and errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServedBy {
    /// The node's name.
    pub node: String,
}

/// Why a request got no result. Named by what the caller may do next.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// Definitely not applied; may work when tried again (no leader, no quorum, not joined yet).
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// Shed before any work was begun; try again after the time given.
    #[error("overloaded; retry after {retry_after:?}")]
    Overloaded {
        /// When to try again.
        retry_after: Duration,
    },
    /// The disk is nearly full: definitely not applied; deletes still work. Says whose and how full.
    #[error("{0}")]
    DiskFull(String),
    /// The write may or may not have been applied, now or later.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// The deadline of a read passed.
    #[error("deadline exceeded: {0}")]
    DeadlineExceeded(String),
    /// The process is stopping; definitely not applied.
    #[error("this node is stopping")]
    ShuttingDown,
    /// The stored data is damaged or a bug was met. Not retryable.
    #[error("internal error: {0}")]
    Internal(String),
    /// The key's slot is not served here: another group of the sharded store has it. Nothing was applied.
    #[error("this group does not own the key's slot")]
    WrongGroup,
    /// A membership request that cannot be done as asked.
    #[error("{0}")]
    Rejected(String),
    /// Only of a write of several operations: not all of them came to the same. One result per operation, in order, none of
    /// them this again.
    #[error("some of the operations failed")]
    Partial(Vec<Result<Outcome, BackendError>>),
}

impl BackendError {
    /// What happened, without the kind of error: for messages beside which the kind is told, as a status or in another error.
    pub fn reason(&self) -> String {
        match self {
            Self::Unavailable(reason) | Self::OutcomeUnknown(reason) | Self::DeadlineExceeded(reason) => reason.clone(),
            error => error.to_string(),
        }
    }
}

/// A key-value store that may fail, over one group or many.
///
/// Every call honours the context's deadline: it returns by then, give or take scheduling.
pub trait Backend: Clone + Send + Sync + 'static {
    /// Applies the operations in order, each for itself; one outcome per operation.
    ///
    /// On any error but [`BackendError::OutcomeUnknown`] and [`BackendError::Partial`] none of them is applied, now or later.
    fn write(
        &self,
        ctx: RequestContext,
        ops: Vec<Op>,
    ) -> impl Future<Output = Result<Vec<Outcome>, BackendError>> + Send;

    /// Reads one key.
    fn get(
        &self,
        ctx: RequestContext,
        key: Key,
    ) -> impl Future<Output = Result<Read<Option<Entry>>, BackendError>> + Send;

    /// Reads a page of keys in order.
    fn list(
        &self,
        ctx: RequestContext,
        request: ListRequest,
    ) -> impl Future<Output = Result<Read<Page>, BackendError>> + Send;

    /// Adds the node that listens at `raft_address` under `name`; returns what was done, in words.
    fn join(
        &self,
        ctx: RequestContext,
        name: String,
        raft_address: String,
    ) -> impl Future<Output = Result<String, BackendError>> + Send;

    /// Removes a node; returns what was done, in words.
    fn remove(&self, ctx: RequestContext, name: String) -> impl Future<Output = Result<String, BackendError>> + Send;

    /// Who answers here.
    fn served_by(&self) -> ServedBy;

    /// Whether requests can be answered now: `Err` says why not (load balancers read it as not ready).
    fn ready(&self) -> impl Future<Output = Result<(), BackendError>> + Send;
}
