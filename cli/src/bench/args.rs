//! Arguments of `raftkv bench`.

use raftkv_runtime::config::HumanDuration;

use super::workload::{Distribution, Workload};
use crate::client::Endpoints;
use crate::consistency::Consistency;
use crate::failure::Failure;
use crate::output::JsonArgs;

/// Arguments of `raftkv bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv bench                                              puts, 64 clients, 100-byte values, 10 s
  raftkv bench --workload put,get --endpoints a:8080,b:8080,c:8080
  raftkv bench --workload mixed --reads-percent 95 --distribution zipfian
  raftkv bench --etcd a:2379,b:2379,c:2379 --workload get   the same load on etcd
  raftkv bench --compare --etcd a:2379 --rounds 5           both in turn, with medians and ratios

Every answer is checked: a read must return a value that this run wrote under that key.")]
pub(crate) struct BenchArgs {
    /// Addresses of RaftKV; the clients are spread over them
    #[arg(
        long,
        visible_alias = "endpoint",
        env = "RAFTKV_ENDPOINT",
        value_name = "URL[,URL]",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(super) endpoints: Endpoints,
    /// Addresses of etcd to put the load on instead, or as well with --compare
    #[arg(long, value_name = "URL[,URL]")]
    pub(super) etcd: Option<Endpoints>,
    /// Measure RaftKV and etcd in alternating rounds and print both side by side
    #[arg(long, requires = "etcd")]
    pub(super) compare: bool,
    /// Rounds of a comparison; medians are reported
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
    /// What to do; several, separated by commas, run one after the other
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put")]
    pub(super) workload: Vec<Workload>,
    /// Share of reads in the mixed workload
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) reads_percent: u8,
    /// Clients, each with one connection and one request at a time
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) clients: u32,
    /// Bytes of a value
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(super) value_size: usize,
    /// How many different keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) keys: u32,
    /// How often each key is chosen
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(super) distribution: Distribution,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(super) duration: HumanDuration,
    /// Load before the measurement begins
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(super) warmup: HumanDuration,
    /// How fresh reads must be
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub(super) consistency: Consistency,
    /// Puts in one request (POST /v1/batch); RaftKV and the put workload only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch: u32,
    /// Keys in one request while those to be read are loaded; RaftKV only
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) load_batch: u32,
    /// gRPC connections to etcd [default: one per endpoint and 16 clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) conns: Option<u32>,
    /// Makes keys and values repeatable [default: random]
    #[arg(long)]
    pub(super) seed: Option<u64>,
    #[command(flatten)]
    pub(super) format: JsonArgs,
}

impl BenchArgs {
    /// What the types cannot say.
    pub(super) fn check(&self) -> Result<(), Failure> {
        if self.duration.get().is_zero() {
            return Err(Failure::usage("--duration must be longer than nothing"));
        }
        if self.batch > 1 && self.workload.iter().any(|workload| workload.reads()) {
            return Err(Failure::usage("--batch is for the put workload only"));
        }
        if self.batch > 1 && self.etcd.is_some() {
            return Err(Failure::usage("--batch has no counterpart in etcd's KV calls"));
        }
        Ok(())
    }
}
