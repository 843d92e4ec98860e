//! [`Contents`]: all entries served by a node.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::client::{Client, encode_key};

/// The maximum page size of a listing.
const PAGE: usize = 10_000;

/// All keys of a store with value and revisions, read page by page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// By key; a key in binary form is written as "base64:" followed by base64.
    pub entries: BTreeMap<String, Listed>,
    /// The store's revision at the last page.
    pub store_revision: u64,
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Absent for a binary key.
    key: Option<String>,
    /// A binary key, in base64.
    key_base64: Option<String>,
    /// Absent in listings of keys only, and for values without a JSON form.
    pub value: Option<serde_json::Value>,
    /// A value without a JSON form, as MsgPack in base64.
    pub value_base64: Option<String>,
    /// Revision of the last change.
    pub revision: u64,
    /// Revision of the creation.
    pub create_revision: u64,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Listed>,
    next_cursor: Option<String>,
    store_revision: u64,
}

impl Contents {
    /// Reads all entries with a prefix, at the consistency level `consistency`.
    pub async fn read(client: &Client, prefix: &str, consistency: &str) -> anyhow::Result<Self> {
        Self::read_with(client, prefix, &format!("&consistency={consistency}")).await
    }

    /// As [`read`](Self::read), without values.
    pub async fn keys(client: &Client, prefix: &str, consistency: &str) -> anyhow::Result<Self> {
        Self::read_with(client, prefix, &format!("&keys_only=true&consistency={consistency}")).await
    }

    async fn read_with(client: &Client, prefix: &str, query: &str) -> anyhow::Result<Self> {
        let mut contents = Self::default();
        let mut cursor = String::new();
        loop {
            let path = format!("/v1/kv?prefix={}&limit={PAGE}&timeout=20s{query}{cursor}", encode_key(prefix));
            let answer = client.get_path(&path).await?.success()?;
            let page: Page = serde_json::from_slice(&answer.body).context("read a page of a listing")?;
            contents.store_revision = page.store_revision;
            for entry in page.entries {
                let key = match (&entry.key, &entry.key_base64) {
                    (Some(key), _) => key.clone(),
                    (None, encoded) => format!("base64:{}", encoded.as_deref().context("an entry has no key")?),
                };
                let known = contents.entries.insert(key, entry);
                ensure!(known.is_none(), "a key is listed twice: {known:?}");
            }
            match page.next_cursor {
                Some(next) => cursor = format!("&cursor={}", encode_key(next)),
                None => return Ok(contents),
            }
        }
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Describes the differences between `self` and `other` in at most ten lines; empty if equal.
    pub fn difference(&self, other: &Self) -> String {
        let keys = self.entries.keys().chain(other.entries.keys().filter(|key| !self.entries.contains_key(*key)));
        keys.filter(|key| self.entries.get(*key) != other.entries.get(*key))
            .take(10)
            .map(|key| format!("{key}: {:?} against {:?}", self.entries.get(key), other.entries.get(key)))
            .collect::<Vec<_>>()
            .join("\n")
    }
}
