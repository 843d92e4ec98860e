//! [`Registrar`]: asks a router which group an empty node belongs to.
//!
//! Only a node in no cluster asks. A router remembers by name what it told whom, so asking again is as good as asking
//! once, and a node that was wiped is sent back to its group.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use raftkv_proto::VersionRange;
use raftkv_runtime::reason;
use serde::{Deserialize, Serialize};

use crate::node::identity::Identity;
use crate::peers::management::Problem;

/// Between two questions: a group that needs a node waits no longer than this.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);
/// To reach a router that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A router has the assignment written by the meta group first, which may be electing a leader.
const ASK_TIMEOUT: Duration = Duration::from_secs(6);
/// The route that takes registrations.
const ROUTE: &str = "/v1/cluster/nodes";

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// NODE_ID, by which the assignment is remembered.
    pub name: String,
    /// It may be the first node of a new group.
    pub bootstrap: bool,
    /// host:port for peers.
    pub raft_address: String,
    /// host:port for operators and joining nodes.
    pub management_address: String,
    /// host:port for routers.
    pub group_address: String,
    /// Name of the group it shall be in; absent = the router chooses.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub group: Option<String>,
}

impl Registration {
    /// Of this node.
    pub fn new(identity: &Identity, bootstrap: bool, group: Option<String>) -> Self {
        Self {
            name: identity.name.clone(),
            bootstrap,
            raft_address: identity.raft_address.clone(),
            management_address: identity.management_address.clone(),
            group_address: identity.group_address.clone(),
            group,
        }
    }
}

/// What a router answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "assignment", rename_all = "lowercase")]
pub enum Assignment {
    /// Become a member of an existing group.
    Join {
        /// Its id.
        group: u32,
        /// Management addresses of members.
        join: Vec<String>,
    },
    /// Form a new group.
    Bootstrap {
        /// Its id.
        group: u32,
    },
    /// There is nothing to do yet: ask again.
    Wait {
        /// Why.
        #[serde(default)]
        reason: String,
    },
}

/// Why there is no assignment. Asking again may help in every case.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// No router answered.
    #[error("no router answers: {0}")]
    NoAnswer(String),
    /// A router does not take this node.
    #[error("the router {router} refuses this node: {detail}")]
    Refused {
        /// Which.
        router: String,
        /// Why.
        detail: String,
    },
}

/// What a router adds to its answer: the cluster versions that all routers of the store speak. Version 0.1.0 adds nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct Spoken {
    version_min: u32,
    version_max: u32,
}

/// Asks routers in turn. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registrar {
    http: reqwest::Client,
    routers: Vec<String>,
    registration: Registration,
    spoken: Arc<Mutex<Spoken>>,
}

impl Registrar {
    /// Of the node described, at these routers (host:port). No connections yet.
    pub fn new(routers: Vec<String>, registration: Registration) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Never through a proxy: these are our own routers.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("raftkv-sidecar/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http, routers, registration, spoken: Arc::default() })
    }

    /// The cluster versions that the routers speak, as the one that answered last said.
    pub fn routers_speak(&self) -> VersionRange {
        let Spoken { version_min, version_max } = *self.spoken.lock().unwrap_or_else(PoisonError::into_inner);
        VersionRange::from_wire(version_min, version_max)
    }

    /// The answer of the first router that has one. A refusal counts when no other router says otherwise.
    pub async fn ask(&self) -> Result<Assignment, RegistrationError> {
        let mut refused = None;
        let mut silent = Vec::new();
        for router in &self.routers {
            match self.ask_one(router).await {
                Ok(assignment) => return Ok(assignment),
                Err(error @ RegistrationError::Refused { .. }) => refused = Some(error),
                Err(RegistrationError::NoAnswer(reason)) => silent.push(format!("{router}: {reason}")),
            }
        }
        Err(refused.unwrap_or_else(|| RegistrationError::NoAnswer(silent.join("; "))))
    }

    async fn ask_one(&self, router: &str) -> Result<Assignment, RegistrationError> {
        let no_answer = |error: reqwest::Error| RegistrationError::NoAnswer(reason::connection(&error, router));
        let request = self.http.post(format!("http://{router}{ROUTE}")).timeout(ASK_TIMEOUT).json(&self.registration);
        let response = request.send().await.map_err(no_answer)?;
        let status = response.status();
        let body = response.bytes().await.map_err(no_answer)?;
        if status.is_success() {
            let spoken = serde_json::from_slice(&body).unwrap_or_default();
            *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) = spoken;
            return match serde_json::from_slice(&body) {
                // Nobody to ask yet.
                Ok(Assignment::Join { group, join }) if join.is_empty() => {
                    Ok(Assignment::Wait { reason: format!("no node of group {group} is known to the router") })
                }
                Ok(assignment) => Ok(assignment),
                Err(error) => Err(RegistrationError::NoAnswer(format!("its answer makes no sense: {error}"))),
            };
        }
        let detail = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => problem.detail,
            Err(_) => format!("it answered {status}"),
        };
        match status.is_client_error() {
            true => Err(RegistrationError::Refused { router: router.to_owned(), detail }),
            false => Err(RegistrationError::NoAnswer(detail)),
        }
    }
}

#[cfg(test)]
#[path = "registration_tests.rs"]
mod tests;
