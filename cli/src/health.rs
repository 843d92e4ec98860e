//! `raftkv health`: whether a node can serve, as an exit code for container health checks and load balancers.

use hyper::StatusCode;

use raftkv_runtime::config::HumanDuration;

use crate::asked::Asked;
use crate::client::{Client, Endpoints};
use crate::failure::Failure;
use crate::output;

/// Arguments of `raftkv health`.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    /// HTTP or management address of a node, or of a router; of several, separated by commas, the first that is ready counts
    #[arg(
        long,
        visible_alias = "endpoints",
        env = "RAFTKV_ENDPOINT",
        value_name = "URL[,URL]",
        // One, and not the clients' list: another one's health says nothing of this one.
        default_value = "http://127.0.0.1:8080"
    )]
    endpoint: Endpoints,
    /// Give up on a request after this long
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: HumanDuration,
}

/// Asks `/readyz`, which both the HTTP API and the management API answer.
pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let answer = Client::new(Asked::Readiness, args.endpoint, args.timeout.get()).get("/readyz").await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure());
    }
    output::line("ready")
}
