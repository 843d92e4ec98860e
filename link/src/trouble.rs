//! [`Trouble`]: what last went wrong with the sidecar, for the error of whoever waited in vain.

use std::sync::{Arc, Mutex, PoisonError};

/// The last reason why the sidecar did not do what was asked; forgotten when it does again.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    last: Arc<Mutex<Option<String>>>,
}

impl Trouble {
    /// Notes a reason.
    pub fn note(&self, reason: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    /// It works again.
    pub fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// `what`, with the reason when there is one.
    pub fn explain(&self, what: &str) -> String {
        match &*self.last.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => format!("{what}: {reason}"),
            None => what.to_owned(),
        }
    }
}
