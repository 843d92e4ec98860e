//! Exit codes, as in BSD's `sysexits.h`, so that a supervisor can tell a typing error from a broken disk.

use std::fmt::Display;
use std::io::Write;
use std::sync::OnceLock;
use std::thread::{self, ThreadId};

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

/// An exit code, for the reference page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The number.
    pub code: ExitCode,
    /// Reason of the end.
    pub meaning: &'static str,
    /// Action of the operator.
    pub action: &'static str,
}

/// All exit codes of the processes.
pub const CODES: &[Code] = &[
    Code { code: 0, meaning: "stopped on request", action: "" },
    Code {
        code: USAGE,
        meaning: "a setting or an argument is invalid",
        action: "read the message and correct the setting",
    },
    Code {
        code: DATA,
        meaning: "stored data is damaged, or was written by another version",
        action: "read the message; see the guide for operators",
    },
    Code {
        code: UNAVAILABLE,
        meaning: "a required service does not answer",
        action: "none: the restart policy retries",
    },
    Code { code: SOFTWARE, meaning: "a bug", action: "report the message of the log" },
    Code { code: IO, meaning: "disk, socket or memory failed", action: "check the machine" },
    Code {
        code: TEMPFAIL,
        meaning: "a restart is expected to help, or the node was killed by an operator",
        action: "none: the restart policy restarts the process; a killed node starts empty",
    },
    Code {
        code: CONFIG,
        meaning: "the settings contradict each other or the stored data",
        action: "read the message and correct the setting",
    },
];

/// Logs why, and ends the process at once.
///
/// No destructor runs and nothing is flushed: whatever must survive has been made durable before. Of several threads that
/// call it, the first decides how the process ends: what the others met came of that.
pub fn fatal(code: ExitCode, message: impl Display) -> ! {
    static FIRST: OnceLock<ThreadId> = OnceLock::new();
    // Once more on the same thread is a message that could not be told; then it ends all the same.
    while *FIRST.get_or_init(|| thread::current().id()) != thread::current().id() {
        thread::park();
    }
    if tracing::dispatcher::has_been_set() {
        tracing::error!(code, "fatal: {message}");
        crate::telemetry::flush();
    } else {
        // Before telemetry is up there is nobody but the terminal to tell; it may be gone, too.
        let _ = writeln!(std::io::stderr(), "fatal: {message}");
    }
    std::process::exit(code)
}

/// As [`fatal`], with all that the error's sources say.
pub fn fatal_error(code: ExitCode, error: &(dyn std::error::Error + 'static)) -> ! {
    fatal(code, crate::reason::chain(error))
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const CHILD: &str = "RAFTKV_TEST_EXIT_CHILD";

    /// A message that takes its time, and says when it has begun.
    struct Slow(mpsc::Sender<()>);

    impl Display for Slow {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let _ = self.0.send(());
            thread::sleep(Duration::from_millis(300));
            write!(f, "the disk failed")
        }
    }

    #[test]
    fn the_first_reason_decides_the_code() {
        if std::env::var_os(CHILD).is_some() {
            // With telemetry nobody waits for anybody to write.
            tracing_subscriber::fmt().with_writer(std::io::stderr).init();
            let (begun, wait) = mpsc::channel();
            let second = thread::spawn(move || {
                wait.recv().expect("the first has begun");
                fatal(SOFTWARE, "consensus has stopped")
            });
            let _first = thread::spawn(move || fatal(IO, Slow(begun)));
            let _ = second.join();
        }
        let this = std::env::current_exe().expect("this program");
        let name = "the_first_reason_decides_the_code";
        let child = Command::new(this).args([name, "--nocapture"]).env(CHILD, "1").output().expect("run");
        assert_eq!(child.status.code(), Some(IO), "{}", String::from_utf8_lossy(&child.stderr));
    }
}
