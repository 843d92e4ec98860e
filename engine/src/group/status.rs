//! Conversion of errors to gRPC status codes and to refusals of reads.

use raftkv_backend::BackendError;
use raftkv_proto::group::{ReadRefused, ReadRefusedReason};
use tonic::Status;

/// For unary calls.
pub(crate) fn of_backend(error: BackendError) -> Status {
    let text = error.reason();
    match error {
        BackendError::Unavailable(_) | BackendError::ShuttingDown => Status::unavailable(text),
        BackendError::Overloaded { .. } => Status::resource_exhausted(text),
        BackendError::DeadlineExceeded(_) => Status::deadline_exceeded(text),
        BackendError::OutcomeUnknown(_) => Status::unknown(text),
        BackendError::WrongGroup | BackendError::Rejected(_) => Status::failed_precondition(text),
        _ => Status::internal(text),
    }
}

/// For reads on a stream.
pub(super) fn refused(error: &BackendError) -> ReadRefused {
    let (reason, retry_after_ms) = match error {
        BackendError::Unavailable(_) => (ReadRefusedReason::Unavailable, 0),
        BackendError::Overloaded { retry_after } => {
            (ReadRefusedReason::Overloaded, u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX))
        }
        BackendError::ShuttingDown => (ReadRefusedReason::ShuttingDown, 0),
        BackendError::DeadlineExceeded(_) => (ReadRefusedReason::Deadline, 0),
        _ => (ReadRefusedReason::Internal, 0),
    };
    ReadRefused { reason: reason.into(), message: error.reason(), retry_after_ms }
}

pub(super) fn too_many_streams() -> Status {
    Status::resource_exhausted("too many streams are open on this node")
}
