//! `docs/reference/cli.md`: the commands of `raftkv`.

use std::fmt::Write;

use clap::{Arg, Command};

use super::settings::split;
use super::{GENERATED, cell};

pub(super) fn page(command: &Command) -> String {
    let mut command = command.clone();
    command.build();
    let mut text = format!(
        "# The `raftkv` command\n\n{GENERATED}\n\nEach command prints text for people, or JSON with `-o json` where the \
         command has that option.\n`raftkv COMMAND --help` prints the same as this page.\n"
    );
    section(&mut text, &command, "raftkv");
    text
}

fn section(text: &mut String, command: &Command, name: &str) {
    // Writing to a string never fails.
    let _ = writeln!(text, "\n## `{name}`\n\n{}.", sentence(&about(command)));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.split_once(':').map_or(usage.as_str(), |(_, usage)| usage.trim());
    let _ = writeln!(text, "\n```text\n{usage}\n```");
    let subs: Vec<&Command> =
        command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help").collect();
    if !subs.is_empty() {
        let _ = writeln!(text, "\n| command | purpose |\n| --- | --- |");
        for sub in &subs {
            let _ = writeln!(text, "| `{name} {}` | {} |", sub.get_name(), cell(&about(sub)));
        }
    }
    let arguments: Vec<&Arg> = command.get_arguments().filter(|arg| is_told(arg)).collect();
    if !arguments.is_empty() {
        let _ = writeln!(text, "\n| argument | default | variable | meaning |\n| --- | --- | --- | --- |");
        for arg in arguments {
            let _ = writeln!(text, "{}", row(arg));
        }
    }
    if let Some(after) = command.get_after_help() {
        let _ = writeln!(text, "\n```text\n{}\n```", after.to_string().trim_end());
    }
    for sub in subs {
        section(text, sub, &format!("{name} {}", sub.get_name()));
    }
}

fn is_told(arg: &Arg) -> bool {
    !arg.is_hide_set() && !["help", "version"].contains(&arg.get_id().as_str())
}

fn about(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// Without the full stop, if there is one.
fn sentence(text: &str) -> &str {
    text.trim_end_matches('.')
}

fn row(arg: &Arg) -> String {
    let values = arg.get_value_names().unwrap_or_default().join(" ");
    let name = match (arg.get_short(), arg.get_long()) {
        (_, None) => format!("<{values}>"),
        (short, Some(long)) => {
            let short = short.map(|short| format!("-{short}, ")).unwrap_or_default();
            let values = if arg.get_action().takes_values() { format!(" <{values}>") } else { String::new() };
            format!("{short}--{long}{values}")
        }
    };
    let quoted = |text: String| if text.is_empty() { text } else { format!("`{text}`") };
    let defaults: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let (meaning, told) = split(&help);
    let default = match arg.get_action().takes_values() && !defaults.is_empty() {
        true => quoted(cell(&defaults.join(" "))),
        false => cell(told),
    };
    let variable = arg.get_env().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut meaning = meaning.to_owned();
    let choices: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| arg.get_action().takes_values())
        .map(|value| match value.get_help() {
            Some(help) => format!("`{}`: {}", value.get_name(), sentence(&help.to_string())),
            None => format!("`{}`", value.get_name()),
        })
        .collect();
    if !choices.is_empty() {
        meaning = format!("{meaning}. {}", choices.join("; "));
    }
    format!("| `{}` | {} | {} | {} |", cell(&name), default, quoted(variable), cell(&meaning))
}
