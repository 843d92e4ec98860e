//! [`Members`]: nodes of the groups, joining and leaving over the interface that Arima's clients know.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures::future::join_all;
use raftkv_backend::BackendError;
use raftkv_kv::Ownership;
use raftkv_proto::group::{Description, Member};
use raftkv_proto::{EXPIRY_HEADER, Expiry};
use reqwest::StatusCode;
use serde::Deserialize;

use crate::data::groups::Groups;
use crate::data::map::{GroupId, MapWatch, ShardMap};

/// A node that does not say how it is within this is left out.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// For a node's status, before it is asked for a change.
const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the group concerned and asks a node of it over its management interface.
pub(super) struct Members {
    router: String,
    maps: MapWatch,
    groups: Groups,
    http: reqwest::Client,
}

/// What a node answers to a change of its group's members.
#[derive(Debug, Deserialize)]
struct Changed {
    result: String,
}

/// What a node answers when it does not change them.
#[derive(Debug, Deserialize)]
struct Problem {
    detail: String,
}

/// What a node's status says of the process that answers; absent in version 0.1.0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    node: Life,
}

/// One run of a sidecar.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Life {
    incarnation: Option<u64>,
    uptime_ms: Option<u64>,
}

impl Members {
    pub(super) fn new(router: String, maps: MapWatch, groups: Groups, http: reqwest::Client) -> Self {
        Self { router, maps, groups, http }
    }

    /// Adds a node to the group with the fewest voters.
    pub(super) async fn join(&self, deadline: Instant, name: &str, address: &str) -> Result<String, BackendError> {
        let described = self.describe(deadline).await?;
        let known = described.iter().find(|(_, description)| member(description, name).is_some());
        // A node that comes back joins where it was.
        let chosen = known.or_else(|| {
            described.iter().min_by_key(|(_, description)| description.members.iter().filter(|m| m.voter).count())
        });
        let Some((group, description)) = chosen else { return Err(nobody()) };
        let query = [("peerID", name), ("peerAddress", address)];
        self.change(deadline, *group, description, "join", &query).await
    }

    /// Removes a node from its group.
    pub(super) async fn remove(&self, deadline: Instant, name: &str) -> Result<String, BackendError> {
        let described = self.describe(deadline).await?;
        match described.iter().find(|(_, description)| member(description, name).is_some()) {
            Some((group, description)) => {
                self.change(deadline, *group, description, "leave", &[("peerID", name)]).await
            }
            None => Err(BackendError::Rejected(format!("no group has a member called {name:?}"))),
        }
    }

