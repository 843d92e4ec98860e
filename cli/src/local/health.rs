//! Waiting until every node serves.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use super::board::Board;
use super::plan::{NodePlan, Plan, Role};
use super::process::tail;
use crate::client::Client;
use crate::failure::Failure;

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(100);
/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns when every engine said that it is ready; fails when one cannot be or time is up.
pub(super) async fn wait(plan: &Plan, board: &Board, within: Duration, progress: &ProgressBar) -> Result<(), Failure> {
    let deadline = Instant::now() + within;
    let clients = plan.nodes.iter().map(client).collect::<Result<Vec<_>, _>>()?;
    loop {
        if let Some(reason) = board.hopeless() {
            return Err(Failure::failed(reason));
        }
        let asked = futures::future::join_all(clients.iter().map(|client| client.get("/readyz"))).await;
        let waiting: Vec<_> = plan
            .nodes
            .iter()
            .zip(asked)
            .filter_map(|(node, answer)| match answer {
                Ok(answer) if answer.status.is_success() => None,
                Ok(answer) => Some((node, answer.failure().message)),
                Err(failure) => Some((node, failure.message)),
            })
            .collect();
        let Some((node, reason)) = waiting.first() else {
            return Ok(());
        };
        progress.set_message(format!(
            "Waiting for {}",
            waiting.iter().map(|(node, _)| node.name.as_str()).collect::<Vec<_>>().join(", ")
        ));
        if Instant::now() >= deadline {
            return Err(Failure::unavailable(format!(
                "{} was not ready within {within:?}: {reason}\n{}",
                node.name,
                log_tails(node)
            )));
        }
        sleep(POLL).await;
    }
}

fn client(node: &NodePlan) -> Result<Client, Failure> {
    let endpoint = node.http().parse().map_err(Failure::usage)?;
    Ok(Client::new(endpoint, ASK_TIMEOUT))
}

fn log_tails(node: &NodePlan) -> String {
    let mut text = String::new();
    for role in [Role::Engine, Role::Sidecar] {
        let log = node.dir.join(role.name()).with_extension("log");
        let tail = tail(&log).unwrap_or_default();
        text.push_str(&format!("--- {} ---\n{tail}\n", log.display()));
    }
    text
}
