//! [`Consistency`]: how fresh reads must be.

/// How fresh reads must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Consistency {
    /// Sees every write acknowledged before, on any node
    #[default]
    Linearizable,
    /// The same as long as clocks run at about the same rate
    Lease,
    /// What the node has, at once
    Stale,
}

impl Consistency {
    /// Its name in a query.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Consistency::Linearizable => "linearizable",
            Consistency::Lease => "lease",
            Consistency::Stale => "stale",
        }
    }
}
