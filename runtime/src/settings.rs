//! Single settings, as flags, environment variables and files give them, and what each must look like.
//!
//! Every process reads its own; what is the same in all of them is here, so that they understand the same texts and refuse
//! the same mistakes.

use std::fmt::Display;
use std::str::FromStr;

use clap::ValueEnum;

use crate::config::ConfigError;
use crate::grpc::Endpoint;
use crate::telemetry::LogFormat;

/// Names become host names, labels and parts of headers.
const MAX_NAME_BYTES: usize = 128;

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
    let read = value.parse().map_err(|error| ConfigError::invalid(setting, format!("{value:?}: {error}")))?;
    Ok(Some(read))
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

/// Whether `name` can name a node, a group or a router.
///
/// # Errors
/// When it cannot.
pub fn check_name(setting: &str, name: &str) -> Result<(), ConfigError> {
    let sound = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.len() <= MAX_NAME_BYTES && name.chars().all(sound) {
        return Ok(());
    }
    let reason = format!("{name:?}: at most {MAX_NAME_BYTES} letters, digits, dots, dashes and underscores");
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

/// An address under which others are to find this process: as [`tcp`], with a port.
///
/// # Errors
/// As of [`tcp`], and for port 0.
pub fn advertised(setting: &str, address: Option<String>) -> Result<Option<String>, ConfigError> {
    let Some(address) = address else { return Ok(None) };
    tcp(setting, &address)?;
    if address.ends_with(":0") {
        return Err(ConfigError::invalid(setting, format!("{address:?}: nobody can reach port 0")));
    }
    Ok(Some(address))
}

/// Addresses of others, from a list with commas or the file's: each once, in order.
///
/// # Errors
/// As of [`advertised`].
pub fn addresses(setting: &str, flag: Option<String>, file: Option<Vec<String>>) -> Result<Vec<String>, ConfigError> {
    let given = match text(flag, None) {
        Some(list) => list.split(',').map(str::to_owned).collect(),
        None => file.unwrap_or_default(),
    };
    let mut addresses: Vec<String> = Vec::new();
    for address in given {
        if let Some(address) = advertised(setting, text(Some(address), None))?
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    Ok(addresses)
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
    fn addresses_are_a_list_without_repetitions() {
        let read = addresses("A", some("a:1, b:2,,a:1"), Some(vec!["c:3".to_owned()]));
        assert_eq!(read.expect("sound"), ["a:1", "b:2"]);
        assert_eq!(addresses("A", None, Some(vec![" c:3 ".to_owned()])).expect("sound"), ["c:3"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_name() {
        let errors = [
            parsed::<u16>("SETTING", some("many"), None).err(),
            switch("SETTING", some("maybe"), None).err(),
            check_name("SETTING", "a b").err(),
            check_name("SETTING", &"a".repeat(MAX_NAME_BYTES + 1)).err(),
            tcp("SETTING", "unix:/a").err(),
            tcp("SETTING", "a").err(),
            advertised("SETTING", some("a:0")).err(),
            addresses("SETTING", some("a:1,b"), None).err(),
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
