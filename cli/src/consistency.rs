//! [`Consistency`]: the consistency level of a read.

/// Consistency level of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// The read returns every write acknowledged before it, on any node
    #[value(alias = "lease")]
    #[default]
    Linearizable,
    /// Linearizable, confirmed by a quorum: no assumption about clocks
    Quorum,
    /// The local state of the node, which may be old
    Stale,
}

impl Consistency {
    /// Its name in a query.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Quorum => "quorum",
            Consistency::Stale => "stale",
        }
    }
}
