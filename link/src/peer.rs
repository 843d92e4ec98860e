//! [`Peer`]: who is at the other end of a link.

use std::sync::Arc;

use metrics::{Counter, Gauge, Histogram, Label};
use tokio::sync::Notify;

use crate::trouble::Trouble;

/// The other end: its name in messages and what is counted about it. Cloning shares it.
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

/// Figures of a link, registered once: the process installs its recorder before it makes one.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) connected: Gauge,
    pub(crate) batch_ops: Histogram,
    pub(crate) repeated: Counter,
    pub(crate) refused: Counter,
    pub(crate) given_up: Counter,
    pub(crate) shed: Counter,
}

impl Peer {
    /// An engine's own sidecar.
    pub fn sidecar() -> Self {
        let figures = Figures::new("raftkv_engine", "raftkv_engine_sidecar_connected", &[]);
        Self { shared: Arc::new(Shared { name: "the sidecar".to_owned(), figures, on_trouble: None }) }
    }

    /// A group, as a router meets it. `on_trouble` is notified whenever something with it does not work.
    pub fn group(name: String, on_trouble: Arc<Notify>) -> Self {
        let labels = [Label::new("group", name.clone())];
        let figures = Figures::new("raftkv_router", "raftkv_router_group_connected", &labels);
        Self { shared: Arc::new(Shared { name, figures, on_trouble: Some(on_trouble) }) }
    }

    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Where to note what goes wrong with it.
    pub fn trouble(&self) -> Trouble {
        Trouble::new(self.shared.on_trouble.clone())
    }

    pub(crate) fn figures(&self) -> &Figures {
        &self.shared.figures
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
