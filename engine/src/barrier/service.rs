//! [`Service`]: whether this node is in service, as reported by the sidecar.

use std::sync::Arc;

use raftkv_backend::BackendError;
use tokio::sync::watch;

/// The last report of the sidecar. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Service {
    /// Reason for being out of service; `None` = in service.
    out: watch::Sender<Option<Arc<str>>>,
}

impl Default for Service {
    fn default() -> Self {
        Self { out: watch::Sender::new(None) }
    }
}

impl Service {
    /// Records the report of the sidecar; empty = in service.
    pub(super) fn set(&self, out_of_service: &str) {
        self.out.send_if_modified(|out| {
            let changed = out.as_deref().unwrap_or_default() != out_of_service;
            if changed {
                *out = (!out_of_service.is_empty()).then(|| out_of_service.into());
            }
            changed
        });
    }

    /// # Errors
    /// `Unavailable`, with the reason, while this node is out of service.
    pub(super) fn check(&self) -> Result<(), BackendError> {
        match &*self.out.borrow() {
            None => Ok(()),
            Some(why) => Err(BackendError::Unavailable(why.to_string())),
        }
    }
}
