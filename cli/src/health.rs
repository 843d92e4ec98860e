//! `raftkv health`: whether a node can serve, as an exit code for container health checks and load balancers.

use hyper::StatusCode;

use raftkv_runtime::config::HumanDuration;

use crate::failure::Failure;
use crate::output;
use crate::reach::transport;
use raftkv_client::{Endpoints, Interface};

/// Arguments of `raftkv health`.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// HTTP or management address of a node or router; separate several by commas: one ready address is enough
    #[arg(
        long,
        visible_alias = "endpoints",
        env = "RAFTKV_ENDPOINT",
        value_name = "URL[,URL]",
        // One, and not the clients' list: another one's health says nothing of this one.
        default_value = "http://127.0.0.1:8080"
    )]
    endpoint: Endpoints,
    /// Timeout of a request
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: HumanDuration,
}

/// Asks `/readyz`, which both the HTTP API and the management API answer.
pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let answer = transport(Interface::Readiness, args.endpoint, args.timeout.get()).get("/readyz").await?;
    if answer.status != StatusCode::OK {
        return Err(Failure::of(&answer));
    }
    output::line("ready")
}
