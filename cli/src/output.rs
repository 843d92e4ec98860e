//! How results are printed.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;

/// Output format of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people and pipes.
    #[default]
    Text,
    /// JSON for programs.
    Json,
}

/// Output format of commands that print a table or a report. `--json` is an alias of `-o json`.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct JsonArgs {
    /// Alias of -o json
    #[arg(long, hide = true)]
    json: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
}

impl JsonArgs {
    /// Whether JSON is asked for, either way.
    pub(crate) fn is_json(&self) -> bool {
        self.json || self.output == Format::Json
    }
}

/// A line on stdout.
pub(crate) fn line(text: impl std::fmt::Display) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}")?;
    Ok(())
}

/// Bytes on stdout, as they are; on a terminal with a line break after them.
pub(crate) fn raw(bytes: &[u8]) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes)?;
    if stdout.is_terminal() && !bytes.ends_with(b"\n") {
        stdout.write_all(b"\n")?;
    }
    stdout.flush()?;
    Ok(())
}

/// Something that turns on stderr while we wait; invisible where stderr is no terminal.
pub(crate) fn spinner(message: impl Into<std::borrow::Cow<'static, str>>) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]") {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Bytes for people: `3.2 GiB`.
pub(crate) fn bytes(count: u64) -> String {
    raftkv_runtime::config::ByteSize::b(count).to_string()
}

/// A number with its thousands apart: `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    indicatif::HumanCount(number).to_string()
}
