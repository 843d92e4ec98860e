//! [`Door`]: the settings that every process with an HTTP front door has, under the same names: flags and environment
//! variables as [`DoorArgs`], with the file's as [`DoorSettings`].

use std::sync::Arc;
use std::time::Duration;

use raftkv_kv::Limits;
use raftkv_runtime::config::{ByteSize, ConfigError, HumanDuration};
use raftkv_runtime::guard::{HostName, Hosts};
use raftkv_runtime::metrics;
use raftkv_runtime::scrapes::Scrapes;
use raftkv_runtime::settings::{allowed_hosts, bytes_within, parsed};

use crate::config::{ApiConfig, DEFAULT_TIMEOUT, MAX_TIMEOUT};
use crate::limits::HttpLimits;

/// Long enough to answer what is in flight, shorter than the ten seconds Docker gives.
const DEFAULT_SHUTDOWN_GRACE: Duration = Duration::from_secs(8);
/// The storage engine keeps the length of a key in 16 bits, and puts a few bytes of its own in front.
const MOST_KEY_BYTES: u64 = 60 * 1024;
/// A value travels in one log entry, of which the sidecar takes 16 MiB at most; half of it leaves room to spare.
const MOST_VALUE_BYTES: u64 = 8 * 1024 * 1024;

/// The flags and environment variables of the settings.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct DoorArgs {
    /// Longest key (413 beyond it); the same on all nodes and routers. [default: 4KiB]
    #[arg(long, env = "RAFTKV_MAX_KEY_BYTES")]
    max_key_bytes: Option<String>,
    /// Largest value, as encoded MsgPack (413 beyond it); the same on all nodes and routers. [default: 1MiB]
    #[arg(long, env = "RAFTKV_MAX_VALUE_BYTES")]
    max_value_bytes: Option<String>,
    /// Client connections served at once; more wait to be accepted. [default: 4096, of a router 8192]
    #[arg(long, env = "RAFTKV_MAX_CONNECTIONS")]
    max_connections: Option<String>,
    /// How long a request may take that does not say so itself. [default: 5s]
    #[arg(long, env = "RAFTKV_REQUEST_TIMEOUT")]
    request_timeout: Option<String>,
    /// The longest `?timeout=` that a request may ask for; a longer one is refused. [default: 1m]
    #[arg(long, env = "RAFTKV_MAX_REQUEST_TIMEOUT")]
    max_request_timeout: Option<String>,
    /// Host names (comma separated) by which browsers may send requests, beside addresses, localhost, names without a dot and the
    /// process's own; other requests of browsers are refused (403). [default: none]
    #[arg(long, env = "RAFTKV_ALLOWED_HOSTS")]
    allowed_hosts: Option<String>,
    /// Time to answer what is in flight when asked to stop. [default: 8s]
    #[arg(long, env = "RAFTKV_SHUTDOWN_GRACE")]
    shutdown_grace: Option<String>,
}

impl DoorArgs {
    /// These, and the file's where they say nothing.
    ///
    /// # Errors
    /// When one cannot be read; the message names it.
    pub fn over(self, file: DoorSettings) -> Result<DoorSettings, ConfigError> {
        let (longest, max_request_timeout) = ("RAFTKV_MAX_REQUEST_TIMEOUT", self.max_request_timeout);
        Ok(DoorSettings {
            max_key_bytes: parsed("RAFTKV_MAX_KEY_BYTES", self.max_key_bytes, file.max_key_bytes)?,
            max_value_bytes: parsed("RAFTKV_MAX_VALUE_BYTES", self.max_value_bytes, file.max_value_bytes)?,
            max_connections: parsed("RAFTKV_MAX_CONNECTIONS", self.max_connections, file.max_connections)?,
            request_timeout: parsed("RAFTKV_REQUEST_TIMEOUT", self.request_timeout, file.request_timeout)?,
            max_request_timeout: parsed(longest, max_request_timeout, file.max_request_timeout)?,
            allowed_hosts: Some(allowed_hosts(self.allowed_hosts, file.allowed_hosts)?),
            shutdown_grace: parsed("RAFTKV_SHUTDOWN_GRACE", self.shutdown_grace, file.shutdown_grace)?,
        })
    }
}

