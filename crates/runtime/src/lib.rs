//! Process plumbing shared by the binaries: telemetry, metrics, panics, shutdown, exit codes, configuration, the
//! gRPC transport, and when a batch should leave ([`gather`]).
//!
//! A `main` is expected to be boring:
//!
//! ```no_run
//! use raftkv_runtime::{exit, metrics, panic, shutdown::Shutdown, telemetry};
//!
//! # async fn run(_: Shutdown) -> Result<(), std::io::Error> { Ok(()) }
//! # #[tokio::main]
//! # async fn main() {
//! panic::abort_on_panic();
//! telemetry::init("info", telemetry::LogFormat::Text).unwrap_or_else(|error| exit::fatal(exit::USAGE, error));
//! metrics::install().unwrap_or_else(|error| exit::fatal(exit::SOFTWARE, error));
//! let shutdown = Shutdown::new();
//! shutdown.signals().unwrap_or_else(|error| exit::fatal(exit::IO, error));
//! if let Err(error) = run(shutdown).await {
//!     exit::fatal(exit::IO, error);
//! }
//! # }
//! ```

pub mod busy_poll;
mod byte_size;
pub mod clock;
pub mod config;
pub mod deadlines;
pub mod directory;
pub mod disk;
pub mod exit;
pub mod failpoints;
pub mod file_limit;
pub mod gather;
pub mod grpc;
pub mod guard;
#[doc(hidden)]
pub mod limits_page;
pub mod metrics;
pub mod network;
pub mod panic;
pub mod planted;
pub mod published;
pub mod reason;
pub mod reminder;
pub mod scrapes;
pub mod settings;
pub mod shutdown;
pub mod stage;
pub mod telemetry;
pub mod variables;
pub mod wipe;
pub mod workers;
