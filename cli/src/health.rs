//! `raftkv health`: whether a node can serve, as an exit code for container health checks and load balancers.

use hyper::StatusCode;

use crate::args::ClientArgs;
use crate::failure::Failure;
use crate::output;

/// Arguments of `raftkv health`.
#[derive(Debug, clap::Args)]
pub(crate) struct HealthArgs {
    #[command(flatten)]
    client: ClientArgs,
}

/// Asks `/readyz`, which both the HTTP API and the management API answer.
pub(crate) async fn run(args: HealthArgs) -> Result<(), Failure> {
    let answer = args.client.probe().get("/readyz").await?;
    if answer.status != StatusCode::OK {
        return Err(answer.failure());
    }
    output::line("ready")
}
