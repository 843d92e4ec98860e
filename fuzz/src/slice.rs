//! [`Slice`]: stands in for the storage engine's slice of bytes, which would bring the whole engine with it.

use std::ops::Deref;

use bytes::Bytes;

/// Some bytes, shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(Bytes);

impl Deref for Slice {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for Slice {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl From<&[u8]> for Slice {
    fn from(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }
}

impl From<Vec<u8>> for Slice {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl<const N: usize> From<[u8; N]> for Slice {
    fn from(bytes: [u8; N]) -> Self {
        Self::from(&bytes[..])
    }
}
