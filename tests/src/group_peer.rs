//! [`GroupPeer`]: a direct connection to a group, as used by routers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};
use raftkv_kv::{Ownership, SlotSet, slot_of};
use raftkv_proto::consensus::ProposeRequest;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::group::group_client::GroupClient;
use raftkv_proto::group::{Consistency, DescribeRequest, Description, GetSystemKeyRequest, ListRequest};
use tonic::transport::{Channel, Endpoint};

/// Longer than an election.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Keys per page.
const PAGE: u32 = 5_000;
/// Bytes per page: test keys are short.
const PAGE_BYTES: u64 = 2 << 20;

/// A connection to the Group service of a node.
#[derive(Debug, Clone)]
pub struct GroupPeer {
    client: GroupClient<Channel>,
}

/// State of a group, as reported by the group.
#[derive(Debug, Clone)]
pub struct Held {
    /// Slots served.
    pub served: SlotSet,
    /// Keys in the served slots.
    pub keys: BTreeSet<String>,
    /// Number of stored keys, including keys of other slots.
    pub stored: u64,
    /// State of slot moves.
    pub ownership: Ownership,
}

impl GroupPeer {
    /// Connects on the first call.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.timeout(TIMEOUT).connect_lazy();
        Ok(Self { client: GroupClient::new(channel) })
    }

    /// Identity of the node, and the slot ownership applied by the node.
    pub async fn describe(&mut self) -> anyhow::Result<(Description, Ownership)> {
        let description = self.client.describe(DescribeRequest {}).await?.into_inner();
        let ownership = Ownership::decode(&description.ownership).context("decode the ownership")?;
        Ok((description, ownership))
    }

    /// Proposes payloads as a router would. Answers are in the order of the payloads; a missing answer is `None`.
    pub async fn propose(&mut self, payloads: Vec<bytes::Bytes>) -> anyhow::Result<Vec<Option<Outcome>>> {
        let mut outcomes = vec![None; payloads.len()];
        let requests: Vec<ProposeRequest> = (1..)
            .zip(payloads)
            .map(|(id, payload)| ProposeRequest { id, payload, timeout_ms: 2_000, callers: 1, takes_space: false })
            .collect();
        let mut answers = self.client.propose(futures::stream::iter(requests)).await?.into_inner();
        while let Some(answer) = answers.message().await? {
            if let Some(outcome) = outcomes.get_mut(answer.id.saturating_sub(1) as usize) {
                *outcome = answer.outcome;
            }
        }
        Ok(outcomes)
    }

    /// Version of a system key, read linearizably; 0 = absent.
    pub async fn system_key(&mut self, key: &'static str) -> anyhow::Result<u64> {
        let key = bytes::Bytes::from_static(key.as_bytes());
        let request = GetSystemKeyRequest { key, timeout_ms: TIMEOUT.as_millis() as u32 };
        Ok(self.client.get_system_key(request).await?.into_inner().version)
    }

    /// Slots served by the group, read linearizably.
    pub async fn served(&mut self) -> anyhow::Result<SlotSet> {
        let request = ListRequest {
            consistency: Consistency::Linearizable.into(),
            timeout_ms: TIMEOUT.as_millis() as u32,
            start: bytes::Bytes::new(),
            end: None,
            limit: 1,
            max_bytes: PAGE_BYTES,
            keys_only: true,
        };
        let page = self.client.list(request).await?.into_inner();
        Ok(page
            .served
            .iter()
            .fold(SlotSet::new(), |slots, range| slots.union(&SlotSet::range(range.first as u16, range.last as u16))))
    }

    /// Reads all keys of the group, each page linearizably; fails if the served slots change in between.
    pub async fn held(&mut self) -> anyhow::Result<Held> {
        let mut keys = BTreeSet::new();
        let mut served: Option<SlotSet> = None;
        let mut start = bytes::Bytes::new();
        loop {
            let request = ListRequest {
                consistency: Consistency::Linearizable.into(),
                timeout_ms: TIMEOUT.as_millis() as u32,
                start: start.clone(),
                end: None,
                limit: PAGE,
                max_bytes: PAGE_BYTES,
                keys_only: true,
            };
            let page = self.client.list(request).await?.into_inner();
            let slots = page.served.iter().fold(SlotSet::new(), |slots, range| {
                slots.union(&SlotSet::range(range.first as u16, range.last as u16))
            });
            ensure!(served.get_or_insert_with(|| slots.clone()) == &slots, "the slots that it serves change");
            for entry in page.entries {
                ensure!(slots.contains(slot_of(&entry.key)), "a key is listed whose slot is not served");
                keys.insert(String::from_utf8(entry.key.to_vec())?);
            }
            match page.next {
                Some(next) => start = next,
                None => break,
            }
        }
        // After the linearizable read, this node is up to date.
        let (description, ownership) = self.describe().await?;
        Ok(Held { served: served.unwrap_or_default(), keys, stored: description.keys, ownership })
    }
}
