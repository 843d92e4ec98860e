//! [`Failure`]: what a command ends with when it did not do what was asked.

use std::fmt::Display;
use std::io;

use raftkv_client::{Answer, Kind};
use raftkv_runtime::exit;

/// Not found, refused, or wrong.
const FAILED: i32 = 1;

/// An exit code with the reason for people.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) code: i32,
    /// Empty = say nothing.
    pub(crate) message: String,
    pub(crate) cause: Cause,
}

/// What a command may act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Nothing was sent: no address could be connected to from here.
    NotReached,
    /// Some other program, or another of ours, answered.
    Stranger,
    /// Whatever else.
    Other,
}

impl Failure {
    /// The operation was understood and not done: no such key, precondition failed, refused.
    pub(crate) fn failed(message: impl Display) -> Self {
        Self { code: FAILED, message: message.to_string(), cause: Cause::Other }
    }

    /// The arguments make no sense together.
    pub(crate) fn usage(message: impl Display) -> Self {
        Self { code: exit::USAGE, ..Self::failed(message) }
    }

    /// No process that can do it answered; trying again later may help.
    pub(crate) fn unavailable(message: impl Display) -> Self {
        Self { code: exit::UNAVAILABLE, ..Self::failed(message) }
    }

    /// The reason of an answer that is no success.
    pub(crate) fn of(answer: &Answer) -> Self {
        answer.error().into()
    }

    /// No address could be connected to.
    pub(crate) fn not_reached(why: impl Display) -> Self {
        Self { cause: Cause::NotReached, ..Self::unavailable(why) }
    }

    /// What answered is not what was asked for.
    pub(crate) fn stranger(message: impl Display) -> Self {
        Self { cause: Cause::Stranger, ..Self::unavailable(message) }
    }

    /// The operating system refused while we did `what`.
    pub(crate) fn io(what: impl Display, error: &io::Error) -> Self {
        Self { code: exit::IO, ..Self::failed(format!("{what}: {error}")) }
    }
}

impl From<raftkv_client::Error> for Failure {
    fn from(error: raftkv_client::Error) -> Self {
        let cause = match error.kind {
            Kind::NotReached { .. } => Cause::NotReached,
            Kind::Stranger => Cause::Stranger,
            Kind::Passing | Kind::Lost | Kind::Usage | Kind::Answered { .. } => Cause::Other,
        };
        let code = match error.kind {
            Kind::Usage => exit::USAGE,
            _ if error.is_temporary() => exit::UNAVAILABLE,
            _ => FAILED,
        };
        Self { code, message: error.message, cause }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            // The reader of our output has seen enough, as in `raftkv list | head`.
            return Self { code: 0, ..Self::failed("") };
        }
        Self { code: exit::IO, ..Self::failed(error) }
    }
}
