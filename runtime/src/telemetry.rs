//! Logs, to stderr.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::SubscriberInitExt;

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
}

/// Sends the logs of this process to stderr. `filter` is as in `RUST_LOG`: `info,raftkv_engine=debug`.
///
/// Call once, in `main`; a second call is an error.
pub fn init(filter: &str, format: LogFormat) -> Result<(), TelemetryError> {
    let filter =
        EnvFilter::from_str(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log file with escape sequences in it is no use to anybody.
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match format {
        LogFormat::Text => builder.finish().try_init(),
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
    };
    installed.map_err(|_| TelemetryError::AlreadySet)
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
