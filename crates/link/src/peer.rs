//! [`Peer`]: the remote end of a link.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::{Counter, Gauge, Histogram, Label};
use raftkv_runtime::metrics::UNKNOWN;
use tokio::sync::Notify;

use crate::trouble::Trouble;

/// Name and metrics of the remote end. Cloning shares the state.
#[derive(Debug, Clone)]
pub struct Peer {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    figures: Figures,
    on_trouble: Option<Arc<Notify>>,
}

/// Metrics of a link, registered once at construction; the metrics recorder must be installed before.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) connected: Gauge,
    pub(crate) batch_ops: Histogram,
    pub(crate) repeated: Counter,
    pub(crate) refused: Counter,
    pub(crate) given_up: Counter,
    pub(crate) shed: Counter,
}

/// Number of links per peer: after a change of nodes, a new link to a group may exist before the old link is dropped.
static LINKS: Mutex<Option<HashMap<String, usize>>> = Mutex::new(None);

impl Peer {
    /// The sidecar of an engine.
    pub fn sidecar() -> Self {
        let figures = Figures::new("raftkv_engine", "raftkv_engine_sidecar_connected", &[]);
        Self::new("the sidecar".to_owned(), figures, None)
    }

    /// A group, as seen by a router. `on_trouble` is notified of every problem with the group.
    pub fn group(name: String, on_trouble: Arc<Notify>) -> Self {
        let labels = [Label::new("group", name.clone())];
        let figures = Figures::new("raftkv_router", "raftkv_router_group_connected", &labels);
        Self::new(name, figures, Some(on_trouble))
    }

    fn new(name: String, figures: Figures, on_trouble: Option<Arc<Notify>>) -> Self {
        let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
        *links.get_or_insert_default().entry(name.clone()).or_default() += 1;
        Self { shared: Arc::new(Shared { name, figures, on_trouble }) }
    }

    /// Name for log and error messages.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// A recorder for problems with the peer.
    pub fn trouble(&self) -> Trouble {
        Trouble::new(self.shared.on_trouble.clone())
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.shared.figures
    }
}

impl Drop for Shared {
    /// Clears the gauge with the last link, since the group was removed.
    fn drop(&mut self) {
        let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
        let links = links.get_or_insert_default();
        let left = links.get(&self.name).map_or(0, |count| count.saturating_sub(1));
        if left > 0 {
            links.insert(self.name.clone(), left);
        } else {
            links.remove(&self.name);
            self.figures.connected.set(UNKNOWN);
        }
    }
}

impl Figures {
    fn new(prefix: &str, connected: &'static str, labels: &[Label]) -> Self {
        let counter = |name: &str| metrics::counter!(format!("{prefix}_{name}"), labels.iter());
        Self {
            connected: metrics::gauge!(connected, labels.iter()),
            batch_ops: metrics::histogram!(format!("{prefix}_batch_ops"), labels.iter()),
            repeated: counter("proposals_repeated_total"),
            refused: counter("proposals_refused_total"),
            given_up: counter("batches_given_up_total"),
            shed: counter("writes_shed_total"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_of_a_peer_vanishes_with_the_last_link_to_it() {
        raftkv_runtime::metrics::install().expect("installs");
        let shown = || raftkv_runtime::metrics::render().contains("raftkv_router_group_connected{group=\"test\"}");
        let peer = || Peer::group("test".to_owned(), Arc::default());
        let (first, second) = (peer(), peer());
        first.figures().connected.set(1.0);
        drop(first);
        assert!(shown(), "the second one is there");
        let third = second.clone();
        drop(second);
        assert!(shown());
        drop(third);
        assert!(!shown());
    }
}
