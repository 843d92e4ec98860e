//! [`parse`]: the command line together with the environment.
//!
//! Three rules hold for every variable: an empty one is not set, a flag wins over a variable of its own argument, and a
//! flag wins over the variables of all arguments that it excludes. clap alone knows the second only.

use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::args::Cli;

/// Where a variable is not set, the one that says the same to another program: a node that registers at its routers can
/// be asked about the whole store, too, by a command that runs in its container.
const STAND_INS: [(&str, &str); 1] = [("RAFTKV_ROUTER_ENDPOINT", "RAFTKV_ROUTER")];

/// Parses `arguments`, and the environment of this process where they say nothing.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let mut command = with_variables(Cli::command(), &is_set);
    // What the command line says alone. If it is no command line, the second reading says why, with the variables in its
    // help.
    if let Ok(given) = without_variables(Cli::command()).try_get_matches_from(&arguments) {
        command = yielding(command, &given);
    }
    Cli::from_arg_matches(&command.try_get_matches_from(&arguments)?)
}

/// Each argument with its variable or the stand-in, if that is set; an empty variable is none.
fn with_variables(command: Command, is_set: &impl Fn(&str) -> bool) -> Command {
    let command = command.mut_args(|arg| {
        let Some(name) = arg.get_env().and_then(|name| name.to_str()).map(str::to_owned) else { return arg };
        let stand_in = STAND_INS.iter().find(|(known, _)| *known == name).map(|(_, other)| *other);
        match stand_in.filter(|other| !is_set(&name) && is_set(other)) {
            Some(other) => arg.env(other),
            None if std::env::var_os(&name).is_some() && !is_set(&name) => arg.env(None::<&'static str>),
            None => arg,
        }
    });
    command.mut_subcommands(|sub| with_variables(sub, is_set))
}

fn without_variables(command: Command) -> Command {
    command.mut_args(|arg| arg.env(None::<&'static str>)).mut_subcommands(without_variables)
}

/// Arguments that a given flag excludes lose their variables.
fn yielding(command: Command, given: &ArgMatches) -> Command {
    let is_given = |arg: &&Arg| given.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    let excludes = |one: &Arg, other: &Arg| {
        command.get_arg_conflicts_with(one).iter().any(|excluded| excluded.get_id() == other.get_id())
    };
    let flags: Vec<&Arg> = command.get_arguments().filter(is_given).collect();
    let mut excluded = Vec::new();
    for arg in command.get_arguments().filter(|arg| arg.get_env().is_some() && !is_given(arg)) {
        if flags.iter().any(|flag| excludes(flag, arg) || excludes(arg, flag)) {
            excluded.push(arg.get_id().clone());
        }
    }
    let command =
        command.mut_args(|arg| if excluded.contains(arg.get_id()) { arg.env(None::<&'static str>) } else { arg });
    match given.subcommand() {
        Some((name, given)) if command.find_subcommand(name).is_some() => {
            command.mut_subcommand(name, |sub| yielding(sub, given))
        }
        _ => command,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHILD: &str = "RAFTKV_TEST_ENVIRONMENT_CHILD";

    /// Parses a line in a process of its own, for an environment belongs to a process.
    fn parsed(line: &str, variables: &[(&str, &str)]) -> String {
        let this = std::env::current_exe().expect("this program");
        let mut child = std::process::Command::new(this);
        child.args(["environment::tests::a_line_is_parsed_in_a_child", "--exact", "--nocapture"]).env(CHILD, line);
        for name in ["RAFTKV_ENDPOINT", "RAFTKV_MANAGEMENT", "RAFTKV_ROUTER_ENDPOINT", "RAFTKV_ROUTER"] {
            child.env_remove(name);
        }
        let output = child.envs(variables.iter().copied()).output().expect("run");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    #[test]
    fn a_line_is_parsed_in_a_child() {
        let Ok(line) = std::env::var(CHILD) else { return };
        match parse(line.split_whitespace().map(OsString::from)) {
            Ok(cli) => println!("parsed {:?}", cli.command),
            Err(error) => println!("refused {error}"),
        }
    }

    #[test]
    fn a_flag_wins_over_variables_and_an_empty_variable_is_none() {
        let management = [("RAFTKV_MANAGEMENT", "http://m:1")];
        let both = parsed("raftkv status --router r:2", &management);
        assert!(both.contains("parsed") && both.contains("http://r:2") && !both.contains("http://m:1"), "{both}");
        assert!(parsed("raftkv status", &management).contains("http://m:1"));
        let flag = parsed("raftkv status --management n:3", &management);
        assert!(flag.contains("http://n:3") && !flag.contains("http://m:1"), "{flag}");
        let two_flags = parsed("raftkv status --router r:2 --management n:3", &management);
        assert!(two_flags.contains("refused") && two_flags.contains("cannot be used with"), "{two_flags}");

        for (line, name, default) in [
            ("raftkv get a", "RAFTKV_ENDPOINT", "http://127.0.0.1:8080"),
            ("raftkv bench", "RAFTKV_ENDPOINT", "http://127.0.0.1:8080"),
            ("raftkv status", "RAFTKV_MANAGEMENT", "http://127.0.0.1:6000"),
            ("raftkv group list", "RAFTKV_ROUTER_ENDPOINT", "http://127.0.0.1:8000"),
            ("raftkv local", "RAFTKV_LOCAL_DIR", "dir: None"),
        ] {
            let empty = parsed(line, &[(name, "")]);
            assert!(empty.contains("parsed") && empty.contains(default), "{line}: {empty}");
            let wrong = parsed(line, &[(name, "no address")]);
            assert!(wrong.contains("refused") || name == "RAFTKV_LOCAL_DIR", "{line}: {wrong}");
        }
    }

    #[test]
    fn a_nodes_own_routers_are_those_of_the_commands() {
        let routers = |variables: &[(&str, &str)]| parsed("raftkv group list", variables);
        assert!(routers(&[("RAFTKV_ROUTER", "r1:8000,r2:8000")]).contains("http://r2:8000"));
        let own = routers(&[("RAFTKV_ROUTER", "r1:8000"), ("RAFTKV_ROUTER_ENDPOINT", "r3:8000")]);
        assert!(own.contains("http://r3:8000") && !own.contains("http://r1:8000"), "{own}");
        assert!(routers(&[("RAFTKV_ROUTER", "r1:8000"), ("RAFTKV_ROUTER_ENDPOINT", "")]).contains("http://r1:8000"));
    }
}
