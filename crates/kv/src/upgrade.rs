//! What is kept beside the cluster version: whether it is held ([`UpgradePolicy`]), and what routers speak ([`RouterVersions`]).
//!
//! Both are system keys, which every version of this software writes and keeps: a version can be held, and routers can say what they
//! speak, before anything is raised.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::codec;

/// Names the document that is an [`UpgradePolicy`].
pub const UPGRADE_KEY: &[u8] = b"upgrade";
/// Names the document that is a [`RouterVersions`]; there is one in each group of a sharded store.
pub const ROUTER_VERSIONS_KEY: &[u8] = b"router-versions";

/// What is to be done about newer cluster versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UpgradePolicy {
    /// The version does not rise.
    pub hold: bool,
}

/// What the routers of a sharded store speak, as the coordinating one has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterVersions {
    /// The highest of their lowest versions.
    pub min: u32,
    /// The lowest of their highest versions.
    pub max: u32,
}

impl UpgradePolicy {
    /// Encodes it, version first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Reads what [`encode`](Self::encode) made. Anything else holds: somebody has asked for something that is not known here.
    pub fn decode(bytes: &[u8]) -> Self {
        Self::parse(bytes).unwrap_or(Self { hold: true })
    }

    /// Reads what [`encode`](Self::encode) made. Never panics.
    ///
    /// # Errors
    /// It is something else, which [`decode`](Self::decode) takes for a hold.
    pub fn parse(bytes: &[u8]) -> Result<Self, codec::CodecError> {
        codec::decode(bytes)
    }
}

impl RouterVersions {
    /// Encodes it, version first.
    pub fn encode(&self) -> Bytes {
        codec::encode(self)
    }

    /// Decodes what [`encode`](Self::encode) made. Never panics.
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
