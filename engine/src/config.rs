//! [`Config`]: what the engine is told, checked before any socket opens.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use raftkv_kv::Limits;
use raftkv_runtime::config::{ByteSize, ConfigError, ConfigFile, HumanDuration, load_file};
use raftkv_runtime::grpc::Endpoint;
use raftkv_runtime::telemetry::LogFormat;

/// Where both processes of a node keep what must survive.
const DEFAULT_DATA_DIR: &str = "/var/lib/raftkv";
/// The name of a node that nobody named, on a machine without a host name.
const DEFAULT_NAME: &str = "node1";
/// Clients reach every interface.
const DEFAULT_HTTP_LISTEN: &str = "0.0.0.0:8080";
/// Routers reach every interface.
const DEFAULT_GROUP_LISTEN: &str = "0.0.0.0:50053";
/// The hot keys of a small node; beside it the memtables and what is in flight must fit in a few hundred megabytes.
const DEFAULT_CACHE: ByteSize = ByteSize::mib(64);
/// More clients than a node serves fast; each costs some kilobytes while it is idle. Needs as many file descriptors.
const DEFAULT_MAX_CONNECTIONS: usize = 4_096;
/// Several elections: a client that does not say how long it waits gets over a change of the leader.
const DEFAULT_REQUEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(5);
/// Nobody may hold memory here for longer, whatever it asks for.
const DEFAULT_MAX_REQUEST_TIMEOUT: HumanDuration = HumanDuration::from_secs(60);
/// Long enough to answer what is in flight, shorter than the ten seconds Docker gives.
const DEFAULT_SHUTDOWN_GRACE: HumanDuration = HumanDuration::from_secs(8);
/// Our own story in full; the storage engine's only where something is wrong.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn";
/// The storage engine keeps the length of a key in 16 bits, and puts a few bytes of its own in front.
const MOST_KEY_BYTES: u64 = 60 * 1024;
/// A value travels in one log entry, of which the sidecar takes 16 MiB at most; half of it leaves room to spare.
const MOST_VALUE_BYTES: u64 = 8 * 1024 * 1024;
/// A cache smaller than this makes each read a read of the disk.
const LEAST_CACHE_BYTES: u64 = 1024 * 1024;
/// Names become host names and labels.
const MAX_NAME_BYTES: usize = 128;

