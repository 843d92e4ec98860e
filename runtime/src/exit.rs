//! Exit codes, as in BSD's `sysexits.h`, so that a supervisor can tell a typing error from a broken disk.

use std::fmt::Display;
use std::io::Write;

/// What a process ends with.
pub type ExitCode = i32;

/// The command line cannot be understood.
pub const USAGE: ExitCode = 64;
/// Stored data is damaged: a restart will not help, an operator has to act.
pub const DATA: ExitCode = 65;
/// Something needed does not answer.
pub const UNAVAILABLE: ExitCode = 69;
/// A bug: something happened that the code holds to be impossible.
pub const SOFTWARE: ExitCode = 70;
/// The operating system failed us: disk, socket, memory.
pub const IO: ExitCode = 74;
/// A restart is expected to help.
pub const TEMPFAIL: ExitCode = 75;
/// The configuration is wrong.
pub const CONFIG: ExitCode = 78;

/// Logs why, and ends the process at once.
///
/// No destructor runs and nothing is flushed: whatever must survive has been made durable before.
pub fn fatal(code: ExitCode, message: impl Display) -> ! {
    if tracing::dispatcher::has_been_set() {
        tracing::error!(code, "fatal: {message}");
    } else {
        // Before telemetry is up there is nobody but the terminal to tell; it may be gone, too.
        let _ = writeln!(std::io::stderr(), "fatal: {message}");
    }
    std::process::exit(code)
}
