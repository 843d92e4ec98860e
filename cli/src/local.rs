//! `raftkv local`: a cluster of processes on this machine.
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
mod process;
mod programs;

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
use plan::Plan;
use process::Supervisor;
use programs::Programs;

/// How long processes may take to stop before they are killed: a leader hands over and everything is drained in less.
const STOP_GRACE: Duration = Duration::from_secs(15);

/// Runs until it is told to stop.
pub(crate) async fn run(args: LocalArgs) -> Result<(), Failure> {
    let shutdown = Shutdown::new();
    shutdown.signals()?;

    let programs = Programs::find(args.bin_dir.as_deref())?;
    let directory = Directory::open(args.dir.as_deref())?;
    leftovers::end(&directory).await?;
    let resumed = directory.load_plan()?;
    let is_new = resumed.is_none();
    let plan = Plan::make(directory.path(), resumed, args.nodes, args.http_port)?;
    plan.check_ports()?;
    directory.store_plan(&plan)?;
    for node in &plan.nodes {
        directory.make_node(&node.name)?;
    }

    let board = Arc::new(Board::new(directory.cluster_file(), &plan)?);
    let supervisors: Vec<_> = plan
        .processes(&programs)
        .into_iter()
        .map(|spec| {
            let supervisor = Supervisor {
                spec,
                restart: !args.no_restart,
                grace: STOP_GRACE,
                board: Arc::clone(&board),
                shutdown: shutdown.clone(),
            };
            tokio::spawn(supervisor.run())
        })
        .collect();

    let outcome = become_healthy_and_serve(&args, &plan, &directory, is_new, &board, &shutdown).await;

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
    plan: &Plan,
    directory: &Directory,
    is_new: bool,
    board: &Board,
    shutdown: &Shutdown,
) -> Result<(), Failure> {
    let what = if is_new { "Starting a new cluster" } else { "Resuming the cluster" };
    let spinner = output::spinner(format!("{what} of {} nodes", plan.nodes.len()));
    let healthy = tokio::select! {
        healthy = health::wait(plan, board, args.ready_timeout.get(), &spinner) => healthy,
        () = shutdown.wait() => return Ok(()),
    };
    spinner.finish_and_clear();
    healthy?;
    board.now_serving();

    if args.json {
        output::line(board.to_json())?;
    } else {
        output::line(welcome(plan, directory))?;
    }
    shutdown.wait().await;
    Ok(())
}

fn welcome(plan: &Plan, directory: &Directory) -> String {
    let mut text = format!("RaftKV is up: {} nodes, one group.\n\n", plan.nodes.len());
    for node in &plan.nodes {
        text.push_str(&format!(
            "  {:<8} http://{:<18} management http://{}\n",
            node.name,
            node.http(),
            node.management()
        ));
    }
    let (first, last) = match plan.nodes.as_slice() {
        [] => return text,
        [only] => (only, only),
        [first, .., last] => (first, last),
    };
    let endpoint = if first.http_port == args::DEFAULT_HTTP_PORT {
        String::new()
    } else {
        format!(" --endpoint {}", first.http())
    };
    let management = if first.management_port == plan::DEFAULT_MANAGEMENT_PORT {
        String::new()
    } else {
        format!(" --management {}", first.management())
    };
    text.push_str(&format!(
        "
Try, in another terminal:

  curl -X PUT -H 'content-type: text/plain' -d hello http://{first}/v1/kv/greeting
  curl http://{last}/v1/kv/greeting
  raftkv list{endpoint}
  raftkv status{management}

Data and logs are in {dir}.
Ctrl-C stops the nodes; `raftkv local` with the same directory resumes them.",
        first = first.http(),
        last = last.http(),
        dir = directory.path().display(),
    ));
    text
}
