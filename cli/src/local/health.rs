//! Waiting until every node and router serves that is to serve, and all groups have their share.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use super::board::Board;
use super::plan::Plan;
use super::process::tail;
use crate::failure::Failure;
use crate::management::Management;
use crate::reach::transport;
use crate::store::Router;
use raftkv_client::{Interface, Transport};

/// Pause between two questions.
const POLL: Duration = Duration::from_millis(100);
/// How long one question may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// Someone who has to be ready.
struct Subject {
    name: String,
    client: Transport,
    /// Of a node: where it says whether it was removed from its group, after which it is rightly never ready.
    management: Option<Management>,
    /// Shown when it does not get ready.
    logs: Vec<PathBuf>,
}

/// Returns when everybody said that they are ready and, after groups were added to the `had_groups` that were there, the
/// slots are shared among all; fails when one cannot be or time is up. A node that was removed from its group is not waited
/// for: returns the names of those.
pub(super) async fn wait(
    plan: &Plan,
    had_groups: usize,
    board: &Board,
    within: Duration,
    progress: &ProgressBar,
) -> Result<BTreeSet<String>, Failure> {
    let deadline = Instant::now() + within;
    let subjects = subjects(plan)?;
    let names: Vec<&str> = plan.group_names().into_keys().collect();
    let groups = names.len();
    let router = match plan.routers.first() {
        Some(router) if groups > had_groups => {
            Some(Router::at(router.http().parse().map_err(Failure::usage)?, ASK_TIMEOUT))
        }
        _ => None,
    };
    loop {
        if let Some(reason) = board.hopeless() {
            return Err(Failure::failed(reason));
        }
        let asked = futures::future::join_all(subjects.iter().map(|subject| subject.client.get("/readyz"))).await;
        let mut waiting: Vec<_> = subjects
            .iter()
            .zip(asked)
            .filter_map(|(subject, answer)| match answer {
                Ok(answer) if answer.status.is_success() => None,
                Ok(answer) => Some((subject, Failure::of(&answer).message)),
                Err(failure) => Some((subject, failure.message)),
            })
            .collect();
        let removed = removed(waiting.iter().map(|(subject, _)| *subject)).await;
        waiting.retain(|(subject, _)| !removed.contains(&subject.name));
        let late = Instant::now() >= deadline;
        match (waiting.first(), &router) {
            (None, None) => return Ok(removed),
            (None, Some(router)) => {
                let unsettled = match router.cluster().await {
                    Ok((_, cluster)) => {
                        // Nor are groups waited for that were removed.
                        let removed = names.iter().filter(|name| cluster.is_removed(name)).count();
                        cluster.unsettled(groups - removed)
                    }
                    Err(failure) => Some(failure.message),
                };
                let Some(reason) = unsettled else { return Ok(removed) };
                if late {
                    let message = format!("the groups did not share the keys within {within:?}: {reason}");
                    return Err(Failure::unavailable(message));
                }
                progress.set_message(format!("Sharing the keys: {reason}"));
            }
            (Some((subject, reason)), _) => {
                if late {
                    return Err(Failure::unavailable(format!(
                        "{} was not ready within {within:?}: {reason}\n{}",
                        subject.name,
                        log_tails(&subject.logs)
                    )));
                }
                let awaited: Vec<_> = waiting.iter().map(|(subject, _)| subject.name.as_str()).collect();
                progress.set_message(format!("Waiting for {}", awaited.join(", ")));
            }
        }
        sleep(POLL).await;
    }
}

/// Those of the nodes that say that their group has removed them. They find that out by asking the others, which takes some
/// seconds after their start.
async fn removed(nodes: impl Iterator<Item = &Subject>) -> BTreeSet<String> {
    let ask = |subject: &Subject| {
        let (name, management) = (subject.name.clone(), subject.management.clone());
        async move {
            let (_, status) = management?.status().await.ok()?;
            (status.node.role.as_deref() == Some("removed")).then_some(name)
        }
    };
    futures::future::join_all(nodes.map(ask)).await.into_iter().flatten().collect()
}

fn subjects(plan: &Plan) -> Result<Vec<Subject>, Failure> {
    let client = |http: String| {
        Ok::<_, Failure>(transport(Interface::Readiness, http.parse().map_err(Failure::usage)?, ASK_TIMEOUT))
    };
    let nodes = plan.live().map(|node| {
        let logs = ["engine.log", "sidecar.log"].map(|log| node.dir.join(log)).to_vec();
        let management = Some(Management::at(&node.management(), ASK_TIMEOUT)?);
        Ok(Subject { name: node.name.clone(), client: client(node.http())?, management, logs })
    });
    let routers = plan.routers.iter().map(|router| {
        let logs = vec![router.dir.join("router.log")];
        Ok(Subject { name: router.name.clone(), client: client(router.http())?, management: None, logs })
    });
    nodes.chain(routers).collect()
}

fn log_tails(logs: &[PathBuf]) -> String {
    let mut text = String::new();
    for log in logs {
        let tail = tail(log).unwrap_or_default();
        text.push_str(&format!("--- {} ---\n{tail}\n", log.display()));
    }
    text
}
