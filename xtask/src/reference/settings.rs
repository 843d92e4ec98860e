//! `docs/reference/settings.md`: the settings of the processes.

use std::fmt::Write;

use clap::{Arg, Command, CommandFactory};

use super::{GENERATED, cell};

pub(super) fn page() -> String {
    let mut text = format!(
        "# Settings\n\n{GENERATED}\n\nEach setting is a flag, an environment variable or a key of the TOML file. \
         [Configuration](configuration.md)\nexplains their order and the file.\n"
    );
    let processes = [
        raftkv_engine::config::Args::command(),
        raftkv_sidecar::config::Args::command(),
        raftkv_router::config::Args::command(),
    ];
    for process in processes {
        section(&mut text, &process);
    }
    text
}

fn section(text: &mut String, process: &Command) {
    // Writing to a string never fails.
    let _ = writeln!(text, "\n## `{}`\n", process.get_name());
    let _ = writeln!(text, "| variable | flag | default | meaning |\n| --- | --- | --- | --- |");
    let mut settings: Vec<&Arg> = process.get_arguments().filter(|arg| arg.get_env().is_some()).collect();
    settings.sort_by_key(|arg| arg.get_env().map(ToOwned::to_owned));
    for arg in settings {
        let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let flag = arg.get_long().map(|long| format!("`--{long}`")).unwrap_or_default();
        let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
        let (meaning, default) = split(&help);
        let _ = writeln!(text, "| `{variable}` | {flag} | {} | {} |", cell(default), cell(meaning));
    }
}

/// The help of a setting ends with its default in brackets, if there is one.
pub(super) fn split(help: &str) -> (&str, &str) {
    match help.split_once("[default:") {
        Some((meaning, default)) => (meaning.trim(), default.trim().trim_end_matches(']')),
        None => (help.trim(), ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_has_a_column_of_its_own() {
        assert_eq!(split("Size of it. [default: 64MiB]"), ("Size of it.", "64MiB"));
        assert_eq!(split("Size of it."), ("Size of it.", ""));
    }
}
