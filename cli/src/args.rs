//! The command line.

use std::time::Duration;

use clap::{Parser, Subcommand};
use raftkv_client::{ATTEMPT, Endpoints, Interface, Retry, Transport};
use raftkv_runtime::config::HumanDuration;
use raftkv_runtime::deadlines;

use crate::bench::BenchArgs;
use crate::completion::CompletionArgs;
use crate::health::HealthArgs;
use crate::keys::{DeleteArgs, GetArgs, ListArgs, PutArgs};
use crate::local::{ExecArgs, LocalArgs};
use crate::node::{JoinArgs, KillArgs, RemoveArgs, SnapshotArgs, TransferArgs};
use crate::reach::transport;
use crate::status::StatusArgs;
use crate::store::{
    GroupAddArgs, GroupListArgs, GroupRemoveArgs, GroupWeightArgs, OperationCancelArgs, OperationListArgs,
    OperationShowArgs, OperationWatchArgs, RebalanceArgs, SlotsArgs,
};
use crate::upgrade::{CheckArgs, FinishArgs, HoldArgs};

/// Longer than a node waits for its engine before it tells of itself alone.
const STATUS: Duration = Duration::from_secs(2);
/// How much longer than the server we wait: for connecting, and for the way there and back.
pub(crate) const MARGIN: Duration = Duration::from_secs(3);

/// RaftKV: a distributed key-value store you can curl.
#[derive(Debug, Parser)]
#[command(name = "raftkv", version, propagate_version = true, after_help = EXAMPLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Answer to `raftkv` without arguments.
pub(crate) const FIRST_STEPS: &str = "\
RaftKV: a distributed key-value store you can curl.

Try:
  raftkv local                  start three nodes on this machine
  raftkv put greeting hello     store a value
  raftkv get greeting           print the value
  raftkv status                 show the nodes and their leader

All commands: raftkv --help. One command: raftkv COMMAND --help.";

const EXAMPLES: &str = "\
Examples:
  raftkv local                       start three nodes on this machine
  raftkv put greeting hello          store a value
  raftkv get greeting                print the value
  raftkv list --prefix user/         list keys and values
  raftkv status --watch              show the nodes and their leader
  raftkv bench --workload put,get    measure throughput and latency
  raftkv local --groups 2            start two groups behind a router
  raftkv group list                  show the groups and their slots
  raftkv rebalance                   give every group its share of the keys

Exit codes:
  0    success
  1    not found, or refused
  64   wrong arguments
  69   no server is reachable and ready
  130  Ctrl-C while waiting; the operation continues";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Start a cluster on this machine, without Docker, and keep it running
    Local(LocalArgs),
    /// Print the value of a key
    Get(GetArgs),
    /// Store a value under a key
    Put(PutArgs),
    /// Remove a key
    Delete(DeleteArgs),
    /// List keys and values in key order
    List(ListArgs),
    /// Show the state of every node of the group, or with --router of the whole store
    Status(StatusArgs),
    /// Check whether a node is ready to serve; exits with 0 if ready
    Health(HealthArgs),
    /// Change the members of the group
    #[command(subcommand)]
    Node(NodeCommand),
    /// List, add, remove or weight the groups that share the keys
    #[command(subcommand)]
    Group(GroupCommand),
    /// Give every group its share of the keys
    Rebalance(RebalanceArgs),
    /// Inspect, follow or cancel long-running operations
    #[command(subcommand)]
    Operation(OperationCommand),
    /// Show the slots of each group, or the slot and group of a key
    Slots(SlotsArgs),
    /// Take a snapshot on a node and compact its log
    Snapshot(SnapshotArgs),
    /// Check, hold or raise the cluster version
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Measure throughput and latency, of RaftKV or of etcd for comparison
    Bench(BenchArgs),
    /// Print a completion script for your shell
    #[command(after_help = "Example:\n  raftkv completion bash > ~/.local/share/bash-completion/completions/raftkv")]
    Completion(CompletionArgs),
    /// Execute a program that ends with its parent (used by `raftkv local`)
    #[command(hide = true)]
    LocalExec(ExecArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Add a node to the group
    Join(JoinArgs),
    /// Remove a node from the group
    Remove(RemoveArgs),
    /// Remove a node from the group and delete its data
    Kill(KillArgs),
    /// Transfer leadership to another node
    Transfer(TransferArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Check whether the programs can be upgraded or downgraded
    Check(CheckArgs),
    /// Keep the cluster version, so that you can go back
    Hold(HoldArgs),
    /// Raise the cluster version now
    Finish(FinishArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GroupCommand {
    /// List the groups
    List(GroupListArgs),
    /// Add a running group and give it its share of the keys
    Add(GroupAddArgs),
    /// Move all keys of a group to the others and remove the group
    Remove(GroupRemoveArgs),
    /// Change the share of a group
    Weight(GroupWeightArgs),
}

#[derive(Debug, Subcommand)]
pub(crate) enum OperationCommand {
    /// List operations in progress and the last ones that ended
    List(OperationListArgs),
    /// Show an operation
    Show(OperationShowArgs),
    /// Stop an operation before it is complete
    Cancel(OperationCancelArgs),
    /// Follow an operation until it ends
    Watch(OperationWatchArgs),
}

/// The first node of `raftkv local` or of the compose file, then the routers of the compose file.
const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:8080,http://127.0.0.1:8000,http://127.0.0.1:8001";

/// How a client command reaches the store.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClientArgs {
    /// HTTP address of a node or router; separate several by commas, they are tried in turn
    #[arg(
        long,
        visible_alias = "endpoints",
        env = "RAFTKV_ENDPOINT",
        value_name = "URL[,URL]",
        default_value = DEFAULT_ENDPOINTS
    )]
    pub(crate) endpoint: Endpoints,
    /// Total time for the command with its retries, with a unit: 500ms, 2s, 1m. Requests that fail for now are retried; a write is
    /// applied at most once
    #[arg(long, value_name = "DURATION", default_value = "10s")]
    timeout: HumanDuration,
}

