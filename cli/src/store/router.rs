//! [`Router`]: the control plane as any router serves it, at `/v1/cluster`.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, StatusCode};
use raftkv_runtime::config::HumanDuration;
use serde::de::DeserializeOwned;

use super::view::{ClusterView, GroupView};
use crate::client::{Answer, Client, Endpoints};
use crate::failure::Failure;

/// How an administration command reaches the store.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RouterArgs {
    /// HTTP address of any router; several, separated by commas, are tried in turn
    #[arg(
        long,
        env = "RAFTKV_ROUTER_ENDPOINT",
        value_name = "URL[,URL]",
        // A router's own default, then that of `raftkv local`.
        default_value = "http://127.0.0.1:8000,http://127.0.0.1:8080"
    )]
    router: Endpoints,
    /// Give up on a request after this long
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: HumanDuration,
}

/// Talks to any router of a store.
#[derive(Debug, Clone)]
pub(crate) struct Router {
    client: Client,
    endpoints: Endpoints,
}

impl Router {
    pub(crate) fn new(args: &RouterArgs) -> Self {
        Self::at(args.router.clone(), args.timeout.get())
    }

    pub(crate) fn at(endpoints: Endpoints, timeout: Duration) -> Self {
        Self { client: Client::new(endpoints.clone(), timeout), endpoints }
    }

    /// What there is.
    pub(crate) async fn cluster(&self) -> Result<(serde_json::Value, ClusterView), Failure> {
        let raw: serde_json::Value = self.get("/v1/cluster").await?;
        let view = serde_json::from_value(raw.clone()).map_err(not_understood)?;
        Ok((raw, view))
    }

    /// The group of that name, or with that id.
    pub(crate) async fn group(&self, name_or_id: &str) -> Result<GroupView, Failure> {
        let (_, view) = self.cluster().await?;
        view.find(name_or_id).cloned()
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parse(self.client.get(path).await?)
    }

    pub(crate) async fn post<T: DeserializeOwned>(&self, path: &str, body: &serde_json::Value) -> Result<T, Failure> {
        let kind = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        self.parse(self.client.send(Method::POST, path, &kind, Bytes::from(body.to_string())).await?)
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.parse(self.client.send(Method::DELETE, path, &[], Bytes::new()).await?)
    }

    fn parse<T: DeserializeOwned>(&self, answer: Answer) -> Result<T, Failure> {
        if is_no_route(&answer) {
            let endpoints = &self.endpoints;
            return Err(Failure::unavailable(format!(
                "what answers at {endpoints} is not a router; name one with --router or RAFTKV_ROUTER_ENDPOINT"
            )));
        }
        if !answer.status.is_success() {
            return Err(answer.failure());
        }
        serde_json::from_slice(&answer.body).map_err(not_understood)
    }
}

/// Whether there is nothing at all at that path, as on a node. What a router does not find it says in another way.
fn is_no_route(answer: &Answer) -> bool {
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let code = problem.get("code").and_then(serde_json::Value::as_str);
    let is_missing = matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    is_missing && matches!(code, None | Some("unknown_path" | "no_such_route" | "method_not_allowed"))
}

fn not_understood(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the router's answer cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    fn answer(status: StatusCode, body: &'static str) -> Answer {
        Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) }
    }

    fn router() -> Router {
        Router::at("127.0.0.1:1".parse().expect("address"), Duration::from_secs(1))
    }

    #[test]
    fn a_node_is_told_from_a_router_that_does_not_find_something() {
        let parse = |answer| router().parse::<serde_json::Value>(answer).expect_err("no success");
        let node = parse(answer(StatusCode::NOT_FOUND, r#"{"code":"unknown_path","detail":"nothing here"}"#));
        assert!(node.code == 69 && node.message.contains("--router"), "{node:?}");
        let other = parse(answer(StatusCode::NOT_FOUND, "<html>"));
        assert_eq!(other.code, 69);
        let missing = parse(answer(StatusCode::NOT_FOUND, r#"{"code":"unknown_operation","detail":"no operation 9"}"#));
        assert_eq!((missing.code, missing.message.as_str()), (1, "404: no operation 9 (unknown_operation)"));
    }

    #[tokio::test]
    async fn nobody_there_is_unavailable() {
        assert_eq!(router().cluster().await.expect_err("nobody").code, 69);
    }
}
