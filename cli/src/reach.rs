//! [`transport`]: the connection of a command to an interface of RaftKV.

use std::time::Duration;

use raftkv_client::{Answer, Endpoints, Interface, Request, Retry, Transport};

use crate::failure::Failure;
use crate::output;

/// A transport with advice for the user.
pub(crate) fn transport(interface: Interface, endpoints: Endpoints, timeout: Duration) -> Transport {
    Transport::new(interface, endpoints, timeout).with_hint(match interface {
        Interface::Api | Interface::Readiness => "name a node or a router with --endpoint or RAFTKV_ENDPOINT",
        Interface::Management => "name a node with --management or RAFTKV_MANAGEMENT",
        Interface::Router => "name a router with --router or RAFTKV_ROUTER_ENDPOINT",
    })
}

/// Sends a request with retries; a spinner shows the reason of a longer wait.
pub(crate) async fn send(retry: Retry, transport: &Transport, request: &Request<'_>) -> Result<Answer, Failure> {
    let mut spinner = None;
    let notify = |why: &str| spinner = Some(output::spinner(format!("retrying: {why}")));
    Ok(retry.send(transport, request, notify).await?)
}
