//! Arguments of `raftkv local`.

use std::path::PathBuf;

use raftkv_runtime::config::HumanDuration;

use crate::output::JsonArgs;

/// The HTTP port of the first node, where curl examples expect it.
pub(super) const DEFAULT_HTTP_PORT: u16 = 8080;
/// Size of a group that survives the loss of one node.
pub(super) const DEFAULT_NODES: u16 = 3;
/// More nodes make every write slower and nothing safer.
const MAX_NODES: i64 = 9;
/// More groups than a machine has use for.
const MAX_GROUPS: i64 = 16;
/// More routers than a machine has use for.
const MAX_ROUTERS: i64 = 8;

/// Arguments of `raftkv local`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv local                             three nodes on ports 8080 to 8082
  raftkv local --http-port 0 --json        any free ports, told as one line of JSON
  raftkv local --nodes 1 --dir ./data      one node, with its data here
  raftkv local --groups 2 --nodes 1        two groups of one node, behind a router on port 8080

With --json it prints one line, once all is healthy and the keys are shared evenly, and nothing else.

The directory keeps data, logs (NODE/engine.log, NODE/sidecar.log, ROUTER/router.log) and ports: starting on it again
resumes the same cluster. DIR/cluster.json always says which processes run, and where.")]
pub(crate) struct LocalArgs {
    /// How many groups share the keys; default 1, or as many as the directory has. May grow, not shrink
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_GROUPS))]
    pub(super) groups: Option<u16>,
    /// How many nodes in each group; default 3, or as many as it has. May grow, not shrink
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_NODES))]
    pub(super) nodes: Option<u16>,
    /// How many routers; default 1 when there are several groups. May grow, not shrink
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(0..=MAX_ROUTERS))]
    pub(super) routers: Option<u16>,
    /// Start nodes again that were killed, as new and empty ones
    #[arg(long)]
    pub(super) revive: bool,
    /// Where everything is kept [default: raftkv/local in your data directory]
    #[arg(long, value_name = "DIR", env = "RAFTKV_LOCAL_DIR")]
    pub(super) dir: Option<PathBuf>,
    /// HTTP port of the first router, or node where there is none; the others count up, routers first; 0 = any free ports.
    /// Default 8080, or what the directory has; routers that are added to it get 8000 and up
    #[arg(long, value_name = "PORT")]
    pub(super) http_port: Option<u16>,
    #[command(flatten)]
    pub(super) format: JsonArgs,
    /// Leave processes that died dead
    #[arg(long)]
    pub(super) no_restart: bool,
    /// Stop with an error when not all is healthy after this long
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub(super) ready_timeout: HumanDuration,
    /// Where raftkv-engine, raftkv-sidecar and raftkv-router are [default: beside raftkv, else on PATH]
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
}
