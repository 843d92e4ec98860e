//! `raftkv node` and `raftkv snapshot`: changes to the group.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::builder::NonEmptyStringValueParser;
use hyper::StatusCode;
use raftkv_runtime::config::HumanDuration;
use raftkv_runtime::deadlines;
use tokio::time::{Instant, sleep};

use crate::args::ManagementArgs;
use crate::failure::{Cause, Failure};
use crate::management::{Management, Status, said};
use crate::output;
use crate::store::Router;
use raftkv_client::{Endpoints, encode};

/// How often to look whether an accepted change is done.
const POLL: Duration = Duration::from_millis(500);

/// How long to wait for what was accepted.
#[derive(Debug, Clone, clap::Args)]
struct WaitArgs {
    /// How long to wait until an accepted change is complete; 0s = return at once
    #[arg(long, value_name = "DURATION", default_value = "5m")]
    wait: HumanDuration,
    #[command(flatten)]
    management: ManagementArgs,
}

/// Arguments of `raftkv node join`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  raftkv node join node4 10.0.0.4:8088

The new node receives a snapshot and the log before it becomes a voter. A node
that lost its disk rejoins under its old name and replaces the old member.")]
pub(crate) struct JoinArgs {
    /// Name of the node (its NODE_ID)
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// host:port of the node's Raft listener, as the other nodes reach it
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    raft_addr: String,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `raftkv node remove`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  raftkv node remove node4")]
pub(crate) struct RemoveArgs {
    /// Name of the node
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `raftkv node kill`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  raftkv node kill node4

The node leaves its group and its processes end. At the next start (by a
supervisor or a container's restart policy) the node deletes its data and its
log and starts empty. The last node of a group is killed only if the group owns
no slots. Use `raftkv node remove` for a node that cannot be reached.")]
pub(crate) struct KillArgs {
    /// Name of the node
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Kill the last node of the store and delete every key; implies --yes
    #[arg(long)]
    yes_delete_all_keys: bool,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `raftkv node transfer`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv node transfer          to any other voter
  raftkv node transfer node2    to node2")]
pub(crate) struct TransferArgs {
    /// Name of the next leader [default: any other voter]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    name: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Arguments of `raftkv snapshot`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  raftkv snapshot --management 10.0.0.2:6000")]
pub(crate) struct SnapshotArgs {
    #[command(flatten)]
    wait: WaitArgs,
}

/// The same arguments with addresses of nodes, where those of a router are given, as in a router's container: of the
/// group that `name` is a member of.
async fn reach(args: WaitArgs, name: Option<&str>) -> Result<WaitArgs, Failure> {
    let given = args.management.management.clone();
    match Management::for_status(&args.management).status().await {
        Err(failure) if failure.cause == Cause::Stranger => {
            let router = Router::at(given, args.management.timeout(deadlines::ROUTER_DOCUMENT));
            let (_, view) = router.cluster().await.map_err(|_| failure)?;
            let nodes: Endpoints = view.managed_at(name)?.join(",").parse().map_err(Failure::failed)?;
            Ok(WaitArgs { management: args.management.at(nodes), ..args })
        }
        // What the request itself meets tells more.
        _ => Ok(args),
    }
}

/// Adds a node.
pub(crate) async fn join(args: JoinArgs) -> Result<(), Failure> {
    let wait = reach(args.wait, None).await?;
    let path = format!("/join?peerID={}&peerAddress={}", encode(&args.name), encode(&args.raft_addr));
    let name = args.name;
    let progress = |status: &Status| {
        let member = status.members.iter().find(|member| member.name.as_deref() == Some(&name));
        match member {
            Some(member) if member.voter == Some(true) => Progress::Done(format!("{name} is a voter")),
            Some(member) => Progress::Waiting(match member.lag {
                Some(lag) => format!("{name} is catching up: {} entries left", output::thousands(lag)),
                None => format!("{name} is catching up"),
            }),
            None => Progress::Waiting(format!("{name} is not a member yet")),
        }
    };
    change(&wait, deadlines::CHANGE, &path, progress).await
}

/// Removes a node.
pub(crate) async fn remove(args: RemoveArgs) -> Result<(), Failure> {
    let wait = reach(args.wait, Some(&args.name)).await?;
    let path = format!("/leave?peerID={}", encode(&args.name));
    let name = args.name;
    let progress = |status: &Status| {
        if status.members.iter().any(|member| member.name.as_deref() == Some(&name)) {
            Progress::Waiting(format!("{name} is still a member"))
        } else {
            Progress::Done(format!("{name} is no member any more"))
        }
    };
    change(&wait, deadlines::CHANGE, &path, progress).await
}

/// Kills a node.
pub(crate) async fn kill(args: KillArgs) -> Result<(), Failure> {
    let name = args.name;
    if !(args.yes || args.yes_delete_all_keys) {
        confirm(&format!("Delete everything that {name} has? Type its name to continue: "), &name)?;
    }
    let wait = reach(args.wait, Some(&name)).await?;
    let confirmed = if args.yes_delete_all_keys { "&confirm=delete-all-keys" } else { "" };
    let path = format!("/kill?peerID={}{confirmed}", encode(&name));
    let progress = |status: &Status| {
        if status.members.iter().any(|member| member.name.as_deref() == Some(&name)) {
            Progress::Waiting(format!("{name} is still a member"))
        } else {
            Progress::Done(format!("{name} is no member any more; its data is wiped at its next start at the latest"))
        }
    };
    let killed = change(&wait, deadlines::CHANGE, &path, progress).await;
    killed.map_err(|mut failure| {
        if failure.message.contains("confirm=delete-all-keys") {
            failure.message.push_str("; here: --yes-delete-all-keys");
        }
        failure
    })
}

/// Has somebody at a terminal type `expected`; where there is none, the flag has to say it.
fn confirm(question: &str, expected: &str) -> Result<(), Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage("nobody is there to be asked: say --yes"));
    }
    write!(std::io::stderr(), "{question}")?;
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() == expected { Ok(()) } else { Err(Failure::failed("nothing was done")) }
}

/// Hands leadership over.
pub(crate) async fn transfer(args: TransferArgs) -> Result<(), Failure> {
    let wait = reach(args.wait, args.name.as_deref()).await?;
    let path = match &args.name {
        Some(name) => format!("/transfer-leader?to={}", encode(name)),
        None => "/transfer-leader".to_owned(),
    };
    // Without a name any other leader will do: know who leads now.
    let before = match &args.name {
        Some(_) => None,
        None => Management::for_status(&wait.management).status().await?.1.node.leader,
    };
    let progress = |status: &Status| match (&status.node.leader, &args.name) {
        (Some(leader), Some(name)) if leader == name => Progress::Done(format!("{leader} leads")),
        (Some(leader), None) if Some(leader) != before.as_ref() => Progress::Done(format!("{leader} leads")),
        (Some(leader), _) => Progress::Waiting(format!("{leader} still leads")),
        (None, _) => Progress::Waiting("nobody leads at the moment".to_owned()),
    };
    change(&wait, deadlines::TRANSFER, &path, progress).await
}

/// Has a snapshot taken.
pub(crate) async fn snapshot(args: SnapshotArgs) -> Result<(), Failure> {
    let wait = reach(args.wait, None).await?;
    let (_, before) = Management::for_status(&wait.management).status().await?;
    let wanted = before.node.applied_index;
    let progress = |status: &Status| match (status.node.snapshot_index, wanted) {
        (Some(index), Some(wanted)) if index >= wanted => Progress::Done(format!("snapshot at index {index}")),
        (_, None) => Progress::Done("nothing to take a snapshot of".to_owned()),
        _ => Progress::Waiting("taking the snapshot".to_owned()),
    };
    change(&wait, deadlines::SNAPSHOT, "/snapshot", progress).await
}

/// How far an accepted change has come.
enum Progress {
    Done(String),
    Waiting(String),
}

/// Asks for the change; when it was accepted but is not done yet (202), waits until the status shows it.
///
/// `server`: how long the node that does it takes at most.
async fn change(
    args: &WaitArgs,
    server: Duration,
    path: &str,
    progress: impl Fn(&Status) -> Progress,
) -> Result<(), Failure> {
    let answer = Management::new(&args.management, server).post(path).await?;
    if answer.status != StatusCode::ACCEPTED || args.wait.get().is_zero() {
        return output::line(said(&answer));
    }
    let deadline = Instant::now() + args.wait.get();
    let spinner = output::spinner(said(&answer));
    let management = Management::for_status(&args.management);
    loop {
        // A node that does not answer for a moment, for an election say, does not undo what was accepted.
        let waiting = match management.status().await {
            Ok((_, status)) => match progress(&status) {
                Progress::Done(message) => {
                    spinner.finish_and_clear();
                    return output::line(message);
                }
                Progress::Waiting(message) => message,
            },
            Err(failure) => failure.message,
        };
        if Instant::now() >= deadline {
            spinner.finish_and_clear();
            let message = format!("accepted, but not done within {}: {waiting}", args.wait);
            return Err(Failure::unavailable(message));
        }
        spinner.set_message(waiting);
        sleep(POLL).await;
    }
}
