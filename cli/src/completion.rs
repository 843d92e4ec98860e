//! `raftkv completion`.

use std::io::Write;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;

/// Arguments of `raftkv completion`.
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionArgs {
    /// Name of the shell
    shell: Shell,
}

/// Prints the completion script.
pub(crate) fn run(args: &CompletionArgs) -> Result<(), Failure> {
    std::io::stdout().write_all(&script(args.shell))?;
    Ok(())
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "raftkv", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_a_script_that_knows_the_subcommands() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).expect("text");
            for word in ["local", "status", "bench", "snapshot", "rebalance", "operation", "slots", "weight", "kill"] {
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
