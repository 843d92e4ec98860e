//! [`Staged`]: a snapshot that was received whole and waits to be activated.

use std::sync::Arc;

use super::StoreError;
use super::applier::{self, Loaded};
use super::directory::Directory;
use super::generation::{Generation, OpenFailure};
use super::read::View;

/// A snapshot that is durable as a whole, in a generation of its own beside the live one.
///
/// Consensus has moved its log once it knows the token, and cannot ask for the snapshot again: so the token is good until the
/// snapshot is activated or another one replaces it, whatever restarts come in between. The generation is made durable first,
/// then its note `STAGED`; what has no whole note is removed at the next start, as it is by versions that do not know the
/// note. What a process did not write itself is read and checked as a whole before it goes live.
#[derive(Debug, Clone)]
pub(super) struct Staged {
    /// The generation's number.
    pub(super) token: u64,
    /// Entries below this index are in it.
    pub(super) next_index: u64,
    /// Received, and so verified, by this process.
    is_verified: bool,
}

impl Staged {
    /// One that this process has just received.
    pub(super) fn received(token: u64, next_index: u64) -> Self {
        Self { token, next_index, is_verified: true }
    }

    /// The one that an earlier process left in the directory.
    pub(super) fn found(directory: &Directory, live: Option<u64>) -> Result<Option<Self>, StoreError> {
        let found = directory.staged(live)?;
        Ok(found.map(|(token, next_index)| Self { token, next_index, is_verified: false }))
    }

    /// Opens the generation. Blocks on the disk, and reads all of it where an earlier process has received it.
    ///
    /// # Errors
    /// [`StoreError::SnapshotDamaged`] when it is not what was received: it must not go live.
    pub(super) fn open(
        &self,
        directory: &Directory,
        cache_bytes: u64,
    ) -> Result<(Arc<Generation>, Loaded), StoreError> {
        let path = directory.generation(self.token);
        let opened = Generation::open(&path, self.token, cache_bytes)
            .and_then(|generation| Ok((applier::load(&generation.keyspace)?, generation)));
        let (loaded, generation) = match opened {
            Ok((loaded, generation)) => (loaded, Arc::new(generation)),
            Err(OpenFailure::Damaged(why)) => return Err(StoreError::SnapshotDamaged(why)),
            Err(OpenFailure::Other(error)) => return Err(error),
        };
        if !self.is_verified {
            self.verify(&generation).map_err(|error| match error {
                StoreError::Corrupt(why) => StoreError::SnapshotDamaged(why),
                other => other,
            })?;
        }
        Ok((generation, loaded))
    }

    fn verify(&self, generation: &Arc<Generation>) -> Result<(), StoreError> {
        let meta = generation.meta();
        if meta.position.next_index != self.next_index {
            return Err(StoreError::Corrupt(format!(
                "it ends before entry {}, not {} as was noted",
                meta.position.next_index, self.next_index
            )));
        }
        let verified = View::new(generation.db.snapshot(), meta, Arc::clone(generation)).verify()?;
        tracing::info!(
            generation = self.token,
            records = verified.records,
            "a staged snapshot of an earlier run is whole"
        );
        Ok(())
    }
}
