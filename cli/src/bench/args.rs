//! Arguments of `raftkv bench`.

use raftkv_runtime::config::HumanDuration;

use super::workload::{Distribution, Workload};
use crate::consistency::Consistency;
use crate::failure::Failure;
use crate::output::JsonArgs;
use raftkv_client::Endpoints;

/// Arguments of `raftkv bench`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv bench                        puts by 64 clients, 100-byte values, 10 s
  raftkv bench --workload put,get --endpoints a:8080,b:8080,c:8080
  raftkv bench --workload mixed --reads-percent 95 --distribution zipfian
  raftkv bench --etcd a:2379,b:2379,c:2379 --workload get      etcd alone
  raftkv bench --compare --etcd a:2379 --rounds 5              both, alternating

Every answer is checked: a read must return a value that this run wrote under
that key.")]
pub(crate) struct BenchArgs {
    /// HTTP addresses of RaftKV; the clients are spread over all of them
    #[arg(
        long,
        visible_alias = "endpoint",
        env = "RAFTKV_ENDPOINT",
        value_name = "URL[,URL]",
        default_value = "http://127.0.0.1:8080"
    )]
    pub(super) endpoints: Endpoints,
    /// Addresses of etcd, for the same load on etcd
    #[arg(long, value_name = "URL[,URL]")]
    pub(super) etcd: Option<Endpoints>,
    /// Measure RaftKV and etcd in alternating rounds and print both with their ratio
    #[arg(long, requires = "etcd")]
    pub(super) compare: bool,
    /// Rounds of a comparison; the report has the medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) rounds: u32,
    /// Workload; separate several by commas, they run in turn
    #[arg(long, value_enum, value_delimiter = ',', default_value = "put")]
    pub(super) workload: Vec<Workload>,
    /// Percentage of reads in the mixed workload
    #[arg(long, value_name = "PERCENT", default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) reads_percent: u8,
    /// Number of clients, each with one connection and one request in flight
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) clients: u32,
    /// Size of a value in bytes
    #[arg(long, value_name = "BYTES", default_value_t = 100)]
    pub(super) value_size: usize,
    /// Number of distinct keys
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) keys: u32,
    /// Distribution of the keys
    #[arg(long, value_enum, default_value_t = Distribution::Uniform)]
    pub(super) distribution: Distribution,
    /// Duration of the measurement
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    pub(super) duration: HumanDuration,
    /// Duration of the load before the measurement
    #[arg(long, value_name = "DURATION", default_value = "2s")]
    pub(super) warmup: HumanDuration,
    /// Consistency level of reads
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    pub(super) consistency: Consistency,
    /// Puts per request (POST /v1/batch); only for RaftKV and the put workload
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) batch: u32,
    /// Keys per request while the data set is loaded; only for RaftKV
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(super) load_batch: u32,
    /// gRPC connections to etcd [default: one per endpoint and 16 clients]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) conns: Option<u32>,
    /// Seed of keys and values, for repeatable runs [default: random]
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
