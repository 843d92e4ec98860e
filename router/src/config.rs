//! [`Config`]: what the router is told, checked before any socket opens.

use raftkv_http::limits::ROUTER_CONNECTIONS;
use raftkv_http::{Door, DoorArgs, DoorSettings};
use raftkv_runtime::config::{ByteSize, ConfigError, ConfigFile, HumanDuration, load_file};
use raftkv_runtime::grpc::Endpoint;
use raftkv_runtime::guard::HostName;
use raftkv_runtime::settings::{check_name, host_name, log_format, parsed, tcp, text};
use raftkv_runtime::telemetry::LogFormat;

use crate::control::act::hold::Hold;

/// The id of a router that nobody named, on a machine without a host name.
const DEFAULT_ROUTER_ID: &str = "router1";
/// Clients reach every interface; beside a node's 8080.
const DEFAULT_HTTP_LISTEN: &str = "0.0.0.0:8000";
/// A group of three survives the loss of one node.
const DEFAULT_REPLICAS: usize = 3;
/// More nodes in a group cost every write more and survive nothing that matters.
const MOST_REPLICAS: usize = 7;
/// Moves slower than this never end.
const LEAST_MOVE_RATE: u64 = 1024;
/// Our own story in full.
const DEFAULT_LOG: &str = "info";

/// The shard router of RaftKV: one HTTP front door over several groups. It stores nothing; run as many as you like.
///
/// Every setting is a flag, an environment variable or a key of the TOML file, in this order: log and log_format at the top
/// of the file, all others in the table `[router]`. Sizes are written as 512MiB or 1g, times as 5s or 250ms.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "raftkv-router", version)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Nodes of the group that keeps the shard map: host:port of their group service, with commas. Must be given.
    #[arg(long, env = "RAFTKV_META")]
    meta: Option<String>,
    /// Where to listen for clients. [default: 0.0.0.0:8000]
    #[arg(long, env = "RAFTKV_HTTP_LISTEN")]
    http_listen: Option<String>,
    /// Id of this router, unique among the routers. [default: the host name]
    #[arg(long, env = "RAFTKV_ROUTER_ID")]
    router_id: Option<String>,
    /// Nodes that a group is to have; counts when the store is made, later it is a setting of the store. [default: 3]
    #[arg(long, env = "RAFTKV_REPLICAS")]
    replicas: Option<String>,
    /// Bytes a second that a move of slots copies at most. [default: as fast as it goes]
    #[arg(long, env = "RAFTKV_MOVE_RATE")]
    move_rate: Option<String>,
    #[command(flatten)]
    door: DoorArgs,
    /// Log filter, as in RUST_LOG. [default: info]
    #[arg(long, env = "RAFTKV_LOG")]
    log: Option<String>,
    /// Log lines as text or json. [default: text]
    #[arg(long, env = "RAFTKV_LOG_FORMAT")]
    log_format: Option<String>,
    /// For tests: where moves of slots are held and for how many milliseconds, such as fence:5000.
    #[arg(long, env = "RAFTKV_MOVE_PAUSE_AT", hide = true)]
    move_pause_at: Option<String>,
}

/// The TOML file. What is the engine's or the sidecar's is theirs to check.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct File {
    node_id: Option<String>,
    data_dir: Option<String>,
    log: Option<String>,
    log_format: Option<String>,
    router: Table,
    engine: Option<serde_json::Value>,
    sidecar: Option<serde_json::Value>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Table {
    meta: Option<Vec<String>>,
    http_listen: Option<String>,
    router_id: Option<String>,
    replicas: Option<usize>,
    move_rate: Option<ByteSize>,
    max_key_bytes: Option<ByteSize>,
    max_value_bytes: Option<ByteSize>,
    max_connections: Option<usize>,
    request_timeout: Option<HumanDuration>,
    max_request_timeout: Option<HumanDuration>,
    allowed_hosts: Option<Vec<HostName>>,
    shutdown_grace: Option<HumanDuration>,
}

/// Settings of the router, all checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The router's id.
    pub router_id: String,
    /// Addresses of nodes of the meta group, at least one.
    pub meta: Vec<String>,
    /// For clients.
    pub http_listen: Endpoint,
    /// Nodes that a group is to have, of a store that is made.
    pub replicas: usize,
    /// Bytes a second that a move copies at most; `None` = as fast as it goes.
    pub move_rate: Option<u64>,
    /// Of the HTTP front door.
    pub door: Door,
    /// Log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
    /// For tests: where moves are held.
    pub hold: Hold,
}

