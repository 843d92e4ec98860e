//! [`MembershipOutcome`] and [`MembershipError`]: what came of a change.

use std::fmt;

use axum::http::StatusCode;
use raftkv_runtime::settings::MAX_NEW_NAME_BYTES;

use super::plan::{Refusal, RefusalCode};
use crate::node::standing::Bar;
use crate::peers::management::Problem;

/// What came of a change that did not fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MembershipOutcome {
    /// It is a voter now; with the names of members it replaced.
    Joined {
        /// Old selves of the node, gone now.
        replaced: Vec<String>,
    },
    /// It was one already.
    AlreadyVoter,
    /// It is still getting the log; the change goes on.
    CatchingUp {
        /// Entries it has.
        matched: u64,
        /// Entries there are.
        last: u64,
    },
    /// It is no member any more.
    Removed,
    /// The leader to which this was forwarded said so.
    Forwarded {
        /// Its words.
        result: String,
        /// Whether the change goes on.
        pending: bool,
    },
}

impl MembershipOutcome {
    /// Whether the change goes on in the background.
    pub fn is_pending(&self) -> bool {
        matches!(self, Self::CatchingUp { .. } | Self::Forwarded { pending: true, .. })
    }
}

impl MembershipOutcome {
    /// With the name of the member that was asked for, for people.
    pub fn told_of(&self, name: &str) -> String {
        match self {
            Self::Joined { replaced } if replaced.is_empty() => format!("{name} joined"),
            Self::Joined { replaced } => format!("{name} replaced {}", replaced.join(", ")),
            Self::AlreadyVoter => format!("{name} is a voter already"),
            Self::CatchingUp { matched, last } => format!("{name} is a learner, catching up: {matched} of {last}"),
            Self::Removed => format!("{name} is removed"),
            // A leader of version 0.1.0 leaves the name out.
            Self::Forwarded { result, .. } if result.contains(name) => result.clone(),
            Self::Forwarded { result, .. } => format!("{name}: {result}"),
        }
    }
}

impl fmt::Display for MembershipOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Joined { replaced } if replaced.is_empty() => f.write_str("joined"),
            Self::Joined { replaced } => write!(f, "replaced {}", replaced.join(", ")),
            Self::AlreadyVoter => f.write_str("already a voter"),
            Self::CatchingUp { matched, last } => {
                write!(f, "learner, catching up: {matched} of {last}")
            }
            Self::Removed => f.write_str("removed"),
            Self::Forwarded { result, .. } => f.write_str(result),
        }
    }
}

/// Why a membership was not changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MembershipError {
    /// This node is in no cluster.
    #[error("this node is in no cluster yet")]
    Waiting,
    /// Nobody leads, or the leader could not be reached; nothing was changed.
    #[error("{0}")]
    NoLeader(String),
    /// Another change is under way.
    #[error("another change of the membership is under way: {0}")]
    InProgress(String),
    /// It cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No node can be given such a name.
    #[error(
        "peerID {0:?} is no name for a new member: a name has 1 to {MAX_NEW_NAME_BYTES} letters, digits, dots, dashes and underscores, \
         not dots alone"
    )]
    BadName(String),
    /// This node led and leads no more, so that another can remove it; nothing else was done yet.
    #[error("leadership was handed over")]
    HandedOver,
    /// This node serves nothing.
    #[error("{why}")]
    OutOfService {
        /// Which of the reasons.
        bar: Bar,
        /// The reason.
        why: String,
    },
    /// The time for it was over before anything was done.
    #[error("the time given for this change was over before it began: the membership was not changed")]
    Expired,
    /// The node to join does not answer.
    #[error("{0}")]
    Unreachable(String),
    /// It may still happen: ask again.
    #[error("outcome unknown: {0}")]
    Unknown(String),
    /// What the leader answered.
    #[error("{}", .0.detail)]
    Remote(Problem),
}

impl MembershipError {
    pub(super) fn refused(code: RefusalCode, detail: impl Into<String>) -> Self {
        Self::Refused(Refusal { code, detail: detail.into() })
    }

    /// Whether the change was refused for this reason, here or by the leader.
    pub fn is_refused_as(&self, code: RefusalCode) -> bool {
        match self {
            Self::Refused(refusal) => refusal.code == code,
            Self::Remote(problem) => problem.code == code.as_str(),
            _ => false,
        }
    }

    /// As HTTP has it.
    pub fn to_problem(&self) -> Problem {
        let (status, code) = match self {
            Self::Remote(problem) => return problem.clone(),
            Self::Waiting => (StatusCode::SERVICE_UNAVAILABLE, "waiting"),
            Self::NoLeader(_) | Self::HandedOver => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Self::OutOfService { bar, .. } => (StatusCode::SERVICE_UNAVAILABLE, bar.code()),
            Self::Expired => (StatusCode::SERVICE_UNAVAILABLE, "expired"),
            Self::BadName(_) => (StatusCode::BAD_REQUEST, "bad_name"),
            Self::InProgress(_) => (StatusCode::CONFLICT, "in_progress"),
            Self::Refused(refusal) if refusal.code == RefusalCode::NoSuchMember => {
                (StatusCode::NOT_FOUND, refusal.code.as_str())
            }
            Self::Refused(refusal) => (StatusCode::CONFLICT, refusal.code.as_str()),
            Self::Unreachable(_) => (StatusCode::BAD_GATEWAY, "unreachable"),
            Self::Unknown(_) => (StatusCode::GATEWAY_TIMEOUT, "unknown"),
        };
        Problem::new(status, code, self.to_string())
    }
}

impl From<MembershipError> for tonic::Status {
    fn from(error: MembershipError) -> Self {
        let text = error.to_string();
        match error.to_problem().status {
            404 => Self::not_found(text),
            400 | 409 => Self::failed_precondition(text),
            504 => Self::deadline_exceeded(text),
            _ => Self::unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_with_the_members_name_once() {
        let forwarded = |result: &str| MembershipOutcome::Forwarded { result: result.to_owned(), pending: false };
        for (outcome, told) in [
            (MembershipOutcome::Joined { replaced: Vec::new() }, "n4 joined"),
            (MembershipOutcome::Removed, "n4 is removed"),
            (MembershipOutcome::AlreadyVoter, "n4 is a voter already"),
            (forwarded("removed"), "n4: removed"),
            (forwarded("n4 is removed"), "n4 is removed"),
        ] {
            assert_eq!(outcome.told_of("n4"), told);
        }
    }
}