/// The storage engine process of a RaftKV node: the data and the HTTP API.
///
/// Every setting is a flag, an environment variable or a key of the TOML file, in this order. Keys that both processes
/// of a node share (node_id, data_dir, log, log_format) are at the top of the file, the others in the table `[engine]`.
/// Sizes are written as 512MiB or 1g, times as 5s or 250ms.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "raftkv-engine", version)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Name of this node, unique in its group. [default: the host name]
    #[arg(long, env = "NODE_ID")]
    node_id: Option<String>,
    /// Directory of the node's data; the engine's is DATA_DIR/engine. [default: /var/lib/raftkv]
    #[arg(long, env = "RAFTKV_DATA_DIR")]
    data_dir: Option<String>,
    /// Where to listen for clients. [default: 0.0.0.0:8080]
    #[arg(long, env = "RAFTKV_HTTP_LISTEN")]
    http_listen: Option<String>,
    /// How clients and routers reach it. [default: NODE_ID:port]
    #[arg(long, env = "RAFTKV_HTTP_ADVERTISE")]
    http_advertise: Option<String>,
    /// Where to listen for routers. [default: 0.0.0.0:50053]
    #[arg(long, env = "RAFTKV_GROUP_LISTEN")]
    group_listen: Option<String>,
    /// Routers (host:port, comma separated) that requests for keys of other groups are passed on to. [default: none, such
    /// requests are answered 421]
    #[arg(long, env = "RAFTKV_ROUTER")]
    router: Option<String>,
    /// Where to listen for the sidecar: unix:PATH or host:port. [default: unix:DATA_DIR/engine.sock]
    #[arg(long, env = "RAFTKV_ENGINE_GRPC_LISTEN")]
    engine_grpc_listen: Option<String>,
    /// Where the sidecar listens: unix:PATH or host:port. [default: unix:DATA_DIR/sidecar.sock]
    #[arg(long, env = "RAFTKV_SIDECAR_GRPC")]
    sidecar_grpc: Option<String>,
    /// Free disk space below which values are refused (507) and only deletes work. [default: 512MiB, or 5 % of a smaller
    /// file system]
    #[arg(long, env = "RAFTKV_DISK_RESERVE")]
    disk_reserve: Option<String>,
    /// Memory for blocks of the store that were read. [default: 64MiB]
    #[arg(long, env = "RAFTKV_CACHE_BYTES")]
    cache_bytes: Option<String>,
    /// Longest key (413 beyond it). [default: 4KiB]
    #[arg(long, env = "RAFTKV_MAX_KEY_BYTES")]
    max_key_bytes: Option<String>,
    /// Largest value, as encoded MsgPack (413 beyond it). [default: 1MiB]
    #[arg(long, env = "RAFTKV_MAX_VALUE_BYTES")]
    max_value_bytes: Option<String>,
    /// Client connections served at once; more wait to be accepted. [default: 4096]
    #[arg(long, env = "RAFTKV_MAX_CONNECTIONS")]
    max_connections: Option<String>,
    /// How long a request may take that does not say so itself. [default: 5s]
    #[arg(long, env = "RAFTKV_REQUEST_TIMEOUT")]
    request_timeout: Option<String>,
    /// How long a request may ask for. [default: 1m]
    #[arg(long, env = "RAFTKV_MAX_REQUEST_TIMEOUT")]
    max_request_timeout: Option<String>,
    /// Time to answer what is in flight when asked to stop. [default: 8s]
    #[arg(long, env = "RAFTKV_SHUTDOWN_GRACE")]
    shutdown_grace: Option<String>,
    /// Log filter, as in RUST_LOG. [default: info,fjall=warn,lsm_tree=warn]
    #[arg(long, env = "RAFTKV_LOG")]
    log: Option<String>,
    /// Log lines as text or json. [default: text]
    #[arg(long, env = "RAFTKV_LOG_FORMAT")]
    log_format: Option<String>,
}

/// The TOML file: the keys of both processes. What is the sidecar's or a router's is theirs to check.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct File {
    node_id: Option<String>,
    data_dir: Option<String>,
    log: Option<String>,
    log_format: Option<String>,
    engine: Table,
    sidecar: Option<serde_json::Value>,
    router: Option<serde_json::Value>,
}

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct Table {
    http_listen: Option<String>,
    http_advertise: Option<String>,
    group_listen: Option<String>,
    router: Option<Vec<String>>,
    grpc_listen: Option<Endpoint>,
    sidecar_grpc: Option<Endpoint>,
    disk_reserve: Option<ByteSize>,
    cache_bytes: Option<ByteSize>,
    max_key_bytes: Option<ByteSize>,
    max_value_bytes: Option<ByteSize>,
    max_connections: Option<usize>,
    request_timeout: Option<HumanDuration>,
    max_request_timeout: Option<HumanDuration>,
    shutdown_grace: Option<HumanDuration>,
}

/// Settings of the engine, all checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's name.
    pub name: String,
    /// The engine's own directory.
    pub dir: PathBuf,
    /// For clients.
    pub http_listen: Endpoint,
    /// host:port clients reach it by; `None` = the name and the port that was bound.
    pub http_advertise: Option<String>,
    /// For routers.
    pub group_listen: Endpoint,
    /// host:port of routers that answer for other groups.
    pub routers: Vec<String>,
    /// For the sidecar.
    pub grpc_listen: Endpoint,
    /// Where the sidecar is.
    pub sidecar_grpc: Endpoint,
    /// Bytes of disk kept free; `None` = by the size of the file system.
    pub disk_reserve: Option<u64>,
    /// Bytes of the store's block cache.
    pub cache_bytes: u64,
    /// What a request may hold.
    pub limits: Limits,
    /// Client connections at once.
    pub max_connections: usize,
    /// Of requests that name no deadline.
    pub request_timeout: Duration,
    /// The longest a request may name.
    pub max_request_timeout: Duration,
    /// Time to stop in peace.
    pub shutdown_grace: Duration,
    /// Log filter.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