/// As given; what is `None` has its default.
#[derive(Debug, Clone, Default)]
pub struct DoorSettings {
    /// `RAFTKV_MAX_KEY_BYTES`: longest key.
    pub max_key_bytes: Option<ByteSize>,
    /// `RAFTKV_MAX_VALUE_BYTES`: largest value, as encoded MsgPack.
    pub max_value_bytes: Option<ByteSize>,
    /// `RAFTKV_MAX_CONNECTIONS`: client connections served at once.
    pub max_connections: Option<usize>,
    /// `RAFTKV_REQUEST_TIMEOUT`: of requests that name no deadline.
    pub request_timeout: Option<HumanDuration>,
    /// `RAFTKV_MAX_REQUEST_TIMEOUT`: the longest a request may name.
    pub max_request_timeout: Option<HumanDuration>,
    /// `RAFTKV_ALLOWED_HOSTS`: host names by which browsers may send requests.
    pub allowed_hosts: Option<Vec<HostName>>,
    /// `RAFTKV_SHUTDOWN_GRACE`: graceful shutdown timeout.
    pub shutdown_grace: Option<HumanDuration>,
}

/// The same, checked.
#[derive(Debug, Clone)]
pub struct Door {
    /// What a request may hold.
    pub limits: Limits,
    /// Client connections at once.
    pub max_connections: usize,
    /// Of requests that name no deadline.
    pub request_timeout: Duration,
    /// The longest a request may name.
    pub max_request_timeout: Duration,
    /// Host names by which browsers may send requests, beside the process's own.
    pub allowed_hosts: Vec<HostName>,
    /// Graceful shutdown timeout.
    pub shutdown_grace: Duration,
}

impl Door {
    /// Where nothing else is given, `max_connections` are served at once.
    ///
    /// # Errors
    /// When a setting makes no sense; the message names it.
    pub fn check(given: DoorSettings, max_connections: usize) -> Result<Self, ConfigError> {
        let or = |given: Option<HumanDuration>, default| given.map_or(default, HumanDuration::get);
        let door = Self {
            limits: limits(given.max_key_bytes, given.max_value_bytes)?,
            max_connections: given.max_connections.unwrap_or(max_connections),
            request_timeout: or(given.request_timeout, DEFAULT_TIMEOUT),
            max_request_timeout: or(given.max_request_timeout, MAX_TIMEOUT),
            allowed_hosts: given.allowed_hosts.unwrap_or_default(),
            shutdown_grace: or(given.shutdown_grace, DEFAULT_SHUTDOWN_GRACE),
        };
        if door.request_timeout.is_zero() {
            return Err(ConfigError::invalid("RAFTKV_REQUEST_TIMEOUT", "must not be zero"));
        }
        if door.max_request_timeout < door.request_timeout {
            let reason = "must not be less than RAFTKV_REQUEST_TIMEOUT";
            return Err(ConfigError::invalid("RAFTKV_MAX_REQUEST_TIMEOUT", reason));
        }
        if door.max_connections == 0 {
            return Err(ConfigError::invalid("RAFTKV_MAX_CONNECTIONS", "must not be zero"));
        }
        Ok(door)
    }

    /// What the surfaces are told, with this process's metrics.
    pub fn api_config(&self) -> ApiConfig {
        ApiConfig {
            limits: self.limits.clone(),
            default_timeout: self.request_timeout,
            max_timeout: self.max_request_timeout,
            metrics: Some(Arc::new(Scrapes::new(metrics::render))),
        }
    }

