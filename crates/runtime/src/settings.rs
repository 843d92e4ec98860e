//! Single settings, as flags, environment variables and files give them, and what each must look like.
//!
//! Every process reads its own; what is the same in all of them is here, so that they understand the same texts and refuse
//! the same mistakes.

use std::fmt::Display;
use std::str::FromStr;

use clap::ValueEnum;

use crate::config::ConfigError;
use crate::grpc::Endpoint;
use crate::guard::{HostName, MAX_ALLOWED_HOSTS};
use crate::telemetry::LogFormat;

/// Names become host names, labels and parts of headers.
pub(crate) const MAX_NAME_BYTES: usize = 128;

/// A text, from the flag or else from the file. An empty one, as an empty variable in a compose file, means "not set".
pub fn text(flag: Option<String>, file: Option<String>) -> Option<String> {
    let set = |value: Option<String>| value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    set(flag).or_else(|| set(file))
}

/// A value that the flag gives as text, else the file's.
///
/// # Errors
/// When the text cannot be read; names the setting.
pub fn parsed<T: FromStr<Err: Display>>(
    setting: &str,
    flag: Option<String>,
    file: Option<T>,
) -> Result<Option<T>, ConfigError> {
    let Some(value) = text(flag, None) else { return Ok(file) };
    let read =
        value.parse().map_err(|error: T::Err| ConfigError::invalid(setting, format!("{value:?}: {}", said(&error))))?;
    Ok(Some(read))
}

/// An error of a parser, where it is one of the standard library in words about the setting.
fn said(error: &impl Display) -> String {
    match error.to_string().as_str() {
        "invalid digit found in string" => "not a whole number".to_owned(),
        "number too large to fit in target type" => "too large".to_owned(),
        other => other.to_owned(),
    }
}

/// Yes or no, in the words that people use.
///
/// # Errors
/// When the flag is another word.
pub fn switch(setting: &str, flag: Option<String>, file: Option<bool>) -> Result<Option<bool>, ConfigError> {
    let Some(flag) = text(flag, None) else { return Ok(file) };
    match flag.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(Some(true)),
        "false" | "0" | "no" | "off" => Ok(Some(false)),
        _ => Err(ConfigError::invalid(setting, format!("{flag:?} is neither true nor false"))),
    }
}

/// The machine's name, where it has one.
pub fn host_name() -> Option<String> {
    text(std::fs::read_to_string("/proc/sys/kernel/hostname").ok(), None)
}

/// Names that are given out anew. Host names and labels have no longer parts (RFC 1035, section 2.3.4).
pub const MAX_NEW_NAME_BYTES: usize = 63;

/// Whether a name that did not exist before may be given to a node: 1 to [`MAX_NEW_NAME_BYTES`] letters, digits, dots, dashes and
/// underscores, not dots alone. Names that exist are kept as they are.
pub fn is_new_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= MAX_NEW_NAME_BYTES && check_name("", name).is_ok()
}

/// Whether `name` can name a node, a group or a router.
///
/// # Errors
/// When it cannot.
pub fn check_name(setting: &str, name: &str) -> Result<(), ConfigError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    // Names of dots alone are directories, and no host has one.
    let dots = name.chars().all(|c| c == '.');
    if name.len() <= MAX_NAME_BYTES && name.chars().all(sound) && !dots {
        return Ok(());
    }
    let reason =
        format!("{name:?}: at most {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores, not dots alone");
    Err(ConfigError::invalid(setting, reason))
}

/// An address that other machines can reach, or be reached at: host:port.
///
/// # Errors
/// When it is none, or a Unix socket.
pub fn tcp(setting: &str, address: &str) -> Result<Endpoint, ConfigError> {
    match address.parse() {
        Ok(endpoint @ Endpoint::Tcp(_)) => Ok(endpoint),
        Ok(Endpoint::Unix(_)) => Err(ConfigError::invalid(setting, "other machines cannot reach a Unix socket")),
        Err(error) => Err(ConfigError::invalid(setting, error)),
    }
}

