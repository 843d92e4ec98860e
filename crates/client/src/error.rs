//! [`Error`]: the reason for a failed request.

use std::fmt::Display;

use hyper::StatusCode;

/// The reason for a failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// Error kind, for programs.
    pub kind: Kind,
    /// Message, for people.
    pub message: String,
}

/// Error kind, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No connection to any address: the request was not sent.
    NotReached {
        /// Whether the host name of at least one address resolves.
        is_resolved: bool,
    },
    /// Definitely not applied, and a retry may succeed: no leader, or a starting process.
    Passing,
    /// The request was sent but no answer arrived: the outcome of a write is unknown.
    Lost,
    /// The answer came from another program, or from another interface of RaftKV.
    Stranger,
    /// The request cannot be sent: a header or an address is invalid.
    Usage,
    /// RaftKV answered that the request failed.
    Answered {
        /// HTTP status of the answer.
        status: StatusCode,
    },
}

impl Error {
    /// Whether a later attempt may succeed.
    pub fn is_temporary(&self) -> bool {
        match self.kind {
            Kind::NotReached { .. } | Kind::Passing | Kind::Lost | Kind::Stranger => true,
            Kind::Answered { status } => status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS,
            Kind::Usage => false,
        }
    }

    pub(crate) fn not_reached(message: impl Display, is_resolved: bool) -> Self {
        Self { kind: Kind::NotReached { is_resolved }, message: message.to_string() }
    }

    pub(crate) fn passing(message: impl Display) -> Self {
        Self { kind: Kind::Passing, message: message.to_string() }
    }

    pub(crate) fn lost(message: impl Display) -> Self {
        Self { kind: Kind::Lost, message: message.to_string() }
    }

    pub(crate) fn stranger(message: impl Display) -> Self {
        Self { kind: Kind::Stranger, message: message.to_string() }
    }

    pub(crate) fn usage(message: impl Display) -> Self {
        Self { kind: Kind::Usage, message: message.to_string() }
    }
}
