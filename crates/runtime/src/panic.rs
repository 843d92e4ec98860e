//! A panic ends the process.
//!
//! A task that panicked has left its invariants half done; in a replicated store it is safer to restart and replay
//! than to go on without it. A hook is used and not `panic = "abort"`, because the test harness cannot use that and
//! everything would be built twice.

use std::backtrace::Backtrace;
use std::io::Write;

/// Installs a hook that logs the panic with its place and backtrace, then aborts the process.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let thread = std::thread::current();
        let thread = thread.name().unwrap_or("unnamed");
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        let message = info.payload_as_str().unwrap_or("no message");
        let backtrace = Backtrace::force_capture();
        if tracing::dispatcher::has_been_set() {
            tracing::error!(thread, place, %backtrace, "panic: {message}");
            crate::telemetry::flush();
        } else {
            let _ = writeln!(std::io::stderr(), "panic in thread {thread} at {place}: {message}\n{backtrace}");
        }
        std::process::abort();
    }));
}
