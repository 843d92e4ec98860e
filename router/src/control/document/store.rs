//! [`ClusterStore`]: reads the cluster document in the meta group and changes it, by compare-and-set.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_backend::BackendError;
use raftkv_kv::{CLUSTER_KEY, Refusal, SystemAnswer, SystemCommand};

use crate::control::document::place::{Misplaced, Place, place};
use crate::control::document::rejected::Rejected;
use crate::control::document::state::{ClusterState, META_GROUP, StateError};
use crate::data::group::GroupClient;
use crate::data::map::{MapWatch, ShardMap};

/// How often a change is made anew because somebody else's came first. Each time somebody got on, so this many in a row
/// is a fault.
const MOST_CONFLICTS: usize = 64;
/// A write's answer is waited for no longer than this at a time; then reading shows what became of it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two looks at a document whose write has an unknown outcome.
const UNKNOWN_PAUSE: Duration = Duration::from_millis(50);
/// All nodes of the meta group get this long to say what they are, before a store is made of them: one that is gone must
/// not use up the time of the rest.
const PLACE_TIMEOUT: Duration = Duration::from_millis(500);

/// One version of the document.
#[derive(Debug, Clone)]
pub struct Versioned {
    /// Rises with every change of it.
    pub version: u64,
    /// What it says.
    pub state: Arc<ClusterState>,
}

/// Why the document was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The change does not fit: nothing was changed.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The meta group does not answer now: nothing was changed.
    #[error("the meta group does not answer: {0}")]
    Unavailable(String),
    /// The write was sent and its answer is missing: it may take place, now or later.
    #[error("it is not known whether the change was made: {0}")]
    Unknown(String),
    /// The document cannot be used by this version.
    #[error(transparent)]
    State(#[from] StateError),
    /// The nodes that are configured as meta group are something else.
    #[error("{0}")]
    NotMeta(String),
    /// The meta group refuses the document.
    #[error("the meta group refuses the document: {0}")]
    Refused(String),
}

/// The cluster document. Cloning shares the connection.
#[derive(Debug, Clone)]
pub struct ClusterStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    meta: GroupClient,
    maps: MapWatch,
    router: String,
    /// The newest one seen that can be used.
    latest: Mutex<Option<Versioned>>,
    /// Why the one that was read last cannot be used; `None` = it can, or none was read.
    unusable: Mutex<Option<String>>,
    opening: Mutex<Opening>,
}

/// Whether the store was found. Until then nothing is read or changed: the configured addresses may be anything.
#[derive(Debug)]
enum Opening {
    NotYet,
    /// The nodes are not a meta group, as far as is known now.
    Refused(String),
    Open,
}

impl ClusterStore {
    /// Of the group behind `meta`. `router` signs what is written; what is read is told to `maps`.
    pub fn new(meta: GroupClient, maps: MapWatch, router: String) -> Self {
        Self {
            shared: Arc::new(Shared {
                meta,
                maps,
                router,
                latest: Mutex::new(None),
                unusable: Mutex::default(),
                opening: Mutex::new(Opening::NotYet),
            }),
        }
    }

