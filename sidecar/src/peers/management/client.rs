//! [`ManagementClient`]: talks to the management API of other nodes.

use std::fmt;
use std::time::Duration;

use axum::http::StatusCode;
use raftkv_proto::{EXPIRY_HEADER, Expiry};
use raftkv_runtime::reason;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{BOOTSTRAP_CLAIM_HEADER, Changed, FORWARDED_HEADER, JOINER_HEADER, Problem, StatusDocument};
use crate::raft::types::NodeId;

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
    /// No connection was made: the other side has certainly not seen the request.
    #[error("{address} cannot be reached: {reason}")]
    NotSent {
        /// Whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// No answer, or none that makes sense: a change that was asked for may have been made, or may still be.
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

/// Which process asks to become a member itself, as the header [`JOINER_HEADER`] has it: `RAFT_ID:INCARNATION`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joiner {
    /// Its raft id.
    pub raft_id: NodeId,
    /// This run of it.
    pub incarnation: u64,
}

impl fmt::Display for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.raft_id, self.incarnation)
    }
}

impl Joiner {
    /// What [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let (raft_id, incarnation) = text.split_once(':')?;
        Some(Self { raft_id: raft_id.parse().ok()?, incarnation: incarnation.parse().ok()? })
    }
}

/// What a change that is passed on to another node carries: the time left, in terms that only that node's present process
/// takes for its own.
#[derive(Debug, Clone)]
pub struct Pass {
    /// `None` for a node of version 0.1.0, which does not tell its age.
    expiry: Option<Expiry>,
    deadline: Instant,
}

impl Pass {
    /// For the node that has just answered with this status, until `deadline`.
    pub fn until(deadline: Instant, status: &StatusDocument) -> Self {
        let left = deadline.saturating_duration_since(Instant::now());
        let life = status.node.incarnation.zip(status.node.uptime_ms);
        Self { expiry: life.map(|(incarnation, age_ms)| Expiry::after(incarnation, age_ms, left)), deadline }
    }
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

    /// Asks the node at `address` to have this node, called `name`, made a member, by the leader.
    pub async fn ask_to_join(
        &self,
        address: &str,
        name: &str,
        raft_address: &str,
        joiner: Joiner,
        within: Duration,
    ) -> Result<Changed, CallError> {
        let request = self.http.post(format!("http://{address}/join")).query(&join_query(name, raft_address));
        let request = request.header(JOINER_HEADER, joiner.to_string());
        Self::answer(address, request.timeout(within + CHANGE_MARGIN)).await
    }

    /// Asks the leader at `address` to make a node a member, in the name of `joiner` where that asks itself.
    pub async fn join(
        &self,
        address: &str,
        name: &str,
        raft_address: &str,
        joiner: Option<Joiner>,
        pass: &Pass,
    ) -> Result<Changed, CallError> {
        let mut request = self.passed_on(address, "join", &join_query(name, raft_address), pass);
        if let Some(joiner) = joiner {
            request = request.header(JOINER_HEADER, joiner.to_string());
        }
        Self::answer(address, request).await
    }

    /// Asks the leader at `address` to remove a member.
    pub async fn leave(&self, address: &str, name: &str, force: bool, pass: &Pass) -> Result<Changed, CallError> {
        let query = [("peerID", name), ("force", if force { "true" } else { "false" })];
        self.change(address, "leave", &query, pass).await
    }

    /// Asks the node at `address`, called `name`, to leave its group and be wiped.
    pub async fn kill(
        &self,
        address: &str,
        name: &str,
        confirm: Option<&str>,
        pass: &Pass,
    ) -> Result<Changed, CallError> {
        let mut query = vec![("peerID", name)];
        query.extend(confirm.map(|confirm| ("confirm", confirm)));
        self.change(address, "kill", &query, pass).await
    }

    /// Asks the leader at `address` to give leadership away.
    pub async fn transfer(&self, address: &str, to: Option<&str>, pass: &Pass) -> Result<Changed, CallError> {
        let query: Vec<_> = to.map(|to| ("to", to)).into_iter().collect();
        self.change(address, "transfer-leader", &query, pass).await
    }

    /// Asks the leader at `address` for what it shows at a path.
    pub async fn show<T: DeserializeOwned>(&self, address: &str, path: &str, pass: &Pass) -> Result<T, CallError> {
        let within = pass.deadline.saturating_duration_since(Instant::now());
        let request = self.http.get(format!("http://{address}/{path}")).timeout(within + CHANGE_MARGIN);
        Self::answer(address, request.header(FORWARDED_HEADER, "1")).await
    }

    /// Gives the leader at `address` an order that has no parameters.
    pub async fn order<T: DeserializeOwned>(&self, address: &str, path: &str, pass: &Pass) -> Result<T, CallError> {
        Self::answer(address, self.passed_on(address, path, &[], pass)).await
    }

    async fn change(
        &self,
        address: &str,
        what: &str,
        query: &[(&str, &str)],
        pass: &Pass,
    ) -> Result<Changed, CallError> {
        Self::answer(address, self.passed_on(address, what, query, pass)).await
    }

    /// A change that is passed on, and not passed on again there.
    fn passed_on(&self, address: &str, what: &str, query: &[(&str, &str)], pass: &Pass) -> reqwest::RequestBuilder {
        let within = pass.deadline.saturating_duration_since(Instant::now());
        let mut request = self.http.post(format!("http://{address}/{what}")).query(query);
        request = request.timeout(within + CHANGE_MARGIN).header(FORWARDED_HEADER, "1");
        if let Some(expiry) = pass.expiry {
            request = request.header(EXPIRY_HEADER, expiry.to_string());
        }
        request
    }

    async fn answer<T: DeserializeOwned>(address: &str, request: reqwest::RequestBuilder) -> Result<T, CallError> {
        let no_answer = |reason: String| CallError::NoAnswer { address: address.to_owned(), reason };
        let response = request.send().await.map_err(|error| match error.is_connect() {
            true => CallError::NotSent { address: address.to_owned(), reason: reason::connection(&error, address) },
            false => no_answer(reason::connection(&error, address)),
        })?;
        let status = response.status();
        let body = response.bytes().await.map_err(|error| no_answer(reason::connection(&error, address)))?;
        if status.is_success() {
            let stranger =
                |error: serde_json::Error| no_answer(format!("not a RaftKV node: its answer makes no sense: {error}"));
            return serde_json::from_slice(&body).map_err(stranger);
        }
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => Err(CallError::Refused(problem)),
            Err(_) => Err(no_answer(format!("it answered {status}"))),
        }
    }
}

fn join_query<'a>(name: &'a str, raft_address: &'a str) -> [(&'static str, &'a str); 2] {
    [("peerID", name), ("peerAddress", raft_address)]
}
