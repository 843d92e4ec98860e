//! [`Config`]: the settings of the engine, checked before any socket opens.

use std::path::PathBuf;

use raftkv_http::limits::NODE_CONNECTIONS;
use raftkv_http::{Door, DoorArgs, DoorSettings};
use raftkv_runtime::config::{ByteSize, ConfigError, ConfigFile, HumanDuration, load_file};
use raftkv_runtime::grpc::Endpoint;
use raftkv_runtime::guard::HostName;
use raftkv_runtime::settings::{addresses, advertised, check_name, host_name, log_format, parsed, tcp, text};
use raftkv_runtime::telemetry::LogFormat;

/// Default directory for the persistent data of both processes of a node.
const DEFAULT_DATA_DIR: &str = "/var/lib/raftkv";
/// Default node name on a machine without a host name.
const DEFAULT_NAME: &str = "node1";
/// Clients may connect on every interface.
const DEFAULT_HTTP_LISTEN: &str = "0.0.0.0:8080";
/// Routers may connect on every interface.
const DEFAULT_GROUP_LISTEN: &str = "0.0.0.0:50053";
/// Holds the hot keys of a small node; cache, memtables and in-flight requests must fit in a few hundred megabytes.
const DEFAULT_CACHE: ByteSize = ByteSize::mib(64);
/// RaftKV logs at info; the storage engine only warnings. The store itself reports compaction results, since a
/// compaction without enough disk space is not an error.
const DEFAULT_LOG: &str = "info,fjall=warn,lsm_tree=warn,lsm_tree::compaction::worker=off";
/// With a smaller cache every read would go to the disk.
const LEAST_CACHE_BYTES: u64 = 1024 * 1024;

/// The storage engine process of a RaftKV node: the data and the HTTP API.
///
/// Every setting is a flag, an environment variable or a key of the TOML file, in this order. Keys shared by both
/// processes of a node (node_id, data_dir, log, log_format) are at the top of the file, the others in the table
/// `[engine]`. Sizes are written as 512MiB or 1g, times as 5s or 250ms.
#[derive(Debug, Clone, Default, clap::Parser)]
#[command(name = "raftkv-engine", version)]
pub struct Args {
    #[command(flatten)]
    file: ConfigFile,
    /// Name of this node, unique in the group. [default: the host name]
    #[arg(long, env = "NODE_ID")]
    node_id: Option<String>,
    /// Directory of the node's data; the engine's is DATA_DIR/engine. [default: /var/lib/raftkv]
    #[arg(long, env = "RAFTKV_DATA_DIR")]
    data_dir: Option<String>,
    /// Listen address for clients. [default: 0.0.0.0:8080]
    #[arg(long, env = "RAFTKV_HTTP_LISTEN")]
    http_listen: Option<String>,
    /// Address of this node for clients and routers. [default: NODE_ID:port]
    #[arg(long, env = "RAFTKV_HTTP_ADVERTISE")]
    http_advertise: Option<String>,
    /// Listen address for routers. [default: 0.0.0.0:50053]
    #[arg(long, env = "RAFTKV_GROUP_LISTEN")]
    group_listen: Option<String>,
    /// Routers (host:port, comma separated) to serve requests for keys of other groups. [default: none, such requests
    /// are answered 421]
    #[arg(long, env = "RAFTKV_ROUTER")]
    router: Option<String>,
    /// Listen address for the sidecar: unix:PATH or host:port. [default: unix:DATA_DIR/engine.sock]
    #[arg(long, env = "RAFTKV_ENGINE_GRPC_LISTEN")]
    engine_grpc_listen: Option<String>,
    /// Address of the sidecar: unix:PATH or host:port. [default: unix:DATA_DIR/sidecar.sock]
    #[arg(long, env = "RAFTKV_SIDECAR_GRPC")]
    sidecar_grpc: Option<String>,
    /// Free disk space below which values are refused (507) and only deletes work. [default: 5 % of the file system, at
    /// most 512MiB; on one below 1.25GiB 64MiB, at most an eighth]
    #[arg(long, env = "RAFTKV_DISK_RESERVE")]
    disk_reserve: Option<String>,
    /// Memory for the store's block cache. [default: 64MiB]
    #[arg(long, env = "RAFTKV_CACHE_BYTES")]
    cache_bytes: Option<String>,
    #[command(flatten)]
    door: DoorArgs,
    /// Log filter, as in RUST_LOG. [default: info, the storage engine warn]
    #[arg(long, env = "RAFTKV_LOG")]
    log: Option<String>,
    /// Log lines as text or json. [default: text]
    #[arg(long, env = "RAFTKV_LOG_FORMAT")]
    log_format: Option<String>,
}

