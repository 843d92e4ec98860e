//! `raftkv local-exec`: becomes a node's process, tied to the life of its parent.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::failure::Failure;

/// How long the allocator keeps memory that is not in use, in milliseconds; the image says the same. A store's tables in memory
/// come and go every few seconds under load, and memory that is given back in between costs a fault and a page to clear when it
/// comes again: 4 % of a put.
const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "10000");

/// Arguments of `raftkv local-exec`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ExecArgs {
    /// Process id of the parent.
    #[arg(long)]
    parent: i32,
    /// What to become.
    program: OsString,
    /// Its arguments.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// Replaces this process by the program; returns only when that fails.
///
/// The request to die with the parent survives the exec. It counts the death of the *thread* that started us, so that
/// must be one that lives as long as the parent; `raftkv local` therefore runs on its main thread alone.
pub(crate) fn exec(args: &ExecArgs) -> Failure {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, getppid, set_parent_process_death_signal};
        if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
            return Failure::io("ask to die with the parent", &error.into());
        }
        // The parent may have died before the request was made; then nobody will send the signal any more.
        if getppid().map(|pid| pid.as_raw_nonzero().get()) != Some(args.parent) {
            return Failure::unavailable("the parent is gone");
        }
    }
    let mut command = Command::new(&args.program);
    let (name, value) = KEEP_MEMORY;
    if std::env::var_os(name).is_none_or(|given| given.is_empty()) {
        command.env(name, value);
    }
    let error = command.args(&args.arguments).exec();
    Failure::io(format!("start {}", args.program.display()), &error)
}
