//! `raftkv upgrade`: the cluster version, which decides what is written: how it stands, holding it, raising it.

use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::HumanDuration;
use raftkv_runtime::deadlines;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::ManagementArgs;
use crate::failure::{Cause, Failure};
use crate::management::Management;
use crate::output::{self, JsonArgs};
use crate::store::Router;
use raftkv_client::Endpoints;

/// Where to ask: a node of a group, or a router for all groups.
#[derive(Debug, Clone, clap::Args)]
struct WhereArgs {
    /// HTTP address of a router, for all groups of the store; separate several by commas, they are tried in turn
    #[arg(long, value_name = "URL[,URL]", conflicts_with = "management")]
    router: Option<Endpoints>,
    #[command(flatten)]
    management: ManagementArgs,
}

/// Arguments of `raftkv upgrade check`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv upgrade check
  raftkv upgrade check --router 10.0.0.9:8000

Prints the cluster version of each group, whether and when the version rises,
and whether the programs can be replaced by those of the next or of the previous
version of RaftKV. Exits with 1 if an upgrade to the next version is not
possible.")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    format: JsonArgs,
    #[command(flatten)]
    at: WhereArgs,
}

/// Arguments of `raftkv upgrade hold`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv upgrade hold               before you replace the first program
  raftkv upgrade hold --release     let the version rise again

Without a hold, the cluster version rises ten minutes after every member and
every router supports the next version. After that you cannot go back to the
previous version of RaftKV.")]
pub(crate) struct HoldArgs {
    /// Release the hold: the cluster version rises again
    #[arg(long)]
    release: bool,
    #[command(flatten)]
    at: WhereArgs,
}

/// Arguments of `raftkv upgrade finish`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Example:
  raftkv upgrade finish

Raises the cluster version now instead of after ten minutes. After that you
cannot go back to the previous version of RaftKV.")]
pub(crate) struct FinishArgs {
    #[command(flatten)]
    at: WhereArgs,
}

/// What a node or a router tells. Every field may be missing: a newer or older one must still be shown.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct View {
    groups: Vec<Group>,
    routers: Vec<RouterOf>,
}

/// The cluster version of a group.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Group {
    name: Option<String>,
    version: Option<u32>,
    next: Option<u32>,
    held: bool,
    blocked: Option<String>,
    due_in_ms: Option<u64>,
    members: Vec<Member>,
    error: Option<String>,
}

/// What a member speaks: in a node's words, or in a router's.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Member {
    name: String,
    spoken: Option<Spoken>,
    version_min: Option<u32>,
    version_max: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Spoken {
    min: u32,
    max: u32,
}

/// What a router speaks.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
struct RouterOf {
    id: String,
    version_min: u32,
    version_max: u32,
    alive: bool,
}

impl Member {
    fn spoken(&self) -> Option<(u32, u32)> {
        self.spoken.map(|range| (range.min, range.max)).or(self.version_min.zip(self.version_max))
    }

    fn told(&self) -> String {
        match self.spoken() {
            Some((min, max)) => format!("{} {}", self.name, range(min, max)),
            None => format!("{} does not answer", self.name),
        }
    }
}

fn range(min: u32, max: u32) -> String {
    if min == max { min.to_string() } else { format!("{min} to {max}") }
}

impl Group {
    fn state(&self) -> String {
        match (&self.error, &self.blocked, self.next, self.due_in_ms) {
            (Some(error), ..) => format!("not known: {error}"),
            (None, Some(why), Some(next), _) => format!("does not rise to {next}: {why}"),
            (None, _, Some(next), Some(due)) => {
                format!("rises to {next} in {}", HumanDuration(Duration::from_millis(due)))
            }
            (None, _, Some(next), None) => format!("may rise to {next}"),
            (None, _, None, _) if self.held => "is the highest; held".to_owned(),
            (None, _, None, _) => "is the highest".to_owned(),
        }
    }

    /// The lowest version that all its members can go back to.
    fn lowest(&self) -> Option<u32> {
        self.members.iter().filter_map(|member| member.spoken().map(|(min, _)| min)).max()
    }
}

impl View {
    /// Whether the programs can be replaced by those of the next version of RaftKV, which speak the highest version of these; and
    /// why not.
    fn upgrade(&self) -> Result<(), String> {
        let name = |group: &Group| group.name.clone().unwrap_or_else(|| "the group".to_owned());
        for group in &self.groups {
            if let Some(error) = &group.error {
                return Err(format!("{} is not known: {error}", name(group)));
            }
            if let Some(next) = group.next {
                let version = group.version.unwrap_or_default();
                return Err(format!(
                    "{} has the cluster version {version}, and the next version of RaftKV speaks {next} at least: it has to rise \
                     first",
                    name(group)
                ));
            }
        }
        Ok(())
    }

    /// Whether the programs can be replaced by those of the version of RaftKV before, and why not.
    fn downgrade(&self) -> Result<(), String> {
        for group in &self.groups {
            let (Some(version), Some(lowest)) = (group.version, group.lowest()) else {
                return Err("not every group answers".to_owned());
            };
            if version > lowest {
                return Err(format!(
                    "the cluster version of {} is {version}; a version of RaftKV that speaks {lowest} at most cannot go on with it",
                    group.name.as_deref().unwrap_or("the group")
                ));
            }
        }
        Ok(())
    }

    fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["group", "version", "state", "members speak"]);
        for group in &self.groups {
            let members: Vec<_> = group.members.iter().map(Member::told).collect();
            table.add_row([
                group.name.clone().unwrap_or_else(|| "-".to_owned()),
                group.version.map_or_else(|| "-".to_owned(), |version| version.to_string()),
                group.state(),
                members.join(", "),
            ]);
        }
        let mut text = table.to_string();
        if !self.routers.is_empty() {
            let told = |router: &RouterOf| {
                let gone = if router.alive { "" } else { " (gone; counts until it is forgotten)" };
                format!("{} {}{gone}", router.id, range(router.version_min, router.version_max))
            };
            text += &format!("\nrouters speak: {}", self.routers.iter().map(told).collect::<Vec<_>>().join(", "));
        }
        let answer = |can: Result<(), String>| can.map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned());
        text += &format!("\nto the next version of RaftKV: {}", answer(self.upgrade()));
        text += &format!("\nback to the version before: {}", answer(self.downgrade()));
        text
    }
}

/// Shows how things stand.
pub(crate) async fn check(args: CheckArgs) -> Result<(), Failure> {
    let (raw, view) = ask(&args.at, None).await?;
    output::line(if args.format.is_json() { raw.to_string() } else { view.to_text() })?;
    // All there is to say was said.
    view.upgrade().map_err(|_| Failure::failed(""))
}

/// Holds the version, or releases it.
pub(crate) async fn hold(args: HoldArgs) -> Result<(), Failure> {
    let (path, done) = match args.release {
        true => ("release", "released: the cluster version may rise"),
        false => ("hold", "held: the cluster version does not rise until `raftkv upgrade hold --release`"),
    };
    ask(&args.at, Some(path)).await?;
    output::line(done)
}

/// Raises the version.
pub(crate) async fn finish(args: FinishArgs) -> Result<(), Failure> {
    let (_, view) = ask(&args.at, Some("finish")).await?;
    for group in &view.groups {
        let name = group.name.as_deref().map_or_else(String::new, |name| format!("{name}: "));
        output::line(format!("{name}the cluster version is {}", group.version.unwrap_or_default()))?;
    }
    Ok(())
}

/// Gives the order, or asks only; the answer as it came, and in one form for nodes and routers.
async fn ask(at: &WhereArgs, order: Option<&str>) -> Result<(Value, View), Failure> {
    if let Some(router) = &at.router {
        return ask_router(router, at, order).await;
    }
    let management = Management::new(&at.management, deadlines::TRANSFER);
    let asked = async {
        // A router answers to other paths: its address may have been given for a management address.
        Management::for_status(&at.management).status().await?;
        match order {
            Some(order) => management.post(&format!("/upgrade/{order}")).await,
            None => management.get("/upgrade").await,
        }
    };
    match asked.await {
        Ok(answer) => {
            let raw: Value = serde_json::from_slice(&answer.body).map_err(not_understood)?;
            let view = serde_json::from_value(json!({ "groups": [raw] })).map_err(not_understood)?;
            Ok((raw, view))
        }
        Err(failure) if failure.cause == Cause::Stranger => {
            ask_router(&at.management.management, at, order).await.map_err(|_| failure)
        }
        Err(failure) => Err(failure),
    }
}

async fn ask_router(router: &Endpoints, at: &WhereArgs, order: Option<&str>) -> Result<(Value, View), Failure> {
    let router = Router::at(router.clone(), at.management.timeout(deadlines::ROUTER_DOCUMENT * 2));
    let raw: Value = match order {
        Some(order) => router.post_empty(&format!("/v1/cluster/upgrade/{order}")).await?,
        None => router.get("/v1/cluster/upgrade").await?,
    };
    let view = serde_json::from_value(raw.clone()).map_err(not_understood)?;
    Ok((raw, view))
}

fn not_understood(error: serde_json::Error) -> Failure {
    Failure::failed(format!("the answer cannot be understood: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(text: &str) -> View {
        serde_json::from_str(text).expect("a view")
    }

    #[test]
    fn before_the_version_rises_there_is_a_way_back_and_none_forward() {
        let view = view(
            r#"{"groups":[{"name":"group1","version":1,"next":2,"due_in_ms":599000,"members":[
                {"name":"n1","spoken":{"min":1,"max":2}},{"name":"n2","version_min":1,"version_max":2}]}],
                "routers":[{"id":"r1","version_min":1,"version_max":2,"alive":false}]}"#,
        );
        assert!(view.downgrade().is_ok());
        assert!(view.upgrade().is_err_and(|why| why.contains("has to rise first")));
        let text = view.to_text();
        for expected in ["rises to 2 in 10 minutes", "n1 1 to 2, n2 1 to 2", "r1 1 to 2 (gone", "before: yes"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn after_that_there_is_none_back() {
        let view =
            view(r#"{"groups":[{"version":2,"next":null,"members":[{"name":"n1","spoken":{"min":1,"max":2}}]}]}"#);
        assert!(view.upgrade().is_ok());
        assert!(view.downgrade().is_err_and(|why| why.contains("speaks 1 at most")));
        assert!(view.to_text().contains("is the highest"));
    }

    #[test]
    fn what_is_in_the_way_is_told() {
        let held =
            Group { version: Some(1), next: Some(2), blocked: Some("it is held".to_owned()), ..Group::default() };
        assert_eq!(held.state(), "does not rise to 2: it is held");
        let away = Group { error: Some("no leader".to_owned()), ..Group::default() };
        assert_eq!(away.state(), "not known: no leader");
        let view = View { groups: vec![away], ..View::default() };
        assert!(view.upgrade().is_err() && view.downgrade().is_err());
    }
}
