//! Logs, to stderr.

mod escape;
mod writer;

use std::io::IsTerminal;
use std::os::fd::AsFd;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

use self::writer::LogWriter;
#[cfg(test)]
pub(crate) use self::writer::QUEUE_BYTES;
pub(crate) use self::writer::publish_lost;

/// A process that ends waits so long for log lines that wait to be written: enough for any reader that reads.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

static WRITER: OnceLock<LogWriter> = OnceLock::new();

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for log collectors.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not one.
    #[error("log filter {filter:?} is malformed (example: info,raftkv_engine=debug): {source}")]
    Filter {
        /// What was given.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Somebody else did it already.
    #[error("logging is set up already")]
    AlreadySet,
    /// The operating system failed.
    #[error("set up the writing of logs: {0}")]
    Writer(#[source] std::io::Error),
}

/// Sends the logs of this process to stderr. `filter` is as in `RUST_LOG`: `info,raftkv_engine=debug`.
///
/// Nothing waits for stderr, and nothing fails with it: lines that it does not take, because its disk is full, its reader is gone or
/// reads nothing, are lost and counted in `raftkv_log_lines_lost_total`. An event is one line, whatever it holds.
///
/// Call once, in `main`; a second call is an error.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter =
        EnvFilter::from_str(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let stderr = std::io::stderr().as_fd().try_clone_to_owned().map_err(TelemetryError::Writer)?;
    // A log file with escape sequences in it is no use to anybody.
    let has_colours = std::io::stderr().is_terminal();
    let writer = LogWriter::start(stderr, has_colours).map_err(TelemetryError::Writer)?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer.clone())
        // It tells them on standard error, with a macro that panics where that cannot be written.
        .log_internal_errors(false)
        .with_ansi(has_colours);
    let installed = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadySet)?;
    let _ = WRITER.set(writer);
    Ok(())
}

/// Waits until the log lines of this process are written, for a second at most. For a process that is about to end.
pub fn flush() {
    if let Some(writer) = WRITER.get() {
        writer.flush(FLUSH_PATIENCE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_malformed_filter_is_an_error_that_names_it() {
        let error = init("raftkv=louder", LogFormat::Text).expect_err("not a level");
        assert!(error.to_string().contains("raftkv=louder"), "{error}");
    }
}
