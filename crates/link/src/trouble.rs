//! [`Trouble`]: the last problem with the remote end of a link, for the error message of a failed request.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The last failure of the remote end; cleared on the next success.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    last: Arc<Mutex<Option<String>>>,
    notify: Option<Arc<Notify>>,
}

impl Trouble {
    /// No problem yet; `notify` is notified of each problem.
    pub fn new(notify: Option<Arc<Notify>>) -> Self {
        Self { last: Arc::default(), notify }
    }

    /// Records a problem.
    pub fn note(&self, reason: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        if let Some(notify) = &self.notify {
            notify.notify_one();
        }
    }

    /// Clears the problem after a success.
    pub fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns `what`, extended by the recorded problem if any.
    pub fn explain(&self, what: &str) -> String {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }
}