impl Config {
    /// Flag over environment over file over default. Nothing is opened but the file.
    ///
    /// # Errors
    /// When the file cannot be read or a setting makes no sense; the message names it.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let file: File = load_file(args.file.path())?;
        Self::merge(args, file)
    }

    fn merge(args: Args, file: File) -> Result<Self, ConfigError> {
        let table = file.router;
        // Read so that their keys count as known; each process checks its own.
        drop((file.engine, file.sidecar, file.node_id, file.data_dir));

        let router_id = text(args.router_id, table.router_id).or_else(host_name);
        let router_id = router_id.unwrap_or_else(|| DEFAULT_ROUTER_ID.to_owned());
        check_name("RAFTKV_ROUTER_ID", &router_id)?;
        let listed = text(args.meta, None).map(|list| list.split(',').map(|part| part.trim().to_owned()).collect());
        let meta = meta(listed.or(table.meta).unwrap_or_default())?;
        let http_listen = text(args.http_listen, table.http_listen).unwrap_or_else(|| DEFAULT_HTTP_LISTEN.to_owned());
        let replicas = parsed("RAFTKV_REPLICAS", args.replicas, table.replicas)?.unwrap_or(DEFAULT_REPLICAS);
        let move_rate = parsed("RAFTKV_MOVE_RATE", args.move_rate, table.move_rate)?.map(|size: ByteSize| size.0);
        let door = DoorSettings {
            max_key_bytes: table.max_key_bytes,
            max_value_bytes: table.max_value_bytes,
            max_connections: table.max_connections,
            request_timeout: table.request_timeout,
            max_request_timeout: table.max_request_timeout,
            allowed_hosts: table.allowed_hosts,
            shutdown_grace: table.shutdown_grace,
        };
        let door = Door::check(args.door.over(door)?, ROUTER_CONNECTIONS)?;

        if !(1..=MOST_REPLICAS).contains(&replicas) {
            return Err(ConfigError::invalid("RAFTKV_REPLICAS", format!("must be from 1 to {MOST_REPLICAS}")));
        }
        if move_rate.is_some_and(|rate| rate < LEAST_MOVE_RATE) {
            let reason = format!("must be at least {}", ByteSize(LEAST_MOVE_RATE));
            return Err(ConfigError::invalid("RAFTKV_MOVE_RATE", reason));
        }
        Ok(Self {
            router_id,
            meta,
            http_listen: tcp("RAFTKV_HTTP_LISTEN", &http_listen)?,
            replicas,
            move_rate,
            door,
            log: text(args.log, file.log).unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: log_format(args.log_format, file.log_format)?,
            hold: parsed("RAFTKV_MOVE_PAUSE_AT", args.move_pause_at, None)?.unwrap_or_default(),
        })
    }
}

fn meta(addresses: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let addresses: Vec<String> = addresses.into_iter().filter(|address| !address.is_empty()).collect();
    if addresses.is_empty() {
        let reason = "must name at least one node of the first group, such as node1:50053";
        return Err(ConfigError::invalid("RAFTKV_META", reason));
    }
    raftkv_runtime::settings::addresses("RAFTKV_META", None, Some(addresses))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    fn flags(flags: &[&str]) -> Args {
        Args::try_parse_from([&["raftkv-router"], flags].concat()).unwrap()
    }

    fn file(text: &str) -> File {
        // The loader of the process reads files only.
        let dir = std::env::temp_dir().join(format!("raftkv-router-config-{}-{}", std::process::id(), text.len()));
        std::fs::write(&dir, text).unwrap();
        let read = load_file(Some(&dir));
        std::fs::remove_file(&dir).unwrap();
        read.unwrap()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let text =
            "log = \"debug\"\n[engine]\nx = 1\n[router]\nmeta = [\"a:1\", \"b:2\"]\nreplicas = 5\nmove_rate = \"1MiB\"";
        let config = Config::merge(flags(&["--replicas", "1", "--router-id", "r7"]), file(text)).unwrap();
        assert_eq!((config.replicas, config.router_id.as_str(), config.log.as_str()), (1, "r7", "debug"));
        assert_eq!((config.meta, config.move_rate), (vec!["a:1".to_owned(), "b:2".to_owned()], Some(1024 * 1024)));
        let config = Config::merge(flags(&["--meta", " c:3 ,d:4,", "--move-rate", ""]), file(text)).unwrap();
        assert_eq!((config.meta, config.replicas), (vec!["c:3".to_owned(), "d:4".to_owned()], 5));
        assert_eq!(config.http_listen.to_string(), DEFAULT_HTTP_LISTEN);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let cases: [(&[&str], &str); 11] = [
            (&[], "RAFTKV_META"),
            (&["--meta", "node1"], "RAFTKV_META"),
            (&["--meta", "node1:0"], "RAFTKV_META"),
            (&["--meta", "a:1", "--replicas", "0"], "RAFTKV_REPLICAS"),
            (&["--meta", "a:1", "--replicas", "many"], "RAFTKV_REPLICAS"),
            (&["--meta", "a:1", "--move-rate", "1"], "RAFTKV_MOVE_RATE"),
            (&["--meta", "a:1", "--router-id", "no spaces"], "RAFTKV_ROUTER_ID"),
            (&["--meta", "a:1", "--allowed-hosts", "http://kv.example"], "RAFTKV_ALLOWED_HOSTS"),
            (&["--meta", "a:1", "--max-request-timeout", "1s"], "RAFTKV_MAX_REQUEST_TIMEOUT"),
            (&["--meta", "a:1", "--http-listen", "unix:/tmp/http.sock"], "RAFTKV_HTTP_LISTEN"),
            (&["--meta", "a:1", "--move-pause-at", "nowhere:5"], "RAFTKV_MOVE_PAUSE_AT"),
        ];
        for (given, setting) in cases {
            let error = Config::merge(flags(given), File::default()).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{given:?}: {error}");
        }
    }

    #[test]
    fn every_setting_has_a_variable_and_a_help_text() {
        for argument in Args::command().get_arguments() {
            let name = argument.get_id().as_str();
            if !["help", "version"].contains(&name) {
                assert!(argument.get_env().is_some() && argument.get_help().is_some(), "{name}");
            }
        }
    }

    #[test]
    fn its_variables_are_known_to_the_other_programs() {
        let command = <Args as clap::CommandFactory>::command();
        for name in command.get_arguments().filter_map(clap::Arg::get_env) {
            assert!(name.to_str().is_some_and(raftkv_runtime::variables::is_known), "{name:?}");
        }
    }
}
