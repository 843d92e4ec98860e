//! Errors of the store as gRPC status codes.

use raftkv_store::{ApplyError, StoreError};
use tonic::Status;

/// Status of all calls but apply.
pub(super) fn of_store(error: &StoreError) -> Status {
    let text = error.to_string();
    match error {
        StoreError::Corrupt(_) | StoreError::SnapshotDamaged(_) => Status::data_loss(text),
        StoreError::SnapshotRefused(_) | StoreError::Unsupported(_) | StoreError::WrongGroup => {
            Status::failed_precondition(text)
        }
        StoreError::NoSpace { .. } => Status::resource_exhausted(text),
        StoreError::Locked { .. } | StoreError::Stopped => Status::unavailable(text),
        StoreError::Inconsistent(_) | StoreError::Storage(_) | StoreError::Io { .. } => Status::internal(text),
    }
}

/// Status of apply.
pub(super) fn of_apply(error: &ApplyError) -> Status {
    let text = error.to_string();
    match error {
        ApplyError::Gap { .. } => Status::failed_precondition(text),
        ApplyError::Fatal(_) => Status::internal(text),
        ApplyError::Stopped => Status::unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn the_codes_of_the_contract() {
        let gap = ApplyError::Gap { got: 3, expected: 1 };
        assert_eq!(of_apply(&gap).code(), Code::FailedPrecondition);
        assert_eq!(of_store(&StoreError::Corrupt(String::new())).code(), Code::DataLoss);
        assert_eq!(of_store(&StoreError::SnapshotDamaged(String::new())).code(), Code::DataLoss);
        assert_eq!(of_store(&StoreError::SnapshotRefused(String::new())).code(), Code::FailedPrecondition);
        assert_eq!(of_store(&StoreError::Stopped).code(), Code::Unavailable);
        let full = StoreError::NoSpace { path: "/data".into(), free_bytes: 1, needed_bytes: 2 };
        assert_eq!(of_store(&full).code(), Code::ResourceExhausted);
    }
}