impl ClientArgs {
    /// The deadline of retries, from now on.
    pub(crate) fn retry(&self) -> Retry {
        Retry::within(self.timeout.get().max(Duration::from_millis(1)))
    }

    /// For keys and values. Waits longer than the server takes, so that the server's own answer is seen.
    pub(crate) fn client(&self) -> Transport {
        let client = transport(Interface::Api, self.endpoint.clone(), self.server() + MARGIN);
        // Addresses that nobody named may be those of another store: only one that cannot be reached makes room for the next.
        if self.endpoint.to_string() == DEFAULT_ENDPOINTS { client.of_first_that_answers() } else { client }
    }

    /// The time that the server gets for an attempt. Its unit is the millisecond, and it takes no zero.
    fn server(&self) -> Duration {
        self.timeout.get().min(ATTEMPT).max(Duration::from_millis(1))
    }
}

/// How an administration command reaches the group.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ManagementArgs {
    /// Management address of any node; separate several by commas, they are tried in turn
    #[arg(long, env = "RAFTKV_MANAGEMENT", value_name = "URL[,URL]", default_value = "http://127.0.0.1:6000")]
    pub(crate) management: Endpoints,
    /// Timeout of a request [default: longer than the node's own timeout]
    #[arg(long, value_name = "DURATION")]
    timeout: Option<HumanDuration>,
}

impl ManagementArgs {
    /// The same, at other addresses.
    pub(crate) fn at(self, management: Endpoints) -> Self {
        Self { management, ..self }
    }

    /// For looking how a node is: one that takes longer has no say.
    pub(crate) fn probe(&self) -> Duration {
        self.timeout.map_or(STATUS, |asked| asked.get())
    }

