//! Documents beside the cluster version: the hold ([`UpgradePolicy`]) and the versions supported by routers
//! ([`RouterVersions`]).
//!
//! Both are system keys, which every version of RaftKV writes and keeps: a hold or the routers' versions can be stored
//! before any version is raised.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;

/// Name of the [`UpgradePolicy`] document.
pub const UPGRADE_KEY: &[u8] = b"upgrade";
/// Name of the [`RouterVersions`] document, present in each group of a sharded store.
pub const ROUTER_VERSIONS_KEY: &[u8] = b"router-versions";

/// Policy for newer cluster versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UpgradePolicy {
    /// The cluster version does not rise.
    pub hold: bool,
}

/// Cluster versions supported by all routers of a sharded store, determined by the coordinating router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterVersions {
    /// Maximum of the routers' lowest versions.
    pub min: u32,
    /// Minimum of the routers' highest versions.
    pub max: u32,
}

impl UpgradePolicy {
    /// Encodes the policy, version byte first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Undecodable bytes count as a hold: a newer version may have
    /// requested an unknown policy.
    pub fn decode(bytes: &[u8]) -> Self {
        Self::parse(bytes).unwrap_or(Self { hold: true })
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    ///
    /// # Errors
    /// The bytes are not a policy; [`decode`](Self::decode) treats the bytes as a hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}

impl RouterVersions {
    /// Encodes the versions, version byte first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes the output of [`encode`](Self::encode). Never panics.
    pub fn decode(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_understood_holds() {
        for hold in [false, true] {
            assert_eq!(UpgradePolicy::decode(&UpgradePolicy { hold }.encode()), UpgradePolicy { hold });
        }
        assert!(UpgradePolicy::decode(b"").hold && UpgradePolicy::decode(b"{}").hold);
    }
}