/// An address under which others are to find this process: as [`tcp`], with a port, and no address that only means "every
/// interface" or "everybody".
///
/// # Errors
/// As of [`tcp`], for port 0, and for a host that names no machine.
pub fn advertised(setting: &str, address: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(address) = with_port(setting, address)? else { return Ok(None) };
    match unreachable(&address) {
        Some(why) => Err(ConfigError::invalid(setting, format!("{address:?}: {why}"))),
        None => Ok(Some(address)),
    }
}

fn with_port(setting: &str, address: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(address) = address else { return Ok(None) };
    tcp(setting, &address)?;
    if port(&address) == Some(0) {
        return Err(ConfigError::invalid(setting, format!("{address:?}: nobody can reach port 0")));
    }
    Ok(Some(address))
}

fn port(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// Why no other process can reach this host:port, if that can be told without asking anybody.
pub fn unreachable(address: &str) -> Option<&'static str> {
    const EVERY_INTERFACE: &str =
        "this means every interface and names no machine; give the host name or the address of this one";
    const MANY: &str = "nobody can connect to a multicast or broadcast address";
    let (host, _) = address.rsplit_once(':')?;
    if port(address) == Some(0) {
        return Some("nobody can reach port 0");
    }
    let ip: Option<std::net::IpAddr> = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        // A zone, as in fe80::1%eth0, belongs to the system.
        Some(host) => match host.split('%').next().unwrap_or_default().parse::<std::net::Ipv6Addr>() {
            Ok(ip) => Some(ip.to_canonical()),
            Err(_) => return Some("what is in brackets is no IPv6 address"),
        },
        None => host.parse().ok(),
    };
    match ip {
        Some(ip) if ip.is_unspecified() => Some(EVERY_INTERFACE),
        Some(std::net::IpAddr::V4(ip)) if ip.is_broadcast() => Some(MANY),
        Some(ip) if ip.is_multicast() => Some(MANY),
        // The system reads these as numbers, too: 0, 0.0, 0x0, 000.0.0.0.
        None if host.split('.').all(is_zero) => Some(EVERY_INTERFACE),
        None if host.chars().all(|c| c == '.') => Some("no host has this name"),
        _ => None,
    }
}

fn is_zero(part: &str) -> bool {
    let digits = part.strip_prefix("0x").or_else(|| part.strip_prefix("0X")).unwrap_or(part);
    !digits.is_empty() && digits.bytes().all(|digit| digit == b'0')
}

/// How often a name that did not resolve is tried again at most.
const RESOLVE_SELDOM: std::time::Duration = std::time::Duration::from_secs(600);
/// And at first.
const RESOLVE_AGAIN: std::time::Duration = std::time::Duration::from_secs(5);
/// For one answer of the resolver.
const RESOLVE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// Says in the log when an advertised host name does not resolve here, with the setting that says otherwise, and when it does;
/// to be run as a task, which then ends. A name may come to resolve later, or only elsewhere: this is no error.
pub async fn watch_advertised(setting: &str, address: &str) {
    let mut pauses = crate::reminder::Pauses::new(RESOLVE_AGAIN, RESOLVE_SELDOM);
    let mut reminder = crate::reminder::Reminder::default();
    let mut failed = false;
    loop {
        let why = match tokio::time::timeout(RESOLVE_DEADLINE, tokio::net::lookup_host(address)).await {
            Ok(Ok(mut found)) => match found.next() {
                Some(_) if failed => {
                    tracing::info!("the advertised address {address} resolves now");
                    return;
                }
                Some(_) => return,
                None => "it has no address".to_owned(),
            },
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {RESOLVE_DEADLINE:?}"),
        };
        failed = true;
        let text = format!(
            "the advertised address {address} does not resolve here ({why}): others will not reach this node by it. Set {setting}, \
             or make the name known"
        );
        if let Some(again) = reminder.due(&text) {
            tracing::warn!("{text}{again}");
        }
        tokio::time::sleep(pauses.wait()).await;
    }
}

