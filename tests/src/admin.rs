//! [`Admin`]: a client of a router's `/v1/cluster`.

use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use raftkv_kv::{SLOTS, SlotSet};
use reqwest::Method;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::answer::Answer;
use crate::client::Client;
use crate::wait::{eventually, eventually_within};

/// An operation of a test moves little data, but may have to survive several elections.
const OPERATION_PATIENCE: Duration = Duration::from_secs(120);

/// Administration through a single router.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

/// The fields of `GET /v1/cluster` used by tests.
#[derive(Debug, Clone, Deserialize)]
pub struct ClusterView {
    /// Version of the slot map; grows with every change.
    pub epoch: u64,
    /// All groups, including removed groups.
    pub groups: Vec<GroupView>,
    /// The move under way.
    #[serde(rename = "move")]
    pub moving: Option<Value>,
}

/// A group of a [`ClusterView`].
#[derive(Debug, Clone, Deserialize)]
pub struct GroupView {
    /// Group id.
    pub id: u32,
    /// Group name.
    pub name: String,
    /// forming, active, draining or removed.
    pub state: String,
    /// Number of slots.
    pub slots: usize,
}

/// An operation.
#[derive(Debug, Clone, Deserialize)]
pub struct OperationView {
    /// Operation id.
    pub id: u64,
    /// Kind of operation.
    pub kind: String,
    /// pending, running, stalled, cancelling, done, failed or cancelled.
    pub state: String,
    /// Current step of the slot move.
    pub step: Option<String>,
    /// Progress.
    pub percent: f64,
    /// Slots moved so far.
    pub slots_done: usize,
    /// Slots moved and to be moved.
    pub slots_total: usize,
    /// Reason of the failure.
    pub error: Option<String>,
    /// Longest time during which slots were not served.
    pub longest_pause_ms: u64,
}

impl OperationView {
    /// Whether the operation has ended.
    pub fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "done" | "failed" | "cancelled")
    }
}

impl ClusterView {
    /// The groups in the state `active`.
    pub fn active(&self) -> impl Iterator<Item = &GroupView> {
        self.groups.iter().filter(|group| group.state == "active")
    }

    /// The group with this name.
    pub fn group(&self, name: &str) -> anyhow::Result<&GroupView> {
        self.groups.iter().find(|group| group.name == name).ok_or_else(|| anyhow!("there is no {name} in {self:?}"))
    }

    /// Fails unless `groups` groups share the slots evenly and nothing moves.
    pub fn settled(&self, groups: usize) -> anyhow::Result<()> {
        let slots: Vec<_> = self.active().map(|group| group.slots).collect();
        ensure!(slots.len() == groups, "{} groups are active: {self:?}", slots.len());
        ensure!(self.moving.is_none(), "slots are moving: {self:?}");
        ensure!(slots.iter().sum::<usize>() == usize::from(SLOTS), "some slots have no group: {self:?}");
        let share = usize::from(SLOTS) / groups;
        ensure!(slots.iter().all(|slots| slots.abs_diff(share) <= groups), "the shares are not even: {self:?}");
        Ok(())
    }
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Reads the groups, the routers and the move in progress.
    pub async fn cluster(&self) -> anyhow::Result<ClusterView> {
        self.get("/v1/cluster").await
    }

    /// The slots of a group.
    pub async fn slots_of(&self, group: u32) -> anyhow::Result<SlotSet> {
        let document: Value = self.get("/v1/cluster/slots").await?;
        let ranges = document["ranges"].as_array().with_context(|| format!("no ranges: {document}"))?;
        let mut slots = SlotSet::new();
        for range in ranges.iter().filter(|range| range["group"] == group) {
            let edge = |name: &str| range[name].as_u64().and_then(|slot| u16::try_from(slot).ok());
            let (first, last) = edge("first").zip(edge("last")).with_context(|| format!("no range: {range}"))?;
            slots = slots.union(&SlotSet::range(first, last));
        }
        Ok(slots)
    }

