//! [`Trouble`]: what last went wrong with the other end of a link, for the error of whoever waited in vain.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// The last reason why the other end did not do what was asked; forgotten when it does again.
#[derive(Debug, Clone, Default)]
pub struct Trouble {
    last: Arc<Mutex<Option<String>>>,
    notify: Option<Arc<Notify>>,
}

impl Trouble {
    /// None yet; `notify` is told of each.
    pub fn new(notify: Option<Arc<Notify>>) -> Self {
        Self { last: Arc::default(), notify }
    }

    /// Notes a reason.
    pub fn note(&self, reason: String) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
        if let Some(notify) = &self.notify {
            notify.notify_one();
        }
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
