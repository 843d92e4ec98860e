//! [`Config`]: what the sidecar is told, checked before any socket opens.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use raftkv_runtime::config::{ByteSize, ConfigError, ConfigFile, HumanDuration, load_file};
use raftkv_runtime::grpc::Endpoint;
use raftkv_runtime::guard::HostName;
use raftkv_runtime::settings::{
    addresses, advertised, allowed_hosts, check_name, log_format, parsed, switch, tcp, text,
};
use raftkv_runtime::telemetry::LogFormat;

use crate::raft::timing::Timing;

/// Where both processes of a node keep what must survive.
const DEFAULT_DATA_DIR: &str = "/var/lib/raftkv";
/// Peers reach every interface.
const DEFAULT_RAFT_LISTEN: &str = "0.0.0.0:8088";
/// Operators and joining nodes reach every interface.
const DEFAULT_MANAGEMENT_LISTEN: &str = "0.0.0.0:6000";
/// The engine's own default; only advertised here.
const DEFAULT_HTTP_PORT: u16 = 8080;
/// The engine's own default; only advertised here.
const DEFAULT_GROUP_PORT: u16 = 50_053;
/// A slow member may hold the log back up to here, not longer: the disk belongs to the others, too.
const DEFAULT_LOG_MAX: ByteSize = ByteSize::gib(1);
/// Long enough to give leadership away and answer what is in flight, shorter than Docker's ten seconds.
const DEFAULT_SHUTDOWN_GRACE: HumanDuration = HumanDuration::from_secs(8);
/// Our own story in full; openraft's only where it fails: it warns at each heartbeat to a member that is away, and calls a change of the
/// membership that another one overtook an error, which is planned again here.
const DEFAULT_LOG: &str = "info,openraft=error,openraft::raft::api::management=off";

