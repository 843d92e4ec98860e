//! The `raftkv` command: a local cluster, client commands, administration and a benchmark.

mod args;
mod bench;
mod completion;
mod consistency;
mod environment;
mod failure;
mod health;
mod keys;
mod local;
mod management;
mod node;
mod output;
mod reach;
mod status;
mod store;
mod upgrade;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use raftkv_runtime::exit;

use args::{Cli, Command, GroupCommand, NodeCommand, OperationCommand, UpgradeCommand};
use failure::Failure;

/// Parses the arguments, runs the command and returns the exit code: 0 success, 1 not found or failed, 64 wrong arguments,
/// 69 no server is reachable and ready, 130 interrupted while an operation continues.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() <= 1 {
        let _ = writeln!(std::io::stderr(), "{}", args::FIRST_STEPS);
        return exit_code(exit::USAGE);
    }
    let cli = match environment::parse(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too; they go to stdout and are no error.
            let code = if error.use_stderr() { exit::USAGE } else { 0 };
            let _ = error.print();
            return exit_code(code);
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(std::io::stderr(), "raftkv: {}", failure.message);
            }
            exit_code(failure.code)
        }
    }
}

/// The definition of the command line, for man pages and the reference page.
pub fn command() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Local(args) => single_threaded()?.block_on(local::run(args)),
        Command::Bench(args) => multi_threaded()?.block_on(bench::run(args)),
        Command::Get(args) => single_threaded()?.block_on(keys::get(args)),
        Command::Put(args) => single_threaded()?.block_on(keys::put(args)),
        Command::Delete(args) => single_threaded()?.block_on(keys::delete(args)),
        Command::List(args) => single_threaded()?.block_on(keys::list(args)),
        Command::Status(args) => single_threaded()?.block_on(status::run(args)),
        Command::Health(args) => single_threaded()?.block_on(health::run(args)),
        Command::Node(NodeCommand::Join(args)) => single_threaded()?.block_on(node::join(args)),
        Command::Node(NodeCommand::Remove(args)) => single_threaded()?.block_on(node::remove(args)),
        Command::Node(NodeCommand::Kill(args)) => single_threaded()?.block_on(node::kill(args)),
        Command::Group(GroupCommand::List(args)) => single_threaded()?.block_on(store::group_list(args)),
        Command::Group(GroupCommand::Add(args)) => single_threaded()?.block_on(store::group_add(args)),
        Command::Group(GroupCommand::Remove(args)) => single_threaded()?.block_on(store::group_remove(args)),
        Command::Group(GroupCommand::Weight(args)) => single_threaded()?.block_on(store::group_weight(args)),
        Command::Rebalance(args) => single_threaded()?.block_on(store::rebalance(args)),
        Command::Operation(OperationCommand::List(args)) => single_threaded()?.block_on(store::operation_list(args)),
        Command::Operation(OperationCommand::Show(args)) => single_threaded()?.block_on(store::operation_show(args)),
        Command::Operation(OperationCommand::Cancel(args)) => {
            single_threaded()?.block_on(store::operation_cancel(args))
        }
        Command::Operation(OperationCommand::Watch(args)) => single_threaded()?.block_on(store::operation_watch(args)),
        Command::Slots(args) => single_threaded()?.block_on(store::slots(args)),
        Command::Node(NodeCommand::Transfer(args)) => single_threaded()?.block_on(node::transfer(args)),
        Command::Snapshot(args) => single_threaded()?.block_on(node::snapshot(args)),
        Command::Upgrade(UpgradeCommand::Check(args)) => single_threaded()?.block_on(upgrade::check(args)),
        Command::Upgrade(UpgradeCommand::Hold(args)) => single_threaded()?.block_on(upgrade::hold(args)),
        Command::Upgrade(UpgradeCommand::Finish(args)) => single_threaded()?.block_on(upgrade::finish(args)),
        Command::Completion(args) => completion::run(&args),
        Command::LocalExec(args) => Err(local::exec(&args)),
    }
}

/// For everything that mostly waits. `local` depends on it: its children must be spawned by the thread that lives as
/// long as the process (see `local::exec`).
fn single_threaded() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn multi_threaded() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}

fn exit_code(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
