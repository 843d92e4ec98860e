//! `raftkv local`: a cluster of processes on this machine: one group, or several behind routers.
//!
//! **Who outlives whom.** The nodes are meant to end with this process. On SIGTERM and SIGINT they are stopped in order.
//! When this process dies hard, the kernel kills them: each is started through `raftkv local-exec`, which asks for a
//! SIGKILL at the death of its parent and then becomes the real program, under the same process id. Where the kernel
//! has no such thing, the next start on the directory finds the leftovers by their ids in `cluster.json`, makes sure of
//! their identity and kills them.

mod args;
mod board;
mod directory;
mod exec;
mod health;
mod leftovers;
mod plan;
mod ports;
mod process;
mod programs;
mod spec;

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use raftkv_runtime::shutdown::Shutdown;

use crate::failure::Failure;
use crate::output;

pub(crate) use args::LocalArgs;
pub(crate) use exec::{ExecArgs, exec};

use board::Board;
use directory::Directory;
use plan::{Plan, Wanted};
use process::{Life, Supervisor};
use programs::Programs;

/// How long processes may take to stop before they are killed: a leader hands over and everything is drained in less.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Runs until it is told to stop.
pub(crate) async fn run(args: LocalArgs) -> Result<(), Failure> {
    let shutdown = Shutdown::new();
    shutdown.signals()?;

    let directory = Directory::open(args.dir.as_deref())?;
    leftovers::end(&directory).await?;
    let resumed = directory.load_plan()?;
    let wanted = Wanted { groups: args.groups, nodes: args.nodes, routers: args.routers, http_port: args.http_port };
    let had = resumed.as_ref().map_or(0, |plan| plan.group_names().len());
    let mut plan = Plan::make(directory.path(), resumed, wanted)?;
    directory.note_killed(&mut plan, args.revive)?;
    let programs = Programs::find(args.bin_dir.as_deref(), !plan.routers.is_empty())?;
    plan.check_ports()?;
    directory.store_plan(&plan)?;
    let names = plan.nodes.iter().map(|node| &node.name).chain(plan.routers.iter().map(|router| &router.name));
    for name in names {
        directory.make_node(name)?;
    }

    let board = Arc::new(Board::new(directory.cluster_file(), &plan)?);
    let lives: Vec<_> = plan.nodes.iter().map(|node| Life { dir: node.dir.clone(), killed: Shutdown::new() }).collect();
    let supervisors: Vec<_> = plan
        .processes(&programs)
        .into_iter()
        .map(|spec| {
            let supervisor = Supervisor {
                life: spec.role.part().and_then(|(node, _)| lives.get(node).cloned()),
                spec,
                restart: !args.no_restart,
                grace: STOP_GRACE,
                board: Arc::clone(&board),
                shutdown: shutdown.clone(),
            };
            tokio::spawn(supervisor.run())
        })
        .collect();

    let outcome = become_healthy_and_serve(&args, &mut plan, &directory, had, &board, &shutdown).await;

    // Whatever happened: nothing that was started stays behind.
    shutdown.trigger();
    if std::io::stderr().is_terminal() {
        let _ = writeln!(std::io::stderr(), "Stopping the nodes. Press Ctrl-C again to kill them.");
    }
    for stopped in join_all(supervisors).await {
        stopped.map_err(|error| Failure::failed(format!("a supervisor failed: {error}")))?;
    }
    board.store()?;
    outcome
}

async fn become_healthy_and_serve(
    args: &LocalArgs,
    plan: &mut Plan,
    directory: &Directory,
    had_groups: usize,
    board: &Board,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let what = if had_groups == 0 { "Starting a new cluster" } else { "Resuming the cluster" };
    let spinner = output::spinner(format!("{what} of {} nodes", plan.nodes.len()));
    let healthy = tokio::select! {
        healthy = health::wait(plan, had_groups, board, args.ready_timeout.get(), &spinner) => healthy,
        () = shutdown.wait() => return Ok(()),
    };
    spinner.finish_and_clear();
    let removed = healthy?;
    board.set_removed(&removed);
    plan.nodes.iter_mut().for_each(|node| node.removed = removed.contains(&node.name));
    board.now_serving();

    if args.format.is_json() {
        output::line(board.to_json())?;
    } else {
        output::line(welcome(plan, directory))?;
    }
    shutdown.wait().await;
    Ok(())
}

fn welcome(plan: &Plan, directory: &Directory) -> String {
    let count = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
    let groups = plan.group_names().len();
    let mut text = match plan.routers.len() {
        0 => format!("RaftKV is up: {}, one group.\n\n", count(plan.serving().count(), "node")),
        routers => format!(
            "RaftKV is up: {} of {}, {}.\n\n",
            count(groups, "group"),
            count(plan.serving().count(), "node"),
            count(routers, "router")
        ),
    };
    for router in &plan.routers {
        text.push_str(&format!("  {:<8} http://{}\n", router.name, router.http()));
    }
    for node in plan.serving() {
        let management = node.management();
        text.push_str(&format!("  {:<8} http://{:<18} management http://{management}\n", node.name, node.http()));
    }
    for node in plan.nodes.iter().filter(|node| node.killed) {
        text.push_str(&format!("  {:<8} was killed and stays out; --revive starts it again, empty\n", node.name));
    }
    for node in plan.nodes.iter().filter(|node| node.removed) {
        let (name, raft) = (&node.name, node.raft());
        text.push_str(&format!(
            "  {name:<8} was removed from its group and stays out; `raftkv node join {name} {raft}` takes it in again\n"
        ));
    }
    let mut fronts: Vec<_> = plan.routers.iter().map(|router| (router.http_port, router.http())).collect();
    if fronts.is_empty() {
        fronts = plan.serving().map(|node| (node.http_port, node.http())).collect();
    }
    let (Some((port, first)), Some((_, last))) = (fronts.first(), fronts.last()) else { return text };
    let endpoint = if *port == args::DEFAULT_HTTP_PORT { String::new() } else { format!(" --endpoint {first}") };
    let status = match (plan.routers.is_empty(), plan.serving().next()) {
        (true, Some(node)) if node.management_port != plan::DEFAULT_MANAGEMENT_PORT => {
            format!(" --management {}", node.management())
        }
        (true, _) => String::new(),
        (false, _) => format!(" --router {first}"),
    };
    text.push_str(&format!(
        "
Try, in another terminal:

  curl -X PUT -H 'content-type: text/plain' -d hello http://{first}/v1/kv/greeting
  curl http://{last}/v1/kv/greeting
  raftkv list{endpoint}
  raftkv status{status}

Data and logs are in {dir}.
Ctrl-C stops all of it; `raftkv local` with the same directory resumes.",
        dir = directory.path().display(),
    ));
    text
}
