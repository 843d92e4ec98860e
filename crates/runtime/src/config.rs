//! Configuration: flag over environment over TOML file over default.
//!
//! A process has two structs of `Option` fields. One derives `clap::Args` with `env = "…"` on each field, so that a
//! flag wins over the environment; the other derives `serde::Deserialize` and is the file. Resolving is then one line
//! a setting:
//!
//! ```
//! use raftkv_runtime::config::{self, ConfigFile, HumanDuration};
//!
//! #[derive(clap::Parser)]
//! struct Args {
//!     #[command(flatten)]
//!     config: ConfigFile,
//!     #[arg(long, env = "EXAMPLE_DEADLINE")]
//!     deadline: Option<HumanDuration>,
//! }
//!
//! #[derive(Default, serde::Deserialize)]
//! #[serde(default)]
//! struct File {
//!     deadline: Option<HumanDuration>,
//! }
//!
//! const DEFAULT_DEADLINE: HumanDuration = HumanDuration::from_secs(5);
//!
//! let args = <Args as clap::Parser>::parse_from(["example"]);
//! let file: File = config::load_file(args.config.path())?;
//! let deadline = args.deadline.or(file.deadline).unwrap_or(DEFAULT_DEADLINE);
//! assert_eq!(deadline.to_string(), "5s");
//! # Ok::<(), config::ConfigError>(())
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::byte_size::ByteSize;

/// The flag that names the file. Flatten it into a process' arguments.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ConfigFile {
    /// TOML file with settings; flags and environment variables win over it.
    #[arg(long = "config", env = "RAFTKV_CONFIG", value_name = "FILE")]
    path: Option<PathBuf>,
}

impl ConfigFile {
    /// The file, when one was named.
    pub fn path(&self) -> Option<&Path> {
        // An empty variable in a compose file means "not set".
        self.path.as_deref().filter(|path| !path.as_os_str().is_empty())
    }
}

/// Why the configuration cannot be used. Each message says where and what.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("read the configuration file {}: {source}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value in it is of the wrong kind.
    #[error("configuration file {}: {source}", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// The file has keys that nobody reads: most likely typing errors.
    #[error("configuration file {}: unknown {}: {}", path.display(), if keys.len() == 1 { "key" } else { "keys" }, keys.join(", "))]
    UnknownKeys {
        /// Which.
        path: PathBuf,
        /// Dotted names.
        keys: Vec<String>,
    },
    /// A setting has a value that makes no sense.
    #[error("{setting}: {reason}")]
    Invalid {
        /// As its flag or key is called.
        setting: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ConfigError {
    /// For checks of a process' own.
    pub fn invalid(setting: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self::Invalid { setting: setting.into(), reason: reason.to_string() }
    }
}

/// Reads the file; with none named, what an empty one gives. Unknown keys are an error, in nested tables too.
pub fn load_file<T: DeserializeOwned + Default>(path: Option<&Path>) -> Result<T, ConfigError> {
    let Some(path) = path else {
        return Ok(T::default());
    };
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

fn parse<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, ConfigError> {
    let malformed = |source| ConfigError::Malformed { path: path.to_owned(), source: Box::new(source) };
    let mut keys = Vec::new();
    let deserializer = toml::Deserializer::parse(text).map_err(malformed)?;
    let settings = serde_ignored::deserialize(deserializer, |key| keys.push(key.to_string())).map_err(malformed)?;
    if keys.is_empty() { Ok(settings) } else { Err(ConfigError::UnknownKeys { path: path.to_owned(), keys }) }
}

/// A span of time: `5s`, `250ms`, `1m 30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

impl HumanDuration {
    /// Whole seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// Whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library has it.
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A text that is no span of time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a time: write a number with its unit, as 5s, 250ms or 1m 30s")]
pub struct NotATime;

impl FromStr for HumanDuration {
    type Err = NotATime;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Its own error tells of its parser's steps.
        humantime::parse_duration(text).map(Self).map_err(|_| NotATime)
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Settings {
        cache: Option<ByteSize>,
        deadline: Option<HumanDuration>,
        limits: Nested,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Nested {
        keys: Option<u64>,
    }

    fn settings(text: &str) -> Result<Settings, ConfigError> {
        parse(text, Path::new("node.toml"))
    }

    #[test]
    fn values_are_read_with_their_units() {
        let read = settings("cache = \"512MiB\"\ndeadline = \"250ms\"\n[limits]\nkeys = 7").expect("well-formed");
        assert_eq!(read.cache, Some(ByteSize::mib(512)));
        assert_eq!(read.deadline, Some(HumanDuration::from_millis(250)));
        assert_eq!(read.limits.keys, Some(7));
        assert_eq!(settings("cache = 4096").expect("plain bytes").cache, Some(ByteSize::b(4096)));
    }

    #[test]
    fn unknown_keys_are_named_wherever_they_are() {
        let error = settings("cahce = 1\n[limits]\nkey = 7").expect_err("two typing errors").to_string();
        assert!(error.contains("unknown keys") && error.contains("cahce") && error.contains("limits.key"), "{error}");
    }

    #[test]
    fn a_wrong_value_is_named_with_its_place() {
        let error = settings("\ndeadline = \"soon\"").expect_err("no duration").to_string();
        assert!(error.contains("node.toml") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_missing_file_is_an_error_and_none_is_the_default() {
        assert_eq!(load_file::<Settings>(None).expect("nothing to read"), Settings::default());
        let error = load_file::<Settings>(Some(Path::new("/nowhere/node.toml"))).expect_err("not there").to_string();
        assert!(error.contains("/nowhere/node.toml"), "{error}");
    }

    #[test]
    fn sizes_and_durations_round_trip_as_text() {
        assert_eq!("1g".parse::<ByteSize>().expect("size"), ByteSize::gb(1));
        assert_eq!("1GiB".parse::<ByteSize>().expect("size"), ByteSize::gib(1));
        for text in ["5s", "250ms", "1m 30s"] {
            let duration: HumanDuration = text.parse().expect("duration");
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
        assert!("5".parse::<HumanDuration>().is_err(), "a number alone does not say of what");
    }
}
