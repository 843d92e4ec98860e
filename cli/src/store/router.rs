//! [`Router`]: the control plane as any router serves it, at `/v1/cluster`.

use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use raftkv_runtime::config::HumanDuration;
use raftkv_runtime::deadlines;
use serde::de::DeserializeOwned;

use super::view::{ClusterView, GroupView};
use crate::args::MARGIN;
use crate::failure::Failure;
use crate::reach::transport;
use raftkv_client::{Answer, Endpoints, Interface, Transport};

/// Longer than adding a group takes, which takes longest: reading, asking its nodes, and writing.
const LONGEST: Duration =
    Duration::from_secs(2 * deadlines::ROUTER_DOCUMENT.as_secs() + deadlines::ROUTER_LOOK.as_secs() + MARGIN.as_secs());

/// How an administration command reaches the store.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RouterArgs {
    /// HTTP address of any router; separate several by commas, they are tried in turn
    #[arg(
        long,
        env = "RAFTKV_ROUTER_ENDPOINT",
        value_name = "URL[,URL]",
        // The routers of the compose file, then that of `raftkv local`.
        default_value = "http://127.0.0.1:8000,http://127.0.0.1:8001,http://127.0.0.1:8080"
    )]
    router: Endpoints,
    /// Timeout of a request [default: longer than the router's own timeout]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<HumanDuration>,
}

/// Talks to any router of a store.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    client: Transport,
}

impl Router {
    pub(crate) fn new(args: &RouterArgs) -> Self {
        Self::at(args.router.clone(), args.timeout.map_or(LONGEST, |asked| asked.get()))
    }

    pub(crate) fn at(endpoints: Endpoints, timeout: Duration) -> Self {
        Self { client: transport(Interface::Router, endpoints, timeout) }
    }

    /// What there is.
    pub(crate) async fn cluster(&self) -> Result<(serde_json::Value, ClusterView), Failure> {
        let raw: serde_json::Value = self.get("/v1/cluster").await?;
        if !raw.get("groups").is_some_and(serde_json::Value::is_array) {
            let endpoints = self.client.endpoints();
            let message = format!("what answers at {endpoints} is not a router: its store has no groups");
            return Err(Failure::stranger(message));
        }
        let view = serde_json::from_value(raw.clone()).map_err(not_understood)?;
        Ok((raw, view))
    }

    /// The group of that name, or with that id, that takes part.
    pub(crate) async fn group(&self, name_or_id: &str) -> Result<GroupView, Failure> {
        let (_, view) = self.cluster().await?;
        view.find_live(name_or_id).cloned()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(self.client.get(path).await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Failure> {
        let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        parse(self.client.send(Method::POST, path, &kind, Bytes::from(body.to_string())).await?)
    }

    /// Gives an order that has no parameters.
    pub(crate) async fn post_empty<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(self.client.send(Method::POST, path, &[], Bytes::new()).await?)
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        parse(self.client.send(Method::DELETE, path, &[], Bytes::new()).await?)
    }
}

fn parse<T: DeserializeOwned>(answer: Answer) -> Result<T, Failure> {
    if !answer.status.is_success() {
        return Err(Failure::of(&answer));
    }
    serde_json::from_slice(&answer.body).map_err(not_understood)
}

fn not_understood(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the router's answer cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router() -> Router {
        Router::at("127.0.0.1:1".parse().expect("address"), Duration::from_secs(1))
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable() {
        assert_eq!(router().cluster().await.expect_err("nobody").code, 69);
    }

    #[test]
    fn we_wait_longer_than_a_router_takes() {
        assert!(LONGEST > deadlines::ROUTER_DOCUMENT * 2 + deadlines::ROUTER_LOOK);
    }
}