    /// For requests that take a node so long at most. One that is forwarded takes longer.
    pub(crate) fn timeout(&self, server: Duration) -> Duration {
        self.timeout.map_or(server + deadlines::FORWARD_MARGIN + MARGIN, |asked| asked.get())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split_whitespace())
    }

    #[test]
    fn the_command_line_is_well_defined() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_argument_has_help_that_fits_a_terminal() {
        fn check(command: &clap::Command, name: &str) {
            assert!(command.get_about().is_some(), "{name}");
            for arg in command.get_arguments() {
                assert!(arg.get_help().is_some_and(|help| !help.to_string().is_empty()), "{name} {}", arg.get_id());
            }
            let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in after.lines() {
                assert!(line.chars().count() <= 80, "{name}: {line}");
            }
            for sub in command.get_subcommands() {
                check(sub, &format!("{name} {}", sub.get_name()));
            }
        }
        check(&Cli::command(), "raftkv");
    }

    #[test]
    fn typical_lines_are_understood() {
        for line in [
            "raftkv local --nodes 5 --http-port 0 -o json --no-restart",
            "raftkv get greeting --consistency stale -o json",
            "raftkv put greeting hello --if-absent",
            "raftkv put greeting --file - --if-revision 7",
            "raftkv put answer 42 --json",
            "raftkv delete greeting --endpoint http://a:8080,b:8080",
            "raftkv list --prefix user/ --limit 10 --keys-only",
            "raftkv status --watch --management 127.0.0.1:6001",
            "raftkv node join node4 10.0.0.4:8088",
            "raftkv node remove node4",
            "raftkv node kill node4 --yes",
            "raftkv node kill node4 --yes-delete-all-keys --wait 0s",
            "raftkv node transfer",
            "raftkv local --groups 3 --nodes 1 --routers 2 --revive",
            "raftkv status --router a:8000 --watch",
            "raftkv group list --all -o json --router a:8000,b:8000",
            "raftkv group add a:50053,b:50053 c:50053 --name west --weight 2 --no-wait",
            "raftkv group remove west --yes-delete-all-keys",
            "raftkv group weight 2 0",
            "raftkv rebalance --dry-run --json",
            "raftkv rebalance --rate 10MiB --no-wait",
            "raftkv operation list",
            "raftkv operation show 7 -o json",
            "raftkv operation cancel 7 --no-wait",
            "raftkv operation watch 7",
            "raftkv slots",
            "raftkv slots {user1}.cart -o json",
            "raftkv node transfer node2",
            "raftkv snapshot",
            "raftkv bench --workload put,get --distribution zipfian --endpoints a:1,b:2 --seed 7",
            "raftkv bench --compare --etcd a:2379 --rounds 3 --conns 4 --json",
            "raftkv completion zsh",
        ] {
            parse(line).expect(line);
        }
    }

    #[test]
    fn we_wait_longer_than_the_server_takes() {
        #[derive(Parser)]
        struct Reaches {
            #[command(flatten)]
            management: ManagementArgs,
        }
        let parse = |line: &str| Reaches::try_parse_from(line.split_whitespace()).expect("a line");
        let management = |line: &str| parse(line).management;
        // A node that forwards waits a margin longer than the node that does it.
        for server in [deadlines::CHANGE, deadlines::TRANSFER, deadlines::SNAPSHOT] {
            let waits = management("x").timeout(server);
            assert!(waits > server + deadlines::FORWARD_MARGIN, "{waits:?} for {server:?}");
        }
        assert_eq!(management("x --timeout 7s").timeout(deadlines::CHANGE), Duration::from_secs(7));
    }

    #[test]
    fn an_attempt_has_a_part_of_the_time_at_most() {
        #[derive(Parser)]
        struct Reaches {
            #[command(flatten)]
            client: ClientArgs,
        }
        let server = |line: &str| Reaches::parse_from(line.split_whitespace()).client.server();
        assert_eq!(server("x"), ATTEMPT, "so that there is time for another");
        assert_eq!(server("x --timeout 2s"), Duration::from_secs(2));
        assert_eq!(server("x --timeout 0s"), Duration::from_millis(1));
        assert_eq!(server("x --timeout 1h"), ATTEMPT);
    }

    #[test]
    fn json_is_asked_for_in_one_way_everywhere() {
        for line in [
            "local",
            "status",
            "group list",
            "operation list",
            "operation show 7",
            "slots",
            "rebalance --dry-run",
            "bench",
            "upgrade check",
            "get a",
            "put a b",
            "delete a",
            "list",
        ] {
            parse(&format!("raftkv {line} -o json")).expect(line);
            parse(&format!("raftkv {line} --output text")).expect(line);
        }
        // Scripts of version 0.1.0 use the alias.
        for line in [
            "local",
            "status",
            "group list",
            "operation list",
            "operation show 7",
            "slots",
            "rebalance --dry-run",
            "bench",
        ] {
            parse(&format!("raftkv {line} --json")).expect(line);
        }
    }

    #[test]
    fn contradictions_are_refused() {
        for line in [
            "raftkv",
            "raftkv put greeting",
            "raftkv put greeting hello --file x",
            "raftkv put greeting hello --if-absent --if-revision 1",
            "raftkv local --nodes 0",
            "raftkv local --groups 0",
            "raftkv node kill",
            "raftkv status --router a:8000 --management b:6000",
            "raftkv group",
            "raftkv group add",
            "raftkv group weight west",
            "raftkv group weight west -1",
            "raftkv rebalance --dry-run --rate 1MiB",
            "raftkv rebalance --rate fast",
            "raftkv operation show seven",
            "raftkv operation cancel",
            "raftkv slots a b",
            "raftkv bench --compare",
            "raftkv bench --clients 0",
            "raftkv list --limit 0",
            "raftkv get greeting --consistency fresh",
            "raftkv node join node4",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        // As an empty shell variable gives it: an empty name must not come to mean the node that is asked.
        for before in ["node kill", "node remove", "node transfer", "node join", "group remove", "group add", "slots"] {
            let words = ["raftkv"].into_iter().chain(before.split(' ')).chain([""]);
            let after: &[&str] = if before == "node join" { &["10.0.0.4:8088"] } else { &[] };
            let parsed = Cli::try_parse_from(words.chain(after.iter().copied()));
            assert!(parsed.is_err(), "{before} ''");
        }
    }

    #[test]
    fn its_variables_are_known_to_the_other_programs() {
        fn check(command: &clap::Command) {
            for name in command.get_arguments().filter_map(clap::Arg::get_env) {
                assert!(name.to_str().is_some_and(raftkv_runtime::variables::is_known), "{name:?}");
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