    /// Waits until `groups` groups share the slots evenly and nothing moves.
    pub async fn settled(&self, groups: usize) -> anyhow::Result<ClusterView> {
        eventually_within(OPERATION_PATIENCE, &format!("{groups} groups share the slots"), || async {
            let view = self.cluster().await?;
            view.settled(groups)?;
            Ok(view)
        })
        .await
    }

    /// Moves slots to a group. Returns the operation's id.
    pub async fn move_slots(&self, slots: &SlotSet, to: u32) -> anyhow::Result<u64> {
        self.start(Method::POST, "/v1/cluster/moves", json!({"slots": slots.to_string(), "to": to})).await
    }

    /// As [`move_slots`](Self::move_slots), with a limit on the bytes copied per second, so that the move takes longer.
    pub async fn move_slots_slowly(&self, slots: &SlotSet, to: u32, bytes_per_second: u64) -> anyhow::Result<u64> {
        let body = json!({"slots": slots.to_string(), "to": to, "rate_bytes_per_second": bytes_per_second});
        self.start(Method::POST, "/v1/cluster/moves", body).await
    }

    /// Name of the router that runs the operations; `None` while no router does.
    pub async fn coordinator(&self) -> anyhow::Result<Option<String>> {
        let document: Value = self.get("/v1/cluster").await?;
        let routers = document["routers"].as_array().with_context(|| format!("no routers: {document}"))?;
        let found = routers.iter().find(|router| router["coordinator"] == true);
        Ok(found.and_then(|router| router["id"].as_str()).map(str::to_owned))
    }

    /// Moves slots until all groups have an equal share.
    pub async fn rebalance(&self) -> anyhow::Result<u64> {
        self.start(Method::POST, "/v1/cluster/rebalance", json!({})).await
    }

    /// Moves all slots away from a group and removes the group.
    pub async fn remove_group(&self, group: u32) -> anyhow::Result<u64> {
        self.start(Method::DELETE, &format!("/v1/cluster/groups/{group}"), Value::Null).await
    }

    /// Cancels an operation.
    pub async fn cancel(&self, operation: u64) -> anyhow::Result<Answer> {
        self.send(Method::POST, &format!("/v1/cluster/operations/{operation}/cancel"), &Value::Null).await
    }

    /// Reads the state of an operation.
    pub async fn operation(&self, id: u64) -> anyhow::Result<OperationView> {
        self.get(&format!("/v1/cluster/operations/{id}")).await
    }

    /// Waits until an operation has ended, with any result.
    pub async fn over(&self, id: u64) -> anyhow::Result<OperationView> {
        eventually_within(OPERATION_PATIENCE, &format!("operation {id} is over"), || async {
            let operation = self.operation(id).await?;
            ensure!(operation.is_over(), "{operation:?}");
            Ok(operation)
        })
        .await
    }

    /// Waits until an operation has ended; fails unless the operation succeeded.
    pub async fn done(&self, id: u64) -> anyhow::Result<OperationView> {
        let operation = self.over(id).await?;
        ensure!(operation.state == "done", "{operation:?}");
        Ok(operation)
    }

    async fn start(&self, method: Method, path: &str, body: Value) -> anyhow::Result<u64> {
        // A router may not know the meta group's leader just after its start.
        eventually(&format!("{method} {path} is accepted"), || async {
            let answer = self.send(method.clone(), path, &body).await?;
            if answer.status.is_client_error() {
                // A client error is permanent: a panic ends the test, while an error would be retried.
                panic!("{method} {path} {body} was answered {answer}");
            }
            let answer = answer.expect(reqwest::StatusCode::ACCEPTED)?.json()?;
            answer["id"].as_u64().with_context(|| format!("no id: {answer}"))
        })
        .await
    }

    async fn send(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Answer> {
        let mut request = self.client.request(method, path);
        if !body.is_null() {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        Ok(Client::send(request).await?)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self.client.get_path(path).await?;
        if !answer.status.is_success() {
            bail!("GET {path}: {answer}");
        }
        serde_json::from_slice(&answer.body).with_context(|| format!("GET {path}: {answer}"))
    }
}