/// Addresses of others, from a list with commas or the file's: each once, in order.
///
/// # Errors
/// As of [`tcp`], and for port 0.
pub fn addresses(setting: &str, flag: Option<String>, file: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let given = match text(flag, None) {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => file.unwrap_or_default(),
    };
    let mut addresses: Vec<String> = Vec::new();
    for address in given {
        if let Some(address) = with_port(setting, text(Some(address), None))?
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// `RAFTKV_ALLOWED_HOSTS`: host names by which browsers may reach a process, from a list with commas or the file's: each once, in
/// order, at most [`MAX_ALLOWED_HOSTS`].
///
/// # Errors
/// When one is no host name, or there are more.
pub fn allowed_hosts(flag: Option<String>, file: Option<Vec<HostName>>) -> Result<Vec<HostName>, ConfigError> {
    const SETTING: &str = "RAFTKV_ALLOWED_HOSTS";
    let Some(list) = text(flag, None) else { return allowed(SETTING, file.unwrap_or_default()) };
    let names = list.split(',').map(|name| parsed(SETTING, Some(name.to_owned()), None));
    let names: Vec<Option<HostName>> = names.collect::<Result<_, _>>()?;
    allowed(SETTING, names.into_iter().flatten())
}

fn allowed(setting: &str, names: impl IntoIterator<Item = HostName>) -> Result<Vec<HostName>, ConfigError> {
    let mut hosts: Vec<HostName> = Vec::new();
    for name in names {
        if !hosts.contains(&name) {
            hosts.push(name);
        }
    }
    if hosts.len() > MAX_ALLOWED_HOSTS {
        let reason = format!("{} names; at most {MAX_ALLOWED_HOSTS} are taken", hosts.len());
        return Err(ConfigError::invalid(setting, reason));
    }
    Ok(hosts)
}

/// A number of bytes that memory or a format bounds.
///
/// # Errors
/// When it is zero or more than `most`.
pub fn bytes_within(setting: &str, bytes: u64, most: u64) -> Result<usize, ConfigError> {
    match usize::try_from(bytes) {
        Ok(size) if (1..=most).contains(&bytes) => Ok(size),
        _ => Err(ConfigError::invalid(setting, format!("must be from 1 to {most} bytes"))),
    }
}

/// `RAFTKV_LOG_FORMAT`.
///
/// # Errors
/// When it is neither text nor json.
pub fn log_format(flag: Option<String>, file: Option<String>) -> Result<LogFormat, ConfigError> {
    let Some(format) = text(flag, file) else { return Ok(LogFormat::default()) };
    LogFormat::from_str(&format, true)
        .map_err(|_| ConfigError::invalid("RAFTKV_LOG_FORMAT", format!("{format:?} is neither text nor json")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn an_empty_text_is_not_set_and_the_flag_comes_first() {
        assert_eq!(text(some(" a "), some("b")), some("a"));
        assert_eq!(text(some("  "), some("b")), some("b"));
        assert_eq!(text(None, some("")), None);
        assert_eq!(parsed("N", some("7"), Some(8)).expect("a number"), Some(7));
        assert_eq!(parsed("N", some(""), Some(8)).expect("the file's"), Some(8));
    }

    #[test]
    fn a_switch_understands_the_words_people_use() {
        for (word, on) in [("true", true), ("ON", true), ("1", true), ("no", false), ("Off", false)] {
            assert_eq!(switch("S", some(word), None).expect("known"), Some(on), "{word}");
        }
        assert_eq!(switch("S", None, Some(true)).expect("the file's"), Some(true));
    }

    #[test]
    fn what_cannot_be_read_is_told_without_the_parsers_words() {
        fn why<T: FromStr<Err: Display>>(value: &str) -> String {
            parsed::<T>("SETTING", some(value), None).err().map(|error| error.to_string()).unwrap_or_default()
        }
        assert!(why::<crate::config::ByteSize>("lots").contains("\"lots\": not a size: write"));
        assert!(why::<crate::config::HumanDuration>("soon").contains("\"soon\": not a time: write"));
        assert!(why::<usize>("lots").contains("\"lots\": not a whole number"));
        assert!(why::<u16>("70000").contains("too large"));
    }

    #[test]
    fn addresses_are_a_list_without_repetitions() {
        let read = addresses("A", some("a:1, b:2,,a:1"), Some(vec!["c:3".to_owned()]));
        assert_eq!(read.expect("sound"), ["a:1", "b:2"]);
        assert_eq!(addresses("A", None, Some(vec![" c:3 ".to_owned()])).expect("sound"), ["c:3"]);
    }

    #[test]
    fn allowed_hosts_are_a_list_of_names() {
        let name = |text: &str| -> HostName { text.parse().expect("a name") };
        let read = |flag: &str, file: Vec<HostName>| allowed_hosts(some(flag), Some(file));
        let both = [name("kv.example"), name("a.b")];
        assert_eq!(read("KV.example, a.b,, a.b.", vec![name("c.d")]).expect("sound"), both);
        assert_eq!(read(" ", vec![name("c.d"), name("c.d")]).expect("sound"), [name("c.d")]);
        let many = |count: usize| (0..count).map(|at| format!("n{at}.example")).collect::<Vec<_>>().join(",");
        assert_eq!(read(&many(MAX_ALLOWED_HOSTS), vec![]).expect("sound").len(), MAX_ALLOWED_HOSTS);
        for given in [&many(MAX_ALLOWED_HOSTS + 1), "http://kv.example", "kv.example:80", "*"] {
            let error = read(given, vec![]).expect_err("refused").to_string();
            assert!(error.starts_with("RAFTKV_ALLOWED_HOSTS: "), "{error}");
        }
    }

    #[test]
    fn what_names_no_machine_is_not_advertised() {
        for address in [
            "0.0.0.0:1",
            "[::]:1",
            "[::0]:1",
            "[::ffff:0.0.0.0]:1",
            "0:1",
            "0.0:1",
            "0x0:1",
            "255.255.255.255:1",
            "224.0.0.1:1",
            "[ff02::1]:1",
            "[node1]:1",
            "..:1",
            "a:0",
            "a:00",
        ] {
            assert!(unreachable(address).is_some(), "{address}");
            assert!(advertised("SETTING", some(address)).is_err(), "{address}");
        }
        for address in
            ["node1:1", "127.0.0.1:1", "localhost:1", "[::1]:1", "[fe80::1%eth0]:1", "10.0.0.0:1", "a.b:1", "0a:1"]
        {
            assert_eq!(unreachable(address), None, "{address}");
            assert!(advertised("SETTING", some(address)).is_ok(), "{address}");
        }
        // Where this process connects itself, it is the system's to judge.
        assert!(addresses("SETTING", some("0.0.0.0:1"), None).is_ok());
    }

    #[test]
    fn a_new_name_can_stand_in_a_log_line_and_in_a_host_name() {
        for name in ["n", "node1", "a.b-c_D", &"a".repeat(63)] {
            assert!(is_new_name(name), "{name}");
        }
        for name in ["", ".", "a b", "a\nb", "a\u{85}b", "ä", "a/b", "a%b", "a:b", &"a".repeat(64)] {
            assert!(!is_new_name(name), "{name:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let errors = [
            parsed::<u16>("SETTING", some("many"), None).err(),
            switch("SETTING", some("maybe"), None).err(),
            check_name("SETTING", "a b").err(),
            check_name("SETTING", ".").err(),
            check_name("SETTING", "..").err(),
            check_name("SETTING", "a/b").err(),
            check_name("SETTING", "a\u{7}b").err(),
            check_name("SETTING", &"a".repeat(MAX_NAME_BYTES + 1)).err(),
            tcp("SETTING", "unix:/a").err(),
            tcp("SETTING", "a").err(),
            advertised("SETTING", some("a:0")).err(),
            advertised("SETTING", some("0.0.0.0:8088")).err(),
            advertised("SETTING", some("[::]:8088")).err(),
            addresses("SETTING", some("a:1,b"), None).err(),
            addresses("SETTING", some("a:1,b:0"), None).err(),
            bytes_within("SETTING", 0, 10).err(),
            bytes_within("SETTING", 11, 10).err(),
        ];
        for (number, error) in errors.into_iter().enumerate() {
            let message = error.unwrap_or_else(|| panic!("case {number} was taken")).to_string();
            assert!(message.starts_with("SETTING: "), "{message}");
        }
        assert!(log_format(some("xml"), None).is_err_and(|error| error.to_string().contains("RAFTKV_LOG_FORMAT")));
    }
}
