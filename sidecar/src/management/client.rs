//! [`ManagementClient`]: talks to the management API of other nodes.

use std::time::Duration;

use axum::http::StatusCode;
use raftkv_runtime::reason;
use serde::de::DeserializeOwned;

use super::{BOOTSTRAP_CLAIM_HEADER, Changed, FORWARDED_HEADER, Problem};
use crate::status::StatusDocument;
use crate::types::NodeId;

/// To reach a node that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For a status: a node that takes longer has no say.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// Added to a change's own deadline, so that the other side answers first.
const CHANGE_MARGIN: Duration = raftkv_runtime::deadlines::FORWARD_MARGIN;

/// A client for all nodes. Cheap to clone. Host names are resolved at each new connection.
#[derive(Debug, Clone)]
pub struct ManagementClient {
    http: reqwest::Client,
}

/// Why a call did not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// No answer, or none that makes sense.
    #[error("no answer from {address}: {reason}")]
    NoAnswer {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// A definite no.
    #[error("{}", .0.detail)]
    Refused(Problem),
}

impl ManagementClient {
    /// No connections yet.
    pub fn new() -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            // Never through a proxy: these are our own nodes.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("raftkv-sidecar/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self { http })
    }

    /// What the node at `address` says of itself. With `claim`, a waiting node also notes who wants to form the cluster.
    pub async fn status(&self, address: &str, claim: Option<NodeId>) -> Result<StatusDocument, CallError> {
        let mut request = self.http.get(format!("http://{address}/status")).timeout(STATUS_TIMEOUT);
        if let Some(claim) = claim {
            request = request.header(BOOTSTRAP_CLAIM_HEADER, claim.to_string());
        }
        Self::answer(address, request).await
    }

    /// Whether the node at `address` could serve, within the time given.
    pub async fn is_ready(&self, address: &str, within: Duration) -> bool {
        let request = self.http.get(format!("http://{address}/readyz")).timeout(within);
        request.send().await.is_ok_and(|response| response.status() == StatusCode::OK)
    }

    /// Asks the node at `address` to make us, or another, a member.
    pub async fn join(
        &self,
        address: &str,
        name: &str,
        raft_address: &str,
        within: Duration,
        forwarded: bool,
    ) -> Result<Changed, CallError> {
        let query = [("peerID", name), ("peerAddress", raft_address)];
        self.change(address, "join", &query, within, forwarded).await
    }

    /// Asks the node at `address` to remove a member.
    pub async fn leave(
        &self,
        address: &str,
        name: &str,
        force: bool,
        within: Duration,
        forwarded: bool,
    ) -> Result<Changed, CallError> {
        let query = [("peerID", name), ("force", if force { "true" } else { "false" })];
        self.change(address, "leave", &query, within, forwarded).await
    }

    /// Asks the node at `address`, called `name`, to leave its group and be wiped.
    pub async fn kill(
        &self,
        address: &str,
        name: &str,
        confirm: Option<&str>,
        within: Duration,
    ) -> Result<Changed, CallError> {
        let mut query = vec![("peerID", name)];
        query.extend(confirm.map(|confirm| ("confirm", confirm)));
        self.change(address, "kill", &query, within, true).await
    }

    /// Asks the leader at `address` to give leadership away.
    pub async fn transfer(&self, address: &str, to: Option<&str>, within: Duration) -> Result<Changed, CallError> {
        let query: Vec<_> = to.map(|to| ("to", to)).into_iter().collect();
        self.change(address, "transfer-leader", &query, within, true).await
    }

    async fn change(
        &self,
        address: &str,
        what: &str,
        query: &[(&str, &str)],
        within: Duration,
        forwarded: bool,
    ) -> Result<Changed, CallError> {
        let mut request =
            self.http.post(format!("http://{address}/{what}")).query(query).timeout(within + CHANGE_MARGIN);
        if forwarded {
            request = request.header(FORWARDED_HEADER, "1");
        }
        Self::answer(address, request).await
    }

    async fn answer<T: DeserializeOwned>(address: &str, request: reqwest::RequestBuilder) -> Result<T, CallError> {
        let no_answer = |why: String| CallError::NoAnswer { address: address.to_owned(), reason: why };
        let not_reached = |error: reqwest::Error| no_answer(reason::connection(&error, address));
        let response = request.send().await.map_err(not_reached)?;
        let status = response.status();
        let body = response.bytes().await.map_err(not_reached)?;
        if status.is_success() {
            let stranger =
                |error: serde_json::Error| no_answer(format!("not a RaftKV node: its answer makes no sense: {error}"));
            return serde_json::from_slice(&body).map_err(stranger);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(CallError::Refused(problem)),
            Err(_) => Err(CallError::NoAnswer { address: address.to_owned(), reason: format!("it answered {status}") }),
        }
    }
}
