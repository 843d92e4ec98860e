//! Process faults: SIGKILL, SIGSTOP and SIGTERM.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;
use tokio::sync::MutexGuard;

use super::kind::Kind;
use super::story::Story;
use crate::node::Node;
use crate::process::Process;
use crate::wait::eventually_within;

/// Timeout for a process to run, to stop or to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than a lease and an election.
const BEYOND_LEASE: Duration = Duration::from_millis(2_200);
/// Number of crashes in a crash loop, and maximum lifetime in between.
const CRASHES: usize = 4;
const LIFE_MS: usize = 400;

#[derive(Debug, Clone, Copy)]
pub(super) enum Who {
    Any,
    Leader,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Part {
    Engine,
    Sidecar,
    Both,
}

impl Part {
    fn of(self, node: &Node) -> Vec<&Process> {
        match self {
            Self::Engine => vec![node.engine()],
            Self::Sidecar => vec![node.sidecar()],
            Self::Both => vec![node.sidecar(), node.engine()],
        }
    }
}

async fn chosen<'a>(story: &Story<'a>, who: Who) -> anyhow::Result<(Arc<Node>, MutexGuard<'a, ()>)> {
    match who {
        Who::Any => Ok(story.any_node().await),
        Who::Leader => story.leader().await,
    }
}

/// Process state from the kernel: `R`, `S`, `T`, …; `None` = no such process.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The preceding name, in parentheses, may contain any character.
    stat.rsplit(')').next()?.trim_start().chars().next()
}

async fn running(process: &Process) -> anyhow::Result<u32> {
    eventually_within(PATIENCE, &format!("{} runs", process.name()), || async { process.pid().context("it does not") })
        .await
}

/// Kills processes and verifies the deaths.
pub(super) async fn killed(processes: &[&Process]) -> anyhow::Result<()> {
    let mut pids = Vec::new();
    for process in processes {
        pids.push(running(process).await?);
    }
    // Signals first, so that no process notices the end of another.
    for process in processes {
        // Fails only if the process has already exited.
        let _ = process.signal(Signal::KILL);
    }
    for (process, pid) in processes.iter().zip(pids) {
        process.kill();
        ensure!(state_of(pid).is_none(), "{} lives after SIGKILL", process.name());
    }
    Ok(())
}

async fn stopped(process: &Process) -> anyhow::Result<()> {
    let pid = running(process).await?;
    process.pause()?;
    eventually_within(PATIENCE, &format!("{} stands still", process.name()), || async {
        let state = state_of(pid);
        ensure!(state == Some('T'), "its state is {state:?}");
        Ok(())
    })
    .await
}

pub(super) async fn kill(story: &Story<'_>, who: Who, part: Part) -> anyhow::Result<()> {
    let (node, _guard) = chosen(story, who).await?;
    killed(&part.of(&node)).await?;
    story.fired();
    // Half of the time the node restarts at once: a return within its former lease is a separate case.
    if story.random(2) == 0 {
        story.hold().await;
    }
    node.start()
}

pub(super) async fn kill_group(story: &Story<'_>) -> anyhow::Result<()> {
    let _guards = story.all_nodes().await;
    let nodes = story.group().nodes();
    let processes: Vec<_> = nodes.iter().flat_map(|node| Part::Both.of(node)).collect();
    killed(&processes).await?;
    story.fired();
    nodes.iter().try_for_each(|node| node.start())
}

pub(super) async fn crash_loop(story: &Story<'_>) -> anyhow::Result<()> {
    let (node, _guard) = story.any_node().await;
    for _ in 0..CRASHES {
        killed(&Part::Both.of(&node)).await?;
        node.start()?;
        tokio::time::sleep(Duration::from_millis(story.random(LIFE_MS) as u64)).await;
    }
    story.fired();
    Ok(())
}

pub(super) async fn stop(story: &Story<'_>, who: Who, part: Part) -> anyhow::Result<()> {
    let (node, _guard) = chosen(story, who).await?;
    let parts = part.of(&node);
    let mut result = Ok(());
    for process in &parts {
        result = result.and(stopped(process).await);
    }
    if result.is_ok() {
        story.fired();
        tokio::time::sleep(story.planned.hold.max(BEYOND_LEASE)).await;
    }
    // Always resume all processes, in either order.
    let order: Vec<_> = if story.random(2) == 0 { parts } else { parts.into_iter().rev().collect() };
    for process in order {
        process.resume()?;
    }
    result
}

pub(super) async fn term(story: &Story<'_>, who: Who) -> anyhow::Result<()> {
    let (node, _guard) = chosen(story, who).await?;
    // A process that has just started has no signal handler yet, and would die of the signal.
    eventually_within(PATIENCE, &format!("{} answers", node.name()), || async {
        node.client().get_path("/livez").await?.success()?;
        node.management().get_path("/livez").await?.success()
    })
    .await?;
    let exits = node.stop().await?;
    ensure!(exits.iter().all(|exit| exit.code == Some(0)), "asked to end, {} ended as {exits:?}", node.name());
    story.fired();
    story.hold().await;
    node.start()
}

pub(super) async fn router(story: &Story<'_>) -> anyhow::Result<()> {
    let shards = story.store.shards().context("a store with routers")?;
    let first = story.random(shards.routers().len());
    // A router without another fault, or else the first choice after a wait.
    let free = (0..shards.routers().len())
        .map(|at| (first + at) % shards.routers().len())
        .find_map(|at| Some((at, story.store.routers[at].try_lock().ok()?)));
    let (at, _guard) = match free {
        Some(free) => free,
        None => (first, story.store.routers[first].lock().await),
    };
    let process = shards.routers()[at].process();
    match story.planned.kind {
        Kind::RouterKill => killed(&[process]).await?,
        Kind::RouterTerm => {
            eventually_within(PATIENCE, &format!("{} answers", process.name()), || async {
                shards.routers()[at].client().get_path("/livez").await?.success()
            })
            .await?;
            let exit = process.stop().await?;
            ensure!(exit.code == Some(0), "asked to end, {} ended as {exit:?}", process.name());
        }
        _ => {
            stopped(process).await?;
            story.fired();
            story.hold().await;
            return process.resume();
        }
    }
    story.fired();
    story.hold().await;
    process.start()
}
