//! The replicated state on disk.

mod error;
mod types;

use std::path::Path;

use bytes::Bytes;
use raftkv_api::{Entry, ListRequest, Page};
use raftkv_kv::Key;

pub use error::{ApplyError, StoreError};
pub use types::{Applied, ApplyEntry, EntryKind, Position, StoreStatus};

/// How to open a [`Store`].
#[derive(Default)]
pub struct StoreOptions {}

/// Handle to the state. Cheap to clone.
#[derive(Clone)]
pub struct Store {}

#[allow(missing_docs, unused_variables, clippy::unimplemented)]
impl Store {
    pub fn open(dir: &Path, options: StoreOptions) -> Result<Store, StoreError> {
        unimplemented!()
    }
    pub fn position(&self) -> Position {
        unimplemented!()
    }
    pub fn applied(&self) -> tokio::sync::watch::Receiver<u64> {
        unimplemented!()
    }
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        unimplemented!()
    }
    pub fn list(&self, request: &ListRequest) -> Result<Page, StoreError> {
        unimplemented!()
    }
    pub fn revision(&self) -> u64 {
        unimplemented!()
    }
    pub fn status(&self) -> Result<StoreStatus, StoreError> {
        unimplemented!()
    }
    pub async fn apply(&self, entries: Vec<ApplyEntry>) -> Result<Applied, ApplyError> {
        unimplemented!()
    }
    pub fn persist(&self) -> Result<Position, StoreError> {
        unimplemented!()
    }
    pub fn state_hash(&self) -> u64 {
        unimplemented!()
    }
}
