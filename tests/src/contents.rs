//! [`Contents`]: everything that a node serves.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::client::{Client, encode_key};

/// As many as a page may have.
const PAGE: usize = 10_000;

/// The keys of a store with what stands beside them, read page by page.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// By key; one that is not UTF-8 as "base64:" and its bytes in base64.
    pub entries: BTreeMap<String, Listed>,
    /// The store's revision at the last page.
    pub store_revision: u64,
}

/// An entry of a listing.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Listed {
    /// Absent where the key is not UTF-8.
    key: Option<String>,
    /// The key in base64, where it is not UTF-8.
    key_base64: Option<String>,
    /// Absent where only keys were asked for, and where JSON cannot say it.
    pub value: Option<serde_json::Value>,
    /// The value's MsgPack in base64, where JSON cannot say it.
    pub value_base64: Option<String>,
    /// Of the last change.
    pub revision: u64,
    /// Of the creation.
    pub create_revision: u64,
}

#[derive(Deserialize)]
struct Page {
    entries: Vec<Listed>,
    next_cursor: Option<String>,
    store_revision: u64,
}

impl Contents {
    /// Everything below a prefix, as fresh as `consistency` says.
    pub async fn read(client: &Client, prefix: &str, consistency: &str) -> anyhow::Result<Self> {
        Self::read_with(client, prefix, &format!("&consistency={consistency}")).await
    }

    /// As [`read`](Self::read), without the values.
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

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Says how `self` and `other` differ, in at most ten lines; empty when they do not.
    pub fn difference(&self, other: &Self) -> String {
        let keys = self.entries.keys().chain(other.entries.keys().filter(|key| !self.entries.contains_key(*key)));
        keys.filter(|key| self.entries.get(*key) != other.entries.get(*key))
            .take(10)
            .map(|key| format!("{key}: {:?} against {:?}", self.entries.get(key), other.entries.get(key)))
            .collect::<Vec<_>>()
            .join("\n")
    }
}
