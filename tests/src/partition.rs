//! [`Partition`]: which node's messages reach which.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// What happens to what one node sends to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Flow {
    /// It arrives.
    #[default]
    Open,
    /// It is held back, and nobody is told: as when a switch drops packets. It arrives when the flow is opened again, as
    /// what TCP sends again does.
    Silent,
    /// Connections break, and new ones break at once: as when a host refuses them.
    Closed,
}

/// From whom to whom.
type Direction = (usize, usize);

/// The flows between nodes, by their numbers. Cheap to clone; clones are one.
#[derive(Debug, Clone, Default)]
pub struct Partition {
    flows: Arc<Mutex<HashMap<Direction, watch::Sender<Flow>>>>,
}

impl Partition {
    /// Sets what happens to what `from` sends to `to`. The other direction is as it was.
    pub fn set(&self, from: usize, to: usize, flow: Flow) {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().send_replace(flow);
    }

    /// Opens everything.
    pub fn heal(&self) {
        for flow in self.flows.lock().unwrap_or_else(PoisonError::into_inner).values() {
            flow.send_replace(Flow::Open);
        }
    }

    /// To follow what happens to what `from` sends to `to`.
    pub(crate) fn watch(&self, from: usize, to: usize) -> watch::Receiver<Flow> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner).entry((from, to)).or_default().subscribe()
    }
}