impl Config {
    /// Directory of the node, of which the engine and the sidecar have a part each.
    pub fn data_dir(&self) -> &std::path::Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Flag over environment over file over default. Nothing is opened but the file.
    ///
    /// # Errors
    /// When the file cannot be read or a setting makes no sense; the message names it.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let file: File = load_file(args.file.path())?;
        Self::merge(args, file)
    }

    fn merge(args: Args, file: File) -> Result<Self, ConfigError> {
        let table = file.engine;
        // Read so that their keys count as known; each process checks its own.
        drop((file.sidecar, file.router));

        let name = text(args.node_id, file.node_id).or_else(host_name).unwrap_or_else(|| DEFAULT_NAME.to_owned());
        check_name(&name)?;
        let data_dir = PathBuf::from(text(args.data_dir, file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned()));
        let socket = |file: &str| {
            Endpoint::unix(data_dir.join(file)).map_err(|error| ConfigError::invalid("RAFTKV_DATA_DIR", error))
        };
        let http_listen = text(args.http_listen, table.http_listen).unwrap_or_else(|| DEFAULT_HTTP_LISTEN.to_owned());
        let group_listen =
            text(args.group_listen, table.group_listen).unwrap_or_else(|| DEFAULT_GROUP_LISTEN.to_owned());
        let request_timeout = parsed("RAFTKV_REQUEST_TIMEOUT", args.request_timeout, table.request_timeout)?
            .unwrap_or(DEFAULT_REQUEST_TIMEOUT)
            .get();
        let max_request_timeout =
            parsed("RAFTKV_MAX_REQUEST_TIMEOUT", args.max_request_timeout, table.max_request_timeout)?
                .unwrap_or(DEFAULT_MAX_REQUEST_TIMEOUT)
                .get();
        let cache_bytes = parsed("RAFTKV_CACHE_BYTES", args.cache_bytes, table.cache_bytes)?.unwrap_or(DEFAULT_CACHE).0;
        let max_connections = parsed("RAFTKV_MAX_CONNECTIONS", args.max_connections, table.max_connections)?
            .unwrap_or(DEFAULT_MAX_CONNECTIONS);

        if request_timeout.is_zero() {
            return Err(ConfigError::invalid("RAFTKV_REQUEST_TIMEOUT", "must not be zero"));
        }
        if max_request_timeout < request_timeout {
            let reason = "must not be less than RAFTKV_REQUEST_TIMEOUT";
            return Err(ConfigError::invalid("RAFTKV_MAX_REQUEST_TIMEOUT", reason));
        }
        if cache_bytes < LEAST_CACHE_BYTES {
            let reason = format!("must be at least {}", ByteSize(LEAST_CACHE_BYTES));
            return Err(ConfigError::invalid("RAFTKV_CACHE_BYTES", reason));
        }
        if max_connections == 0 {
            return Err(ConfigError::invalid("RAFTKV_MAX_CONNECTIONS", "must not be zero"));
        }

        Ok(Self {
            dir: data_dir.join("engine"),
            http_listen: tcp("RAFTKV_HTTP_LISTEN", &http_listen)?,
            http_advertise: advertised("RAFTKV_HTTP_ADVERTISE", text(args.http_advertise, table.http_advertise))?,
            group_listen: tcp("RAFTKV_GROUP_LISTEN", &group_listen)?,
            routers: addresses("RAFTKV_ROUTER", args.router, table.router)?,
            grpc_listen: match parsed("RAFTKV_ENGINE_GRPC_LISTEN", args.engine_grpc_listen, table.grpc_listen)? {
                Some(endpoint) => endpoint,
                None => socket("engine.sock")?,
            },
            sidecar_grpc: match parsed("RAFTKV_SIDECAR_GRPC", args.sidecar_grpc, table.sidecar_grpc)? {
                Some(endpoint) => endpoint,
                None => socket("sidecar.sock")?,
            },
            disk_reserve: parsed("RAFTKV_DISK_RESERVE", args.disk_reserve, table.disk_reserve)?.map(|size| size.0),
            cache_bytes,
            limits: limits(
                parsed("RAFTKV_MAX_KEY_BYTES", args.max_key_bytes, table.max_key_bytes)?,
                parsed("RAFTKV_MAX_VALUE_BYTES", args.max_value_bytes, table.max_value_bytes)?,
            )?,
            max_connections,
            request_timeout,
            max_request_timeout,
            shutdown_grace: parsed("RAFTKV_SHUTDOWN_GRACE", args.shutdown_grace, table.shutdown_grace)?
                .unwrap_or(DEFAULT_SHUTDOWN_GRACE)
                .get(),
            log: text(args.log, file.log).unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: match text(args.log_format, file.log_format) {
                Some(format) => <LogFormat as clap::ValueEnum>::from_str(&format, true).map_err(|_| {
                    ConfigError::invalid("RAFTKV_LOG_FORMAT", format!("{format:?} is neither text nor json"))
                })?,
                None => LogFormat::default(),
            },
            name,
        })
    }
}

