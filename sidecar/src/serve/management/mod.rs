//! The management API: HTTP on every node, for operators, probes, joining nodes and other sidecars.

mod browsers;
mod handlers;
mod json;
mod metrics;
mod places;
mod problem;
mod route;
mod server;
mod upgrade;
mod write_timeout;

pub use handlers::{Management, router};
pub use json::Json;
pub use metrics::scrapes;
#[cfg(test)]
pub(crate) use server::limits;
pub use server::{MOST_CONNECTIONS, serve};
pub use upgrade::{MemberVersions, Spoken, UpgradeDocument};