/// The consensus process of a RaftKV node.
///
/// Every setting is a flag, an environment variable or a key of the TOML file, in this order. Keys that both processes of
/// a node share (node_id, data_dir, log, log_format) are at the top of the file, the others in the table `[sidecar]`.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "raftkv-sidecar", version)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Name of this node, unique in its group; also the host name others reach it by, unless addresses are advertised.
    #[arg(long, env = "NODE_ID")]
    node_id: Option<String>,
    /// Form a new cluster when none is found (true or false).
    #[arg(long, env = "BOOTSTRAP", num_args = 0..=1, default_missing_value = "true")]
    bootstrap: Option<String>,
    /// Management addresses (host:port, comma separated) of nodes to join; may name this node, too.
    #[arg(long, env = "JOIN_ADDR")]
    join_addr: Option<String>,
    /// Routers (host:port, comma separated) that tell an empty node without JOIN_ADDR which group it belongs to.
    #[arg(long, env = "RAFTKV_ROUTER")]
    router: Option<String>,
    /// Name of the group to ask the router for. [default: the router chooses]
    #[arg(long, env = "RAFTKV_GROUP")]
    group: Option<String>,
    /// Directory of the node's data. [default: /var/lib/raftkv]
    #[arg(long, env = "RAFTKV_DATA_DIR")]
    data_dir: Option<String>,
    /// Where to listen for peers. [default: 0.0.0.0:8088]
    #[arg(long, env = "RAFTKV_RAFT_LISTEN")]
    raft_listen: Option<String>,
    /// How peers reach it. [default: NODE_ID:port]
    #[arg(long, env = "RAFTKV_RAFT_ADVERTISE")]
    raft_advertise: Option<String>,
    /// Where to listen for operators. [default: 0.0.0.0:6000]
    #[arg(long, env = "RAFTKV_MANAGEMENT_LISTEN")]
    management_listen: Option<String>,
    /// How operators and other nodes reach it. [default: NODE_ID:port]
    #[arg(long, env = "RAFTKV_MANAGEMENT_ADVERTISE")]
    management_advertise: Option<String>,
    /// Host names (comma separated) by which browsers may send requests to the management port, beside addresses, localhost, names
    /// without a dot and the node's own; other requests of browsers are refused (403). [default: none]
    #[arg(long, env = "RAFTKV_ALLOWED_HOSTS")]
    allowed_hosts: Option<String>,
    /// How clients reach this node's HTTP API. [default: NODE_ID:8080]
    #[arg(long, env = "RAFTKV_HTTP_ADVERTISE")]
    http_advertise: Option<String>,
    /// How routers reach this node's engine. [default: NODE_ID:50053]
    #[arg(long, env = "RAFTKV_GROUP_ADVERTISE")]
    group_advertise: Option<String>,
    /// Where to listen for the engine. [default: unix:DATA_DIR/sidecar.sock]
    #[arg(long, env = "RAFTKV_SIDECAR_GRPC_LISTEN")]
    sidecar_grpc_listen: Option<String>,
    /// Where the engine listens. [default: unix:DATA_DIR/engine.sock]
    #[arg(long, env = "RAFTKV_ENGINE_GRPC")]
    engine_grpc: Option<String>,
    /// How often a leader says that it is there; a sixth of RAFTKV_ELECTION_TIMEOUT at most. [default: 40ms, or 100ms with
    /// RAFTKV_ELECTION_TIMEOUT]
    #[arg(long, env = "RAFTKV_HEARTBEAT")]
    heartbeat: Option<String>,
    /// The shortest time without a leader after which a member stands for election; the longest is a third more. For two thirds of it
    /// a member helps no other to lead, which is how soon a leader whose process has ended can be replaced. [default: 800ms, and
    /// 200ms for a leader whose process has ended]
    #[arg(long, env = "RAFTKV_ELECTION_TIMEOUT")]
    election_timeout: Option<String>,
    /// Log kept behind the newest entry, for members that come back. [default: 64MiB, or a 32nd of a file system below 2GiB]
    #[arg(long, env = "RAFTKV_LOG_RETAIN")]
    log_retain: Option<String>,
    /// Log kept for the sake of members that are slow. [default: 1GiB]
    #[arg(long, env = "RAFTKV_LOG_MAX")]
    log_max: Option<String>,
    /// Log after which the engine is asked to make its state durable. [default: 64MiB, or a 32nd of a file system below 2GiB]
    #[arg(long, env = "RAFTKV_SNAPSHOT_AFTER")]
    snapshot_after: Option<String>,
    /// Free disk space below which the log is kept as short as can be; the engine's setting of the same name, which refuses
    /// values below it. [default: 5 % of the file system, at most 512MiB; more of a small one]
    #[arg(long, env = "RAFTKV_DISK_RESERVE")]
    disk_reserve: Option<String>,
    /// Whether linearizable reads may rely on the leader's lease, which assumes that clocks run at about the same rate;
    /// without it each is confirmed by a quorum. [default: true]
    #[arg(long, env = "RAFTKV_READ_LEASE")]
    read_lease: Option<String>,
    /// Graceful shutdown timeout. [default: 8s]
    #[arg(long, env = "RAFTKV_SHUTDOWN_GRACE")]
    shutdown_grace: Option<String>,
    /// Log filter, as in RUST_LOG. [default: info,openraft=error,openraft::raft::api::management=off]
    #[arg(long, env = "RAFTKV_LOG")]
    log: Option<String>,
    /// Log lines as text or json. [default: text]
    #[arg(long, env = "RAFTKV_LOG_FORMAT")]
    log_format: Option<String>,
}

/// The TOML file: the keys of both processes. What is the engine's or a router's is theirs to check.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct File {
    node_id: Option<String>,
    data_dir: Option<String>,
    log: Option<String>,
    log_format: Option<String>,
    sidecar: Table,
    engine: Option<serde_json::Value>,
    router: Option<serde_json::Value>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Table {
    bootstrap: Option<bool>,
    join_addr: Option<Vec<String>>,
    router: Option<Vec<String>>,
    group: Option<String>,
    raft_listen: Option<String>,
    raft_advertise: Option<String>,
    management_listen: Option<String>,
    management_advertise: Option<String>,
    allowed_hosts: Option<Vec<HostName>>,
    http_advertise: Option<String>,
    group_advertise: Option<String>,
    grpc_listen: Option<Endpoint>,
    engine_grpc: Option<Endpoint>,
    heartbeat: Option<HumanDuration>,
    election_timeout: Option<HumanDuration>,
    log_retain: Option<ByteSize>,
    log_max: Option<ByteSize>,
    snapshot_after: Option<ByteSize>,
    disk_reserve: Option<ByteSize>,
    read_lease: Option<bool>,
    shutdown_grace: Option<HumanDuration>,
}

