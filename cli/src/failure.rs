//! [`Failure`]: what a command ends with when it did not do what was asked.

use std::fmt::Display;
use std::io;

use raftkv_runtime::exit;

/// Not found, refused, or wrong.
const FAILED: i32 = 1;

/// An exit code with the reason for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    /// Empty = say nothing.
    pub(crate) message: String,
}

impl Failure {
    /// The operation was understood and not done: no such key, precondition failed, refused.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { code: FAILED, message: message.to_string() }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: exit::USAGE, message: message.to_string() }
    }

    /// Nobody able to do it answered; trying again later may help.
    pub(crate) fn unavailable(message: impl Display) -> Self {
        Self { code: exit::UNAVAILABLE, message: message.to_string() }
    }

    /// The operating system refused while we did `what`.
    pub(crate) fn io(what: impl Display, error: &io::Error) -> Self {
        Self { code: exit::IO, message: format!("{what}: {error}") }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader of our output has seen enough, as in `raftkv list | head`.
            return Self { code: 0, message: String::new() };
        }
        Self { code: exit::IO, message: error.to_string() }
    }
}