/// An empty variable in a compose file means "not set".
fn text(flag: Option<String>, file: Option<String>) -> Option<String> {
    let set = |value: Option<String>| value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    set(flag).or_else(|| set(file))
}

fn parsed<T: FromStr<Err: std::fmt::Display>>(
    setting: &str,
    flag: Option<String>,
    file: Option<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = text(flag, None) else { return Ok(file) };
    let read = value.parse().map_err(|error| ConfigError::invalid(setting, format!("{value:?}: {error}")))?;
    Ok(Some(read))
}

fn host_name() -> Option<String> {
    text(std::fs::read_to_string("/proc/sys/kernel/hostname").ok(), None)
}

fn check_name(name: &str) -> Result<(), ConfigError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() <= MAX_NAME_BYTES && name.chars().all(sound) {
        return Ok(());
    }
    let reason = format!("{name:?}: at most {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores");
    Err(ConfigError::invalid("NODE_ID", reason))
}

fn addresses(setting: &str, flag: Option<String>, file: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let given = match text(flag, None) {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => file.unwrap_or_default(),
    };
    let named = given.iter().map(|address| address.trim()).filter(|address| !address.is_empty());
    named.map(|address| advertised(setting, Some(address.to_owned())).map(Option::unwrap_or_default)).collect()
}

fn tcp(setting: &str, address: &str) -> Result<Endpoint, ConfigError> {
    match address.parse() {
        Ok(endpoint @ Endpoint::Tcp(_)) => Ok(endpoint),
        Ok(Endpoint::Unix(_)) => Err(ConfigError::invalid(setting, "other machines cannot reach a Unix socket")),
        Err(error) => Err(ConfigError::invalid(setting, error)),
    }
}

fn advertised(setting: &str, address: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(address) = address else { return Ok(None) };
    tcp(setting, &address)?;
    if address.ends_with(":0") {
        return Err(ConfigError::invalid(setting, format!("{address:?}: nobody can reach port 0")));
    }
    Ok(Some(address))
}

fn limits(key: Option<ByteSize>, value: Option<ByteSize>) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    if let Some(ByteSize(bytes)) = key {
        limits.max_key_bytes = sized("RAFTKV_MAX_KEY_BYTES", bytes, MOST_KEY_BYTES)?;
    }
    if let Some(ByteSize(bytes)) = value {
        limits.max_value_bytes = sized("RAFTKV_MAX_VALUE_BYTES", bytes, MOST_VALUE_BYTES)?;
    }
    // What may be put alone may be put in a batch.
    limits.max_batch_bytes = limits.max_batch_bytes.max(limits.max_key_bytes + limits.max_value_bytes);
    Ok(limits)
}

fn sized(setting: &str, bytes: u64, most: u64) -> Result<usize, ConfigError> {
    match usize::try_from(bytes) {
        Ok(size) if (1..=most).contains(&bytes) => Ok(size),
        _ => Err(ConfigError::invalid(setting, format!("must be between 1 and {most} bytes"))),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
