//! [`Rejected`]: why a change of the cluster was not made.

/// Nothing changed. The code is for programs and never changes its meaning, the message for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejected {
    /// What programs tell refusals apart by.
    pub code: RejectedCode,
    /// What is wrong, and what to do about it.
    pub message: String,
}

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectedCode {
    /// There is no such group.
    UnknownGroup,
    /// There is no such operation; or it ended so long ago that it was forgotten.
    UnknownOperation,
    /// There is no such node.
    UnknownNode,
    /// What was asked cannot be understood, or has no meaning.
    Invalid,
    /// It does not fit the state of the cluster now.
    Conflict,
    /// It destroys something, and was not confirmed.
    ConfirmationRequired,
    /// A bound of the cluster was reached.
    TooMany,
    /// Somebody else changed the cluster meanwhile: what was decided is out of date.
    Outdated,
}

impl RejectedCode {
    /// As programs see it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UnknownGroup => "unknown_group",
            Self::UnknownOperation => "unknown_operation",
            Self::UnknownNode => "unknown_node",
            Self::Invalid => "invalid_request",
            Self::Conflict => "conflict",
            Self::ConfirmationRequired => "confirmation_required",
            Self::TooMany => "too_many",
            Self::Outdated => "outdated",
        }
    }
}

impl Rejected {
    pub(crate) fn new(code: RejectedCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn conflict(message: impl Into<String>) -> Self {
        Self::new(RejectedCode::Conflict, message)
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(RejectedCode::Invalid, message)
    }

    pub(crate) fn outdated(message: impl Into<String>) -> Self {
        Self::new(RejectedCode::Outdated, message)
    }

    pub(crate) fn unknown_group(id: u32) -> Self {
        Self::new(RejectedCode::UnknownGroup, format!("there is no group {id}"))
    }

    pub(crate) fn unknown_operation(id: u64) -> Self {
        Self::new(RejectedCode::UnknownOperation, format!("there is no operation {id}, or it ended long ago"))
    }
}
