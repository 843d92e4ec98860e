//! [`GroupPeer`]: speaks to a group as a router does, past all routers.

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
/// Keys in a page.
const PAGE: u32 = 5_000;
/// Bytes in a page: keys of tests are short.
const PAGE_BYTES: u64 = 2 << 20;

/// A connection to the Group service of one node.
#[derive(Debug, Clone)]
pub struct GroupPeer {
    client: GroupClient<Channel>,
}

/// What a group holds, as it says itself.
#[derive(Debug, Clone)]
pub struct Held {
    /// The slots it serves.
    pub served: SlotSet,
    /// Its keys in these slots.
    pub keys: BTreeSet<String>,
    /// All keys that it stores, those of other slots, too.
    pub stored: u64,
    /// What it knows of moves.
    pub ownership: Ownership,
}

impl GroupPeer {
    /// Connects with the first call.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{address}"))?.timeout(TIMEOUT).connect_lazy();
        Ok(Self { client: GroupClient::new(channel) })
    }

    /// Who the node is, and where its group stands as applied there.
    pub async fn describe(&mut self) -> anyhow::Result<(Description, Ownership)> {
        let description = self.client.describe(DescribeRequest {}).await?.into_inner();
        let ownership = Ownership::decode(&description.ownership).context("decode the ownership")?;
        Ok((description, ownership))
    }

    /// Proposes these payloads, as a router would; the answers in the order of the payloads, as far as they came.
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

    /// The version of a system key, linearizable; 0 = there is none.
    pub async fn system_key(&mut self, key: &'static str) -> anyhow::Result<u64> {
        let key = bytes::Bytes::from_static(key.as_bytes());
        let request = GetSystemKeyRequest { key, timeout_ms: TIMEOUT.as_millis() as u32 };
        Ok(self.client.get_system_key(request).await?.into_inner().version)
    }

    /// The slots that the group serves, linearizable.
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

    /// Everything that the group serves, linearizable page by page; fails when what it serves changes meanwhile.
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
        // After a linearizable read, this node has applied what matters.
        let (description, ownership) = self.describe().await?;
        Ok(Held { served: served.unwrap_or_default(), keys, stored: description.keys, ownership })
    }
}