    /// Figures about this router and its groups: names and values as text.
    pub(super) async fn stats(&self, deadline: Instant) -> Result<BTreeMap<String, String>, BackendError> {
        let map = self.map()?;
        let mut stats: BTreeMap<String, String> = [
            ("state", "Router".to_owned()),
            ("node_id", self.router.clone()),
            ("store", format!("{:016x}", map.store)),
            ("epoch", map.epoch.to_string()),
            ("num_groups", map.groups.len().to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        let described: BTreeMap<GroupId, Description> = self.describe(deadline).await?.into_iter().collect();
        for id in map.groups.keys() {
            stats.insert(format!("group_{id}"), described.get(id).map_or("unreachable".to_owned(), figures));
        }
        Ok(stats)
    }

    /// What a node of each group that can be reached says.
    async fn describe(&self, deadline: Instant) -> Result<Vec<(GroupId, Description)>, BackendError> {
        let map = self.map()?;
        let until = deadline.min(Instant::now() + DESCRIBE_TIMEOUT);
        let ask = |id: GroupId| {
            let client = self.groups.client(&map, id);
            async move { Some((id, client?.describe(until).await.ok()?)) }
        };
        Ok(join_all(map.groups.keys().copied().map(ask)).await.into_iter().flatten().collect())
    }

    /// Asks the members of a group, the leader first, until one answers.
    async fn change(
        &self,
        deadline: Instant,
        group: GroupId,
        description: &Description,
        what: &str,
        query: &[(&str, &str)],
    ) -> Result<String, BackendError> {
        let mut members: Vec<&Member> = description.members.iter().collect();
        members.sort_by_key(|member| (member.name != description.leader, !member.voter));
        let mut last = nobody();
        for member in members.into_iter().filter(|member| !member.management_address.is_empty()) {
            // A node that stands still must not make the change when nobody waits for it any more.
            let expiry = match self.expiry(deadline, &member.management_address).await {
                Ok(expiry) => expiry,
                Err(why) => {
                    last = BackendError::Unavailable(why);
                    continue;
                }
            };
            let left = deadline.saturating_duration_since(Instant::now());
            let url = format!("http://{}/{what}", member.management_address);
            let mut request = self.http.post(url).query(query).timeout(left);
            if let Some(expiry) = expiry {
                request = request.header(EXPIRY_HEADER, expiry.to_string());
            }
            match request.send().await {
                Ok(response) if response.status().is_success() => {
                    // A change whose answer breaks off was made.
                    let changed = response.json::<Changed>().await;
                    let result = changed.map_or_else(|_| "done".to_owned(), |changed| changed.result);
                    return Ok(format!("group {group}: {result}"));
                }
                Ok(response) => {
                    let status = response.status();
                    let problem = response.json::<Problem>().await.ok();
                    let detail = problem.map(|problem| format!("{} answers: {}", member.name, problem.detail));
                    return Err(not_changed(status, detail));
                }
                Err(error) if error.is_connect() => {
                    last = BackendError::Unavailable(format!("{} cannot be reached", member.management_address));
                }
                Err(_) => {
                    let what = format!("no answer from {} in time", member.management_address);
                    return Err(BackendError::OutcomeUnknown(what));
                }
            }
        }
        Err(last)
    }

    /// The deadline in terms of the node's own process, which has just answered; `None` for version 0.1.0.
    async fn expiry(&self, deadline: Instant, address: &str) -> Result<Option<Expiry>, String> {
        let left = deadline.saturating_duration_since(Instant::now()).min(STATUS_TIMEOUT);
        let asked = self.http.get(format!("http://{address}/status")).timeout(left).send().await;
        let silent = |_| format!("{address} does not answer");
        let status: Status = asked.map_err(silent)?.json().await.map_err(silent)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let life = status.node.incarnation.zip(status.node.uptime_ms);
        Ok(life.map(|(incarnation, age_ms)| Expiry::after(incarnation, age_ms, left)))
    }

    fn map(&self) -> Result<std::sync::Arc<ShardMap>, BackendError> {
        self.maps.current().ok_or_else(|| super::no_map(&self.maps))
    }
}

/// What it means for the change that a node answered with `status` and, where that is a problem of ours, its detail.
fn not_changed(status: StatusCode, detail: Option<String>) -> BackendError {
    match detail {
        Some(detail) if status == StatusCode::GATEWAY_TIMEOUT => BackendError::OutcomeUnknown(detail),
        Some(detail) if status.is_server_error() => BackendError::Unavailable(detail),
        // Cut off, or of a proxy: nothing is known of the change.
        None if status.is_server_error() => BackendError::OutcomeUnknown(format!("the node answered {status}")),
        detail => BackendError::Rejected(detail.unwrap_or_else(|| status.to_string())),
    }
}

fn nobody() -> BackendError {
    BackendError::Unavailable("no member of a group can be reached".to_owned())
}

fn member<'a>(description: &'a Description, name: &str) -> Option<&'a Member> {
    description.members.iter().find(|member| member.name == name)
}

/// A group in one line.
fn figures(description: &Description) -> String {
    let voters = description.members.iter().filter(|member| member.voter).count();
    let slots = Ownership::decode(&description.ownership).map_or(0, |ownership| ownership.owned.len());
    let leader = if description.leader.is_empty() { "none" } else { &description.leader };
    format!("leader={leader} term={} voters={voters} slots={slots} keys={}", description.term, description.keys)
}

#[cfg(test)]
mod tests {
    use raftkv_kv::SlotSet;

    use super::*;

    #[test]
    fn what_may_have_been_done_is_never_told_as_not_done() {
        let why = || "why".to_owned();
        for (status, error) in [
            (StatusCode::SERVICE_UNAVAILABLE, BackendError::Unavailable(why())),
            (StatusCode::BAD_GATEWAY, BackendError::Unavailable(why())),
            (StatusCode::GATEWAY_TIMEOUT, BackendError::OutcomeUnknown(why())),
            (StatusCode::CONFLICT, BackendError::Rejected(why())),
        ] {
            assert_eq!(not_changed(status, Some(why())), error, "{status}");
        }
        assert!(matches!(not_changed(StatusCode::BAD_GATEWAY, None), BackendError::OutcomeUnknown(_)));
        assert!(matches!(not_changed(StatusCode::NOT_FOUND, None), BackendError::Rejected(_)));
    }

    #[test]
    fn a_group_is_told_in_one_line() {
        let ownership = Ownership { store: 1, group: 2, owned: SlotSet::range(0, 9), ..Ownership::default() };
        let voter = |name: &str, voter| Member { name: name.to_owned(), voter, ..Member::default() };
        let description = Description {
            leader: "a".to_owned(),
            term: 3,
            keys: 7,
            members: vec![voter("a", true), voter("b", false)],
            ownership: ownership.encode(),
            ..Description::default()
        };
        assert_eq!(figures(&description), "leader=a term=3 voters=1 slots=10 keys=7");
        assert!(member(&description, "b").is_some() && member(&description, "c").is_none());
    }
}
