//! The programs of examples/, against a cluster.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use raftkv_tests::{LocalCluster, binary};

/// No example takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs an example and returns its output.
async fn run(name: &str, endpoint: &str) -> anyhow::Result<String> {
    let mut command = tokio::process::Command::new(binary(name)?);
    command.args(["--endpoint", endpoint]).stdin(Stdio::null()).kill_on_drop(true);
    let output =
        tokio::time::timeout(PATIENCE, command.output()).await.with_context(|| format!("{name} does not end"))??;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "{name}: {} {out} {err}", output.status);
    Ok(out.into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_do_what_they_say_at_nodes_and_routers() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(3, &["--groups", "1", "--routers", "1"]).await?;
    let [router] = &cluster.printed.routers[..] else { anyhow::bail!("one router: {:?}", cluster.printed) };
    let node = &cluster.printed.nodes.first().context("nodes")?.http;
    let first = run("example-counter", node).await?;
    ensure!(first.contains("4 writers added 100 to the counter: it is 100"), "{first}");
    let second = run("example-counter", &router.http).await?;
    ensure!(second.contains("added 100 to the counter: it is 200"), "{second}");
    for endpoint in [node, &router.http] {
        let sessions = run("example-sessions", endpoint).await?;
        ensure!(sessions.contains("cart: milk, tea") && sessions.contains("deleted session"), "{sessions}");
    }
    Ok(())
}
