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
  raftkv local                           three nodes on ports 8080 to 8082
  raftkv local --http-port 0 -o json     any free ports, printed as JSON
  raftkv local --nodes 1 --dir ./data    one node with its data in ./data
  raftkv local --groups 2 --nodes 1      two groups behind a router on port 8080

With -o json the command prints one line, after all processes are healthy and
all groups have their share of the keys.

DIR contains data, logs (NODE/engine.log, NODE/sidecar.log, ROUTER/router.log)
and ports. The same DIR resumes the same cluster. DIR/cluster.json lists the
running processes and their addresses.")]
pub(crate) struct LocalArgs {
    /// Number of groups that share the keys; can be increased later [default: 1, or as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_GROUPS))]
    pub(super) groups: Option<u16>,
    /// Number of nodes in each group; can be increased later [default: 3, or as before]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=MAX_NODES))]
    pub(super) nodes: Option<u16>,
    /// Number of routers; can be increased later [default: 0 for one group, else 1]
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(u16).range(0..=MAX_ROUTERS))]
    pub(super) routers: Option<u16>,
    /// Restart killed nodes as new, empty nodes
    #[arg(long)]
    pub(super) revive: bool,
    /// Directory for data, logs and ports [default: raftkv/local in your data directory]
    #[arg(long, value_name = "DIR", env = "RAFTKV_LOCAL_DIR")]
    pub(super) dir: Option<PathBuf>,
    /// HTTP port of the first router, or of the first node without routers; the others get the next ports, routers first. 0 = any
    /// free ports. Routers added later get port 8000 and up [default: 8080, or as before]
    #[arg(long, value_name = "PORT")]
    pub(super) http_port: Option<u16>,
    #[command(flatten)]
    pub(super) format: JsonArgs,
    /// Do not restart processes that end
    #[arg(long)]
    pub(super) no_restart: bool,
    /// Fail if the cluster is not healthy after this time
    #[arg(long, value_name = "DURATION", default_value = "2m")]
    pub(super) ready_timeout: HumanDuration,
    /// Directory of raftkv-engine, raftkv-sidecar and raftkv-router [default: beside raftkv, else PATH]
    #[arg(long, value_name = "DIR")]
    pub(super) bin_dir: Option<PathBuf>,
}
