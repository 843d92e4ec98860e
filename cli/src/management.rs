//! [`Management`]: the sidecars' HTTP API, and the status it tells.

use std::time::Duration;

use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Deserialize;

use crate::args::ManagementArgs;
use crate::failure::Failure;
use crate::reach::transport;
use raftkv_client::{Answer, Endpoints, Interface, Transport};

/// Answer to `GET /status`. Every field may be missing: a newer or older node must still be shown.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Status {
    pub(crate) cluster_id: Option<String>,
    pub(crate) node: NodeStatus,
    pub(crate) members: Vec<Member>,
    pub(crate) waiting: Option<Waiting>,
}

/// What a node in no cluster waits for.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Waiting {
    pub(crate) reason: Option<String>,
}

impl Status {
    /// Why this node waits or serves nothing, in its own words.
    pub(crate) fn reason(&self) -> Option<&str> {
        let waits = self.waiting.as_ref().and_then(|waiting| waiting.reason.as_deref());
        self.node.reason.as_deref().or(waits)
    }
}

/// The node that answered.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct NodeStatus {
    pub(crate) name: Option<String>,
    pub(crate) raft_id: Option<u64>,
    pub(crate) role: Option<String>,
    pub(crate) term: Option<u64>,
    pub(crate) leader: Option<String>,
    pub(crate) last_log_index: Option<u64>,
    pub(crate) committed_index: Option<u64>,
    pub(crate) applied_index: Option<u64>,
    pub(crate) snapshot_index: Option<u64>,
    pub(crate) log_bytes: Option<u64>,
    pub(crate) engine: EngineStatus,
    pub(crate) reason: Option<String>,
    pub(crate) version: Option<String>,
}

/// Its engine.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct EngineStatus {
    pub(crate) connected: Option<bool>,
    pub(crate) keys: Option<u64>,
    pub(crate) disk_bytes: Option<u64>,
    pub(crate) disk_free_bytes: Option<u64>,
    pub(crate) disk_nearly_full: Option<bool>,
}

/// A member of the group, as the node that answered knows it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Member {
    pub(crate) name: Option<String>,
    pub(crate) raft_id: Option<u64>,
    pub(crate) voter: Option<bool>,
    pub(crate) management_address: Option<String>,
    pub(crate) http_address: Option<String>,
    /// Entries it has yet to receive; known to the leader only.
    pub(crate) lag: Option<u64>,
}

/// Talks to any node of a group; what the leader must do is forwarded to it.
#[derive(Debug, Clone)]
pub(crate) struct Management {
    client: Transport,
}

impl Management {
    /// For requests that take a node so long at most.
    pub(crate) fn new(args: &ManagementArgs, server: Duration) -> Self {
        Self { client: transport(Interface::Management, args.management.clone(), args.timeout(server)) }
    }

    /// For looking.
    pub(crate) fn for_status(args: &ManagementArgs) -> Self {
        Self { client: transport(Interface::Management, args.management.clone(), args.probe()) }
    }

    /// One node, named by its address in the list of members.
    pub(crate) fn at(address: &str, timeout: Duration) -> Result<Self, Failure> {
        let endpoints: Endpoints = address.parse().map_err(Failure::failed)?;
        Ok(Self { client: transport(Interface::Management, endpoints, timeout) })
    }

    /// The status as text for programs, and parsed.
    pub(crate) async fn status(&self) -> Result<(serde_json::Value, Status), Failure> {
        let answer = self.client.get("/status").await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::of(&answer));
        }
        let raw: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if !raw.get("node").is_some_and(serde_json::Value::is_object) {
            let endpoints = self.client.endpoints();
            return Err(Failure::stranger(format!(
                "what answers at {endpoints} is not a node: its status has no node"
            )));
        }
        let parsed = serde_json::from_value(raw.clone());
        let parsed = parsed.map_err(|error| Failure::failed(format!("the status cannot be understood: {error}")))?;
        Ok((raw, parsed))
    }

    /// Asks to be shown something; anything but success is a failure.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        let answer = self.client.get(path).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(Failure::of(&answer)) }
    }

    /// Asks for a change; anything but success is a failure.
    pub(crate) async fn post(&self, path: &str) -> Result<Answer, Failure> {
        let answer = self.client.send(Method::POST, path, &[], Bytes::new()).await?;
        if answer.status.is_success() { Ok(answer) } else { Err(Failure::of(&answer)) }
    }
}

/// What an answer says, for people: the `message` or `result` of a JSON object, else the body as it is.
pub(crate) fn said(answer: &Answer) -> String {
    let body: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    for name in ["message", "result"] {
        if let Some(text) = body.get(name).and_then(serde_json::Value::as_str) {
            return text.to_owned();
        }
    }
    String::from_utf8_lossy(&answer.body).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    #[test]
    fn a_status_is_read_whatever_is_missing_or_new() {
        let status: Status = serde_json::from_str("{}").expect("nothing");
        assert_eq!(status, Status::default());
        let status: Status = serde_json::from_str(
            r#"{"cluster_id":"c","node":{"name":"node1","role":"leader","term":3,"snapshot_index":null,"new_field":1,
                "engine":{"connected":true,"keys":5}},"members":[{"name":"node2","lag":4,"voter":true}]}"#,
        )
        .expect("some");
        assert_eq!((status.node.term, status.node.snapshot_index, status.node.engine.keys), (Some(3), None, Some(5)));
        assert_eq!(status.members[0].lag, Some(4));
    }

    #[test]
    fn answers_are_told_in_their_own_words() {
        let answer = |body: &'static str| Answer {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        assert_eq!(said(&answer(r#"{"message":"joined"}"#)), "joined");
        assert_eq!(said(&answer(r#"{"result":"removed"}"#)), "removed");
        assert_eq!(said(&answer("ok\n")), "ok");
    }
}