/// Settings of the sidecar, all checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// Whether it may form a new cluster.
    pub bootstrap: bool,
    /// Management addresses of nodes to join, as given, without repetitions.
    pub join: Vec<String>,
    /// Routers that assign an empty node to a group, when there is nobody to join.
    pub routers: Vec<String>,
    /// Name of the group to be assigned to.
    pub group: Option<String>,
    /// The sidecar's own directory.
    pub dir: PathBuf,
    /// For peers.
    pub raft_listen: Endpoint,
    /// host:port others reach it by; `None` = the name and the port that was bound.
    pub raft_advertise: Option<String>,
    /// For operators.
    pub management_listen: Endpoint,
    /// host:port others reach it by; `None` = the name and the port that was bound.
    pub management_advertise: Option<String>,
    /// Host names by which browsers may send requests to the management port, beside the node's own.
    pub allowed_hosts: Vec<HostName>,
    /// host:port of the engine's HTTP API.
    pub http_advertise: String,
    /// host:port of the engine's Group service.
    pub group_advertise: String,
    /// For the engine.
    pub grpc_listen: Endpoint,
    /// Where the engine is.
    pub engine_grpc: Endpoint,
    /// Heartbeats and elections.
    pub timing: Timing,
    /// Whether reads may rely on the leader's lease.
    pub read_lease: bool,
    /// Bytes of log kept behind its end; `None` = by the size of the file system.
    pub log_retain: Option<u64>,
    /// Bytes of log beyond which nobody holds it back.
    pub log_max: u64,
    /// Bytes of log after which state is made durable; `None` = by the size of the file system.
    pub snapshot_after: Option<u64>,
    /// Free bytes below which the log is kept as short as can be; `None` = by the size of the file system.
    pub disk_reserve: Option<u64>,
    /// Graceful shutdown timeout.
    pub shutdown_grace: Duration,
    /// Log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// Directory of the node, of which the engine and the sidecar have a part each.
    pub fn data_dir(&self) -> &Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Flag over environment over file over default. Nothing is opened but the file.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let file: File = load_file(args.file.path())?;
        Self::merge(args, file)
    }

    fn merge(args: Args, file: File) -> Result<Self, ConfigError> {
        let table = file.sidecar;
        // Read so that their keys count as known; each process checks its own.
        drop((file.engine, file.router));

        let name = text(args.node_id, file.node_id)
            .ok_or_else(|| ConfigError::invalid("NODE_ID", "every node needs a name that is unique in its group"))?;
        check_name("NODE_ID", &name)?;
        let group = text(args.group, table.group);
        if let Some(group) = &group {
            check_name("RAFTKV_GROUP", group)?;
        }
        let data_dir = PathBuf::from(text(args.data_dir, file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned()));
        let socket = |file: &str| {
            Endpoint::unix(data_dir.join(file)).map_err(|error| ConfigError::invalid("RAFTKV_DATA_DIR", error))
        };
        let default_endpoint = |setting: &str, default: &str| {
            Endpoint::from_str(default).map_err(|error| ConfigError::invalid(setting, error))
        };

        let config = Self {
            bootstrap: switch("BOOTSTRAP", args.bootstrap, table.bootstrap)?.unwrap_or(false),
            join: addresses("JOIN_ADDR", args.join_addr, table.join_addr)?,
            routers: addresses("RAFTKV_ROUTER", args.router, table.router)?,
            group,
            dir: data_dir.join("sidecar"),
            raft_listen: match text(args.raft_listen, table.raft_listen) {
                Some(listen) => tcp("RAFTKV_RAFT_LISTEN", &listen)?,
                None => default_endpoint("RAFTKV_RAFT_LISTEN", DEFAULT_RAFT_LISTEN)?,
            },
            raft_advertise: advertised("RAFTKV_RAFT_ADVERTISE", text(args.raft_advertise, table.raft_advertise))?,
            management_listen: match text(args.management_listen, table.management_listen) {
                Some(listen) => tcp("RAFTKV_MANAGEMENT_LISTEN", &listen)?,
                None => default_endpoint("RAFTKV_MANAGEMENT_LISTEN", DEFAULT_MANAGEMENT_LISTEN)?,
            },
            management_advertise: advertised(
                "RAFTKV_MANAGEMENT_ADVERTISE",
                text(args.management_advertise, table.management_advertise),
            )?,
            allowed_hosts: allowed_hosts(args.allowed_hosts, table.allowed_hosts)?,
            http_advertise: advertised("RAFTKV_HTTP_ADVERTISE", text(args.http_advertise, table.http_advertise))?
                .unwrap_or_else(|| format!("{name}:{DEFAULT_HTTP_PORT}")),
            group_advertise: advertised("RAFTKV_GROUP_ADVERTISE", text(args.group_advertise, table.group_advertise))?
                .unwrap_or_else(|| format!("{name}:{DEFAULT_GROUP_PORT}")),
            grpc_listen: match parsed("RAFTKV_SIDECAR_GRPC_LISTEN", args.sidecar_grpc_listen, table.grpc_listen)? {
                Some(endpoint) => endpoint,
                None => socket("sidecar.sock")?,
            },
            engine_grpc: match parsed("RAFTKV_ENGINE_GRPC", args.engine_grpc, table.engine_grpc)? {
                Some(endpoint) => endpoint,
                None => socket("engine.sock")?,
            },
            timing: Timing::of(
                parsed("RAFTKV_HEARTBEAT", args.heartbeat, table.heartbeat)?.map(HumanDuration::get),
                parsed("RAFTKV_ELECTION_TIMEOUT", args.election_timeout, table.election_timeout)?
                    .map(HumanDuration::get),
            )?,
            read_lease: switch("RAFTKV_READ_LEASE", args.read_lease, table.read_lease)?.unwrap_or(true),
            log_retain: parsed("RAFTKV_LOG_RETAIN", args.log_retain, table.log_retain)?.map(|size| size.0),
            log_max: parsed("RAFTKV_LOG_MAX", args.log_max, table.log_max)?.unwrap_or(DEFAULT_LOG_MAX).0,
            snapshot_after: parsed("RAFTKV_SNAPSHOT_AFTER", args.snapshot_after, table.snapshot_after)?
                .map(|size| size.0),
            disk_reserve: parsed("RAFTKV_DISK_RESERVE", args.disk_reserve, table.disk_reserve)?.map(|size| size.0),
            shutdown_grace: parsed("RAFTKV_SHUTDOWN_GRACE", args.shutdown_grace, table.shutdown_grace)?
                .unwrap_or(DEFAULT_SHUTDOWN_GRACE)
                .get(),
            log: text(args.log, file.log).unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: log_format(args.log_format, file.log_format)?,
            name,
        };
        if config.log_retain.is_some_and(|retain| config.log_max < retain) {
            return Err(ConfigError::invalid("RAFTKV_LOG_MAX", "must not be less than RAFTKV_LOG_RETAIN"));
        }
        if config.snapshot_after == Some(0) {
            return Err(ConfigError::invalid("RAFTKV_SNAPSHOT_AFTER", "must not be zero"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(flags: &[&str]) -> Args {
        // Not through the environment: tests of one process share it.
        let mut args = Args::default();
        for flag in flags {
            let (key, value) = flag.split_once('=').expect("key=value");
            let value = Some(value.to_owned());
            match key {
                "node_id" => args.node_id = value,
                "bootstrap" => args.bootstrap = value,
                "join_addr" => args.join_addr = value,
                "data_dir" => args.data_dir = value,
                "raft_listen" => args.raft_listen = value,
                "raft_advertise" => args.raft_advertise = value,
                "election_timeout" => args.election_timeout = value,
                "log_retain" => args.log_retain = value,
                "log_max" => args.log_max = value,
                "read_lease" => args.read_lease = value,
                "engine_grpc" => args.engine_grpc = value,
                "router" => args.router = value,
                "allowed_hosts" => args.allowed_hosts = value,
                "group" => args.group = value,
                "group_advertise" => args.group_advertise = value,
                other => panic!("no such flag in this test: {other}"),
            }
        }
        args
    }

    fn refused(flags: &[&str]) -> String {
        Config::merge(args(flags), File::default()).expect_err("refused").to_string()
    }

    #[test]
    fn defaults_follow_from_the_name() {
        let config = Config::merge(args(&["node_id=node1"]), File::default()).expect("sound");
        assert_eq!(config.http_advertise, "node1:8080");
        assert_eq!(config.group_advertise, "node1:50053");
        assert_eq!(config.data_dir(), Path::new("/var/lib/raftkv"));
        assert!(config.routers.is_empty() && config.group.is_none());
        assert_eq!(config.engine_grpc.to_string(), "unix:/var/lib/raftkv/engine.sock");
        assert_eq!(config.grpc_listen.to_string(), "unix:/var/lib/raftkv/sidecar.sock");
        assert_eq!(config.dir, PathBuf::from("/var/lib/raftkv/sidecar"));
        assert!(!config.bootstrap && config.join.is_empty() && config.read_lease);
        let config = Config::merge(args(&["node_id=node1", "read_lease=off"]), File::default()).expect("sound");
        assert!(!config.read_lease);
        assert_eq!(config.timing, Timing::default());
    }

    #[test]
    fn a_flag_wins_over_the_file_and_an_empty_one_is_not_set() {
        let file = || File {
            node_id: Some("from-file".to_owned()),
            sidecar: Table {
                bootstrap: Some(true),
                join_addr: Some(vec!["a:6000".to_owned()]),
                log_retain: Some(ByteSize::mib(1)),
                ..Table::default()
            },
            ..File::default()
        };
        let config = Config::merge(args(&["bootstrap=", "join_addr="]), file()).expect("sound");
        assert_eq!((config.name.as_str(), config.bootstrap, config.log_retain), ("from-file", true, Some(1 << 20)));
        assert_eq!(config.join, ["a:6000"]);
        let config = Config::merge(args(&["node_id=n", "bootstrap=no", "log_retain=2MiB"]), file()).expect("sound");
        assert_eq!((config.name.as_str(), config.bootstrap, config.log_retain), ("n", false, Some(2 << 20)));
    }

    #[test]
    fn join_addresses_are_a_list_without_repetitions() {
        let config = Config::merge(args(&["node_id=n", "join_addr=a:6000, b:6000,,a:6000"]), File::default());
        assert_eq!(config.expect("sound").join, ["a:6000", "b:6000"]);
        let flags = ["node_id=n", "router=r1:8000, r2:8000,r1:8000", "group=g2", "group_advertise=n.example:50153"];
        let config = Config::merge(args(&flags), File::default()).expect("sound");
        assert_eq!(
            (config.routers.as_slice(), config.group.as_deref()),
            (&["r1:8000".to_owned(), "r2:8000".to_owned()][..], Some("g2"))
        );
        assert_eq!(config.group_advertise, "n.example:50153");
    }

    #[test]
    fn what_makes_no_sense_is_refused_and_named() {
        assert!(refused(&[]).contains("NODE_ID"));
        assert!(refused(&["node_id=a b"]).contains("NODE_ID"));
        assert!(refused(&["node_id=.."]).contains("NODE_ID"));
        assert!(refused(&["node_id=n", "raft_advertise=0.0.0.0:8088"]).contains("RAFTKV_RAFT_ADVERTISE"));
        assert!(refused(&["node_id=n", "group_advertise=[::]:50053"]).contains("RAFTKV_GROUP_ADVERTISE"));
        assert!(refused(&["node_id=n", "bootstrap=maybe"]).contains("BOOTSTRAP"));
        assert!(refused(&["node_id=n", "read_lease=maybe"]).contains("RAFTKV_READ_LEASE"));
        assert!(refused(&["node_id=n", "join_addr=node2"]).contains("JOIN_ADDR"));
        assert!(refused(&["node_id=n", "router=unix:/r"]).contains("RAFTKV_ROUTER"));
        assert!(refused(&["node_id=n", "group=a/b"]).contains("RAFTKV_GROUP"));
        assert!(refused(&["node_id=n", "group_advertise=n:0"]).contains("RAFTKV_GROUP_ADVERTISE"));
        assert!(refused(&["node_id=n", "raft_listen=unix:/a"]).contains("RAFTKV_RAFT_LISTEN"));
        assert!(refused(&["node_id=n", "raft_advertise=n:0"]).contains("RAFTKV_RAFT_ADVERTISE"));
        assert!(refused(&["node_id=n", "allowed_hosts=kv.example:80"]).contains("RAFTKV_ALLOWED_HOSTS"));
        assert!(refused(&["node_id=n", "election_timeout=5ms"]).contains("RAFTKV_ELECTION_TIMEOUT"));
        assert!(refused(&["node_id=n", "log_retain=2GiB"]).contains("RAFTKV_LOG_MAX"));
        assert!(refused(&["node_id=n", "log_max=lots"]).contains("RAFTKV_LOG_MAX"));
        assert!(refused(&["node_id=n", "engine_grpc=nowhere"]).contains("RAFTKV_ENGINE_GRPC"));
    }

    #[test]
    fn its_variables_are_known_to_the_other_programs() {
        let command = <Args as clap::CommandFactory>::command();
        for name in command.get_arguments().filter_map(clap::Arg::get_env) {
            assert!(name.to_str().is_some_and(raftkv_runtime::variables::is_known), "{name:?}");
        }
    }
}
