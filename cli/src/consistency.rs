//! [`Consistency`]: how fresh reads must be.

/// How fresh reads must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// Sees every write acknowledged before, on any node
    #[value(alias = "lease")]
    #[default]
    Linearizable,
    /// The same, confirmed by a quorum: assumes nothing about clocks
    Quorum,
    /// What the node has, at once
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