/// The TOML file: the keys of both processes. Each process checks only its own keys.
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
    allowed_hosts: Option<Vec<HostName>>,
    shutdown_grace: Option<HumanDuration>,
}

/// Validated settings of the engine.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the node.
    pub name: String,
    /// Directory of the engine.
    pub dir: PathBuf,
    /// Listen address for clients.
    pub http_listen: Endpoint,
    /// Address for clients as host:port; `None` = the node name and the bound port.
    pub http_advertise: Option<String>,
    /// Listen address for routers.
    pub group_listen: Endpoint,
    /// Routers answering for other groups, as host:port.
    pub routers: Vec<String>,
    /// Listen address for the sidecar.
    pub grpc_listen: Endpoint,
    /// Address of the sidecar.
    pub sidecar_grpc: Endpoint,
    /// Bytes of disk kept free; `None` = by the size of the file system.
    pub disk_reserve: Option<u64>,
    /// Bytes of the store's block cache.
    pub cache_bytes: u64,
    /// Settings of the HTTP server.
    pub door: Door,
    /// Log filter.
    pub log: String,
    /// Format of log lines.
    pub log_format: LogFormat,
}

impl Config {
    /// Data directory of the node, with a subdirectory each for the engine and the sidecar.
    pub fn data_dir(&self) -> &std::path::Path {
        self.dir.parent().unwrap_or(&self.dir)
    }

    /// Merges the settings: flag over environment over file over default. Opens no file but the TOML file.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is invalid; the message names the setting.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let file: File = load_file(args.file.path())?;
        Self::merge(args, file)
    }

    fn merge(args: Args, file: File) -> Result<Self, ConfigError> {
        let table = file.engine;
        // Declared so their keys count as known; each process checks its own.
        drop((file.sidecar, file.router));

        let name = text(args.node_id, file.node_id).or_else(host_name).unwrap_or_else(|| DEFAULT_NAME.to_owned());
        check_name("NODE_ID", &name)?;
        let data_dir = PathBuf::from(text(args.data_dir, file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.to_owned()));
        let socket = |file: &str| {
            Endpoint::unix(data_dir.join(file)).map_err(|error| ConfigError::invalid("RAFTKV_DATA_DIR", error))
        };
        let http_listen = text(args.http_listen, table.http_listen).unwrap_or_else(|| DEFAULT_HTTP_LISTEN.to_owned());
        let group_listen =
            text(args.group_listen, table.group_listen).unwrap_or_else(|| DEFAULT_GROUP_LISTEN.to_owned());
        let cache_bytes = parsed("RAFTKV_CACHE_BYTES", args.cache_bytes, table.cache_bytes)?.unwrap_or(DEFAULT_CACHE).0;
        let door = DoorSettings {
            max_key_bytes: table.max_key_bytes,
            max_value_bytes: table.max_value_bytes,
            max_connections: table.max_connections,
            request_timeout: table.request_timeout,
            max_request_timeout: table.max_request_timeout,
            allowed_hosts: table.allowed_hosts,
            shutdown_grace: table.shutdown_grace,
        };
        let door = Door::check(args.door.over(door)?, NODE_CONNECTIONS)?;

        if cache_bytes < LEAST_CACHE_BYTES {
            let reason = format!("must be at least {}", ByteSize(LEAST_CACHE_BYTES));
            return Err(ConfigError::invalid("RAFTKV_CACHE_BYTES", reason));
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
            door,
            log: text(args.log, file.log).unwrap_or_else(|| DEFAULT_LOG.to_owned()),
            log_format: log_format(args.log_format, file.log_format)?,
            name,
        })
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