    /// The newest version that this router has seen. It may be old.
    pub fn latest(&self) -> Option<Versioned> {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the document as it is in the meta group cannot be used; the last good one is kept meanwhile. `None` = it can be.
    pub fn unusable(&self) -> Option<String> {
        self.shared.unusable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A version above `version`, or `None` at the deadline.
    pub async fn newer_than(&self, version: u64, deadline: Instant) -> Option<Versioned> {
        self.shared.maps.newer_than(version, deadline).await?;
        self.latest().filter(|latest| latest.version > version)
    }

    /// The newest map made of it.
    pub fn map(&self) -> Option<Arc<ShardMap>> {
        self.shared.maps.current()
    }

    /// The client of the meta group.
    pub fn meta(&self) -> &GroupClient {
        &self.shared.meta
    }

    /// Makes the store, or finds it; after this the meta group is a part of it. Safe to repeat, and for many routers at
    /// once: the first document that is written fixes the store's id. Until it has succeeded once, everything else here
    /// fails.
    ///
    /// # Errors
    /// [`StoreError::NotMeta`] when the nodes are another group than the first one of a store: nothing was written then.
    pub async fn open(
        &self,
        addresses: &[String],
        replicas: usize,
        deadline: Instant,
    ) -> Result<Versioned, StoreError> {
        let opened = self.find_or_make(addresses, replicas, deadline).await;
        let told = match &opened {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        };
        {
            let mut opening = self.shared.opening.lock().unwrap_or_else(PoisonError::into_inner);
            match (&opened, &*opening) {
                (Ok(_), _) => *opening = Opening::Open,
                (Err(_), Opening::Open) => {}
                (Err(StoreError::NotMeta(reason)), _) => *opening = Opening::Refused(reason.clone()),
                (Err(_), _) => *opening = Opening::NotYet,
            }
        }
        self.shared.maps.explain(told);
        let found = opened?;
        self.publish(&found);
        Ok(found)
    }

    async fn find_or_make(
        &self,
        addresses: &[String],
        replicas: usize,
        deadline: Instant,
    ) -> Result<Versioned, StoreError> {
        let found = match self.read_document(deadline).await? {
            Some(found) => {
                self.check_place(deadline).await?;
                found
            }
            None => self.make(addresses, replicas, deadline).await?,
        };
        let adopt = SystemCommand::Adopt { store: found.state.store, group: META_GROUP, keep: true };
        match self.shared.meta.system(adopt, deadline).await.map_err(unavailable)? {
            SystemAnswer::Done => Ok(found),
            // It became a part of another store since it was looked at.
            SystemAnswer::Refused(Refusal::OtherIdentity { store, group }) if group != META_GROUP => {
                Err(Misplaced::other(addresses, store, group).into())
            }
            SystemAnswer::Refused(refusal) => Err(StoreError::NotMeta(format!(
                "the nodes configured as meta group keep the document of store {:016x} and are not its first group: \
                 {refusal}",
                found.state.store
            ))),
            other => Err(StoreError::Refused(format!("an answer that does not fit: {other:?}"))),
        }
    }

    /// Whether the node in use belongs to a first group, as far as it has applied the log. Spares the group an entry that
    /// would be refused, each time that a router asks again.
    async fn check_place(&self, deadline: Instant) -> Result<(), StoreError> {
        let described = self.shared.meta.describe(deadline).await;
        let address = self.shared.meta.target().unwrap_or_default();
        place(std::slice::from_ref(&address), &[(address.clone(), described)])?;
        Ok(())
    }

    /// Makes the document of a new store, but only in a group that is in no store.
    ///
    /// The document comes first and the group's adoption second, in that order: whoever finds the document of a router that
    /// died in between adopts the group under the same id.
    async fn make(&self, addresses: &[String], replicas: usize, deadline: Instant) -> Result<Versioned, StoreError> {
        let described = self.shared.meta.describe_all(deadline.min(Instant::now() + PLACE_TIMEOUT)).await;
        let place = place(addresses, &described)?;
        match place {
            Some(Place::Free) => self.create(addresses, replicas, deadline).await?,
            Some(Place::PerhapsFree { said, named }) => {
                return Err(StoreError::Unavailable(format!(
                    "{said} of the {named} nodes in RAFTKV_META say that they are in no store yet; a store is made once a \
                     majority does"
                )));
            }
            // Another router made it at this moment; its document is there then.
            Some(Place::First(_)) => {}
            None => return Err(StoreError::Unavailable("no node of it is in a cluster".to_owned())),
        }
        self.read_document(deadline).await?.ok_or_else(|| match place {
            Some(Place::First(store)) => StoreError::NotMeta(format!(
                "the nodes are the first group of store {store:016x}, whose cluster document is missing"
            )),
            _ => StoreError::Refused("it was written and is not there".to_owned()),
        })
    }

    /// The document as it is now (linearizable).
    pub async fn read(&self, deadline: Instant) -> Result<Versioned, StoreError> {
        match &*self.shared.opening.lock().unwrap_or_else(PoisonError::into_inner) {
            Opening::Open => {}
            Opening::NotYet => {
                return Err(StoreError::Unavailable("this router has not found its store yet".to_owned()));
            }
            Opening::Refused(reason) => return Err(StoreError::NotMeta(reason.clone())),
        }
        let found = self.read_document(deadline).await?;
        let found = found.ok_or_else(|| StoreError::NotMeta("the meta group has no cluster document".to_owned()))?;
        self.publish(&found);
        Ok(found)
    }

    /// Changes the document as it is now, and says what `change` said of the version that was written. `change` is made
    /// again on a fresh copy when somebody else's change came first; one that changes nothing is not written.
    ///
    /// # Errors
    /// On all but [`StoreError::Unknown`] nothing was changed, now or later.
    pub async fn update<T>(
        &self,
        deadline: Instant,
        mut change: impl FnMut(&mut ClusterState) -> Result<T, Rejected>,
    ) -> Result<(T, Versioned), StoreError> {
        // What was tried so far, by its mark: any of it may have taken place.
        let mut tried: Vec<(String, T)> = Vec::new();
        // The version that a write expects whose answer is missing.
        let mut doubt: Option<u64> = None;
        for _ in 0..MOST_CONFLICTS {
            let found = match self.read(deadline).await {
                Ok(found) => found,
                Err(error) if doubt.is_some() => return Err(StoreError::Unknown(error.to_string())),
                Err(error) => return Err(error),
            };
            if let Some(at) = tried.iter().position(|(mark, _)| found.state.writes.contains(mark)) {
                return Ok((tried.swap_remove(at).1, found));
            }
            // It did not take place, and finds another version from now on.
            doubt = doubt.filter(|expected| *expected >= found.version);
            let mut state = (*found.state).clone();
            let told = match change(&mut state) {
                Ok(told) if state == *found.state => return Ok((told, found)),
                Ok(told) => told,
                Err(rejected) if doubt.is_some() => return Err(StoreError::Unknown(rejected.to_string())),
                Err(rejected) => return Err(rejected.into()),
            };
            let mark = format!("{:016x}", rand::random::<u64>());
            state.sign(mark.clone());
            if let Err(problem) = state.check() {
                // A fault of ours: it must not get into the document.
                tracing::error!(problem, "a change of the cluster document was stopped");
                return Err(StoreError::State(StateError::Contradiction(problem)));
            }
            let value = Bytes::from(state.encode());
            tried.push((mark, told));
            match self.put(CLUSTER_KEY, found.version, value, deadline).await {
                Ok(Put::Done(version)) => {
                    let written = Versioned { version, state: Arc::new(state) };
                    self.publish(&written);
                    if let Some((_, told)) = tried.pop() {
                        return Ok((told, written));
                    }
                }
                Ok(Put::Conflict) => metrics::counter!("raftkv_router_cluster_conflicts_total").increment(1),
                Ok(Put::Doubt(reason)) => {
                    doubt = Some(found.version);
                    if Instant::now() + UNKNOWN_PAUSE >= deadline {
                        return Err(StoreError::Unknown(reason));
                    }
                    tokio::time::sleep(UNKNOWN_PAUSE).await;
                }
                Err(StoreError::Unavailable(reason)) if doubt.is_some() => return Err(StoreError::Unknown(reason)),
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Unavailable(format!("{MOST_CONFLICTS} changes of others came first")))
    }

    /// Reads a small document of its own beside the cluster document: its version (0 = there is none) and its bytes.
    pub async fn side_document(&self, key: &'static [u8], deadline: Instant) -> Result<(u64, Bytes), StoreError> {
        self.shared.meta.system_key(Bytes::from_static(key), deadline).await.map_err(unavailable)
    }

    /// Writes such a document if it still has this version; says whether it was written for sure.
    pub async fn put_side_document(
        &self,
        key: &'static [u8],
        version: u64,
        value: Vec<u8>,
        deadline: Instant,
    ) -> Result<bool, StoreError> {
        Ok(matches!(self.put(key, version, value.into(), deadline).await?, Put::Done(_)))
    }

    async fn create(&self, addresses: &[String], replicas: usize, deadline: Instant) -> Result<(), StoreError> {
        let store = rand::random_range(1..=u64::MAX);
        let mut state = ClusterState::init(store, addresses.to_vec(), replicas);
        state.sign(format!("{:016x}", rand::random::<u64>()));
        match self.put(CLUSTER_KEY, 0, state.encode().into(), deadline).await? {
            Put::Done(_) => {
                tracing::info!(
                    store = format_args!("{store:016x}"),
                    router = self.shared.router,
                    "made the cluster document: a sharded store of one group"
                );
            }
            // Somebody else's, or ours: the next read shows it.
            Put::Conflict | Put::Doubt(_) => {}
        }
        Ok(())
    }

    async fn read_document(&self, deadline: Instant) -> Result<Option<Versioned>, StoreError> {
        let (version, bytes) =
            self.shared.meta.system_key(Bytes::from_static(CLUSTER_KEY), deadline).await.map_err(unavailable)?;
        if version == 0 {
            return Ok(None);
        }
        let latest = self.latest();
        if let Some(latest) = latest.as_ref().filter(|latest| latest.version == version) {
            self.note_unusable(None);
            return Ok(Some(latest.clone()));
        }
        let decoded = ClusterState::decode(&bytes).and_then(|state| match &latest {
            Some(latest) => state.check_after(&latest.state).map(|()| state).map_err(StateError::Contradiction),
            None => Ok(state),
        });
        self.note_unusable(decoded.as_ref().err().map(|error| format!("version {version}: {error}")));
        Ok(Some(Versioned { version, state: Arc::new(decoded?) }))
    }

    fn note_unusable(&self, why: Option<String>) {
        let mut known = self.shared.unusable.lock().unwrap_or_else(PoisonError::into_inner);
        if *known == why {
            return;
        }
        metrics::gauge!("raftkv_router_document_unusable").set(f64::from(u8::from(why.is_some())));
        match (&why, self.latest()) {
            (Some(why), Some(kept)) => {
                let version = kept.version;
                tracing::error!("the cluster document cannot be used, and version {version} of it is kept: {why}");
            }
            (Some(why), None) => tracing::error!("the cluster document cannot be used, and no other is known: {why}"),
            (None, _) => tracing::info!("the cluster document can be used again"),
        }
        *known = why;
    }

    async fn put(
        &self,
        key: &'static [u8],
        expected_version: u64,
        value: Bytes,
        deadline: Instant,
    ) -> Result<Put, StoreError> {
        let command = SystemCommand::PutKey { key: Bytes::from_static(key), expected_version, value };
        let until = deadline.min(Instant::now() + WRITE_TIMEOUT);
        match self.shared.meta.system(command, until).await {
            Ok(SystemAnswer::KeyPut { version }) => Ok(Put::Done(version)),
            Ok(SystemAnswer::Refused(Refusal::Version { .. })) => Ok(Put::Conflict),
            Ok(other) => Err(StoreError::Refused(match other {
                SystemAnswer::Refused(refusal) => refusal.to_string(),
                other => format!("an answer that does not fit: {other:?}"),
            })),
            Err(BackendError::OutcomeUnknown(reason)) => Ok(Put::Doubt(reason)),
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Keeps the newest version and tells the data plane of it.
    fn publish(&self, found: &Versioned) {
        let mut latest = self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.as_ref().is_none_or(|latest| latest.version < found.version) {
            *latest = Some(found.clone());
            self.shared.maps.set(found.state.map(found.version));
        }
    }
}

/// What became of a write.
enum Put {
    Done(u64),
    Conflict,
    Doubt(String),
}

impl From<Misplaced> for StoreError {
    fn from(misplaced: Misplaced) -> Self {
        Self::NotMeta(misplaced.to_string())
    }
}

fn unavailable(error: BackendError) -> StoreError {
    match error {
        BackendError::OutcomeUnknown(reason) => StoreError::Unknown(reason),
        BackendError::Rejected(reason) => StoreError::NotMeta(reason),
        error => StoreError::Unavailable(error.to_string()),
    }
}