    /// What connections and requests are held to. `advertised` are the process's own names and addresses (`host:port`): browsers may
    /// send requests to these hosts.
    pub fn http_limits<'a>(&self, advertised: impl IntoIterator<Item = &'a str>) -> HttpLimits {
        let defaults = HttpLimits::default();
        HttpLimits {
            max_connections: self.max_connections,
            // JSON needs more bytes than what it says.
            max_body_bytes: defaults.max_body_bytes.max(2 * self.limits.max_batch_bytes),
            drain_timeout: self.shutdown_grace,
            hosts: Hosts::new(advertised, &self.allowed_hosts),
            ..defaults
        }
    }
}

fn limits(key: Option<ByteSize>, value: Option<ByteSize>) -> Result<Limits, ConfigError> {
    let mut limits = Limits::default();
    if let Some(ByteSize(bytes)) = key {
        limits.max_key_bytes = bytes_within("RAFTKV_MAX_KEY_BYTES", bytes, MOST_KEY_BYTES)?;
    }
    if let Some(ByteSize(bytes)) = value {
        limits.max_value_bytes = bytes_within("RAFTKV_MAX_VALUE_BYTES", bytes, MOST_VALUE_BYTES)?;
    }
    // What may be put alone may be put in a batch.
    limits.max_batch_bytes = limits.max_batch_bytes.max(limits.max_key_bytes + limits.max_value_bytes);
    Ok(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_given_has_its_default() {
        let door = Door::check(DoorSettings::default(), 7).unwrap();
        assert_eq!((door.max_connections, door.limits.clone()), (7, Limits::default()));
        assert_eq!(door.api_config().max_timeout, MAX_TIMEOUT);
        assert_eq!(door.http_limits([]).drain_timeout, DEFAULT_SHUTDOWN_GRACE);
    }

    #[test]
    fn what_may_be_put_alone_may_be_put_in_a_batch_and_fits_a_body() {
        let given = DoorSettings { max_value_bytes: Some(ByteSize(MOST_VALUE_BYTES)), ..DoorSettings::default() };
        let door = Door::check(given, 7).unwrap();
        assert!(door.limits.max_batch_bytes > door.limits.max_value_bytes);
        assert!(door.http_limits([]).max_body_bytes >= 2 * door.limits.max_batch_bytes);
    }

    #[test]
    fn browsers_may_use_the_processs_own_names_and_those_that_are_allowed() {
        let args = DoorArgs { allowed_hosts: Some("kv.example".to_owned()), ..DoorArgs::default() };
        let given = args.over(DoorSettings::default()).unwrap();
        let hosts = Door::check(given, 7).unwrap().http_limits(["node1.example:8080"]).hosts;
        assert!(hosts.admits("kv.example") && hosts.admits("node1.example") && !hosts.admits("node2.example"));
        let args = DoorArgs { allowed_hosts: Some("kv.example:80".to_owned()), ..DoorArgs::default() };
        let error = args.over(DoorSettings::default()).unwrap_err().to_string();
        assert!(error.starts_with("RAFTKV_ALLOWED_HOSTS: "), "{error}");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let none = DoorSettings::default;
        let cases = [
            (DoorSettings { max_key_bytes: Some(ByteSize(0)), ..none() }, "RAFTKV_MAX_KEY_BYTES"),
            (DoorSettings { max_value_bytes: Some(ByteSize::gib(1)), ..none() }, "RAFTKV_MAX_VALUE_BYTES"),
            (DoorSettings { max_connections: Some(0), ..none() }, "RAFTKV_MAX_CONNECTIONS"),
            (DoorSettings { request_timeout: Some(HumanDuration::from_secs(0)), ..none() }, "RAFTKV_REQUEST_TIMEOUT"),
            (
                DoorSettings { max_request_timeout: Some(HumanDuration::from_secs(1)), ..none() },
                "RAFTKV_MAX_REQUEST_TIMEOUT",
            ),
        ];
        for (given, setting) in cases {
            let error = Door::check(given, 7).unwrap_err().to_string();
            assert!(error.starts_with(setting), "{error}");
        }
    }
}
