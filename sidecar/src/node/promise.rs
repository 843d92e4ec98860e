//! The file `promise`: the longest time for which this node may have promised a leader to help nobody else, for its next start.
//!
//! Written before a longer promise is made. A node that has just started may have made one that it does not remember, and the leader
//! of then may still read by the lease that follows from it.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::node::identity::{IdentityError, replace};

const FILE: &str = "promise";
/// Version of the file's format.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Stored {
    version: u32,
    promise_ms: u64,
    crc32c: u32,
}

impl Stored {
    fn checksum(&self) -> u32 {
        crc32c::crc32c(format!("{}\n{}", self.version, self.promise_ms).as_bytes())
    }
}

/// What the record is to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// This, or what it says if that is longer.
    AtLeast(Duration),
    /// This: what was promised before is over.
    Only(Duration),
}

/// Makes the record say so, durably. Returns what it said before; `None` = there was none, as after version 0.1.0.
pub async fn record(dir: &Path, lasting: Lasting) -> Result<Option<Duration>, IdentityError> {
    let to = dir.to_owned();
    let recorded = tokio::task::spawn_blocking(move || {
        let before = read(&to)?;
        let now = match (lasting, before) {
            (Lasting::AtLeast(promise), Some(before)) => promise.max(before),
            (Lasting::AtLeast(promise), None) | (Lasting::Only(promise), _) => promise,
        };
        if before != Some(now) {
            write(&to, now)?;
        }
        Ok(before)
    });
    let failed = |error| IdentityError::Io { action: "write", path: dir.join(FILE), source: io::Error::other(error) };
    recorded.await.unwrap_or_else(|error| Err(failed(error)))
}

/// The promise of earlier runs; `None` = there is no record, as after version 0.1.0. Blocks on the disk.
fn read(dir: &Path) -> Result<Option<Duration>, IdentityError> {
    let path = dir.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Io { action: "read", path, source }),
    };
    let damaged = |reason: String| IdentityError::Damaged { path: path.clone(), reason };
    let stored: Stored = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if stored.version != VERSION {
        return Err(damaged(format!("version {}, this program knows {VERSION}", stored.version)));
    }
    if stored.crc32c != stored.checksum() {
        return Err(damaged("the checksum is wrong".to_owned()));
    }
    Ok(Some(Duration::from_millis(stored.promise_ms)))
}

/// Records it. Durable when this returns: the old record or the new one, whole, whenever the power fails. Blocks on the disk.
fn write(dir: &Path, promise: Duration) -> Result<(), IdentityError> {
    let failed = |source| IdentityError::Io { action: "write", path: dir.join(FILE), source };
    let promise_ms = u64::try_from(promise.as_millis()).unwrap_or(u64::MAX);
    let mut stored = Stored { version: VERSION, promise_ms, crc32c: 0 };
    stored.crc32c = stored.checksum();
    replace(dir, FILE, &stored).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_longer_promise_stays_on_record_until_it_is_over() {
        let dir = tempfile::tempdir().expect("directory");
        let (short, long) = (Duration::from_millis(200), Duration::from_millis(2_000));
        let mut said = Vec::new();
        for lasting in [Lasting::AtLeast(short), Lasting::AtLeast(long), Lasting::AtLeast(short), Lasting::Only(short)]
        {
            said.push(record(dir.path(), lasting).await.expect("recorded"));
        }
        said.push(read(dir.path()).expect("read"));
        assert_eq!(said, [None, Some(short), Some(long), Some(long), Some(short)]);
    }

    #[test]
    fn what_was_promised_is_known_afterwards_and_damage_is_noticed() {
        let dir = tempfile::tempdir().expect("directory");
        assert_eq!(read(dir.path()).expect("nothing"), None);
        for millis in [600, 200] {
            write(dir.path(), Duration::from_millis(millis)).expect("written");
            assert_eq!(read(dir.path()).expect("read"), Some(Duration::from_millis(millis)));
        }
        let good = fs::read(dir.path().join(FILE)).expect("file");
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x01;
            fs::write(dir.path().join(FILE), &bad).expect("damage");
            assert!(matches!(read(dir.path()), Err(IdentityError::Damaged { .. })), "flip at {at}");
        }
        fs::write(dir.path().join(FILE), b"").expect("damage");
        assert!(matches!(read(dir.path()), Err(IdentityError::Damaged { .. })), "empty");
    }
}
