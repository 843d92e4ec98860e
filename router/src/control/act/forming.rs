//! [`Inspector`]: looks at the groups: makes new ones a part of the store, sees when they are ready, keeps track of members.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use raftkv_kv::{Ownership, ROUTER_VERSIONS_KEY, RouterVersions, SystemAnswer, SystemCommand};
use raftkv_proto::group::Description;
use raftkv_runtime::shutdown::Shutdown;
use tokio::task::JoinSet;

use crate::control::attendance::lease::Roster;
use crate::control::document::records::{GroupId, GroupRecord, GroupState, MemberRecord, OperationKind};
use crate::control::document::state::ClusterState;
use crate::control::document::store::{ClusterStore, StoreError, Versioned};
use crate::control::now_ms;
use crate::data::group::GroupClient;
use crate::data::groups::Groups;

/// How often groups are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// Members of groups that are active change seldom: they are looked at in every so many rounds.
const ACTIVE_EVERY: u32 = 5;
/// A new group that does not get its nodes is used with those that it has after this long.
const PATIENCE_MS: u64 = 60_000;
/// A group gets this long to answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Looks at the groups while this router coordinates.
#[derive(Debug)]
pub(in crate::control) struct Inspector {
    store: ClusterStore,
    groups: Groups,
    /// Clients of groups that are not adopted yet: they know no identity to be asked by.
    forming: BTreeMap<GroupId, GroupClient>,
    tasks: JoinSet<()>,
    roster: Arc<Mutex<Roster>>,
    /// What the groups were told of the routers' versions.
    told: BTreeMap<GroupId, RouterVersions>,
    round: u32,
    stop: Shutdown,
}

impl Inspector {
    pub(in crate::control) fn new(
        store: ClusterStore,
        groups: Groups,
        roster: Arc<Mutex<Roster>>,
        stop: Shutdown,
    ) -> Self {
        let (forming, told) = (BTreeMap::new(), BTreeMap::new());
        Self { store, groups, forming, tasks: JoinSet::new(), roster, told, round: 0, stop }
    }

    /// Runs until `stop`; does something only while `leads` says so.
    pub(in crate::control) async fn run(mut self, leads: tokio::sync::watch::Receiver<bool>) {
        let stop = self.stop.clone();
        loop {
            tokio::select! {
                () = stop.wait() => break,
                () = tokio::time::sleep(ROUND) => {}
            }
            let leads = *leads.borrow();
            match self.store.latest().filter(|_| leads) {
                Some(latest) => tokio::select! {
                    () = stop.wait() => break,
                    () = self.look(&latest) => {}
                },
                None => {
                    self.keep_clients(|_| false);
                    self.told.clear();
                }
            }
        }
        self.keep_clients(|_| false);
        while self.tasks.join_next().await.is_some() {}
    }

    async fn look(&mut self, latest: &Versioned) {
        let state = &latest.state;
        let forming = |group: &GroupRecord| group.state == GroupState::Forming;
        self.keep_clients(|id| state.groups.get(&id).is_some_and(forming));
        let looks_at_all = self.round.is_multiple_of(ACTIVE_EVERY);
        self.round = self.round.wrapping_add(1);
        let spoken = self.roster.lock().unwrap_or_else(PoisonError::into_inner).spoken();
        self.told.retain(|id, _| state.groups.contains_key(id));
        for group in state.groups.values().filter(|group| group.is_live()) {
            if forming(group) {
                if let Err(reason) = self.look_at_forming(state, group).await {
                    tracing::debug!(group = group.id, "a group is not ready: {reason}");
                    self.note_waiting(state, group.id, &reason).await;
                }
            } else if looks_at_all && let Some(map) = self.store.map() {
                let Some(client) = self.groups.client(&map, group.id) else { continue };
                self.tell_versions(&client, group.id, spoken).await;
                if let Ok(described) = client.describe(Instant::now() + TIMEOUT).await {
                    // Trouble with it shows elsewhere; this only keeps the addresses fresh.
                    if let Err(error) = self.see(group, &described).await {
                        tracing::debug!(group = group.id, "what a group looks like was not written down: {error}");
                    }
                }
            }
        }
    }

    /// Makes a new group a part of the store, and active once it is ready. `Err` says what it waits for.
    async fn look_at_forming(&mut self, state: &ClusterState, group: &GroupRecord) -> Result<(), String> {
        let client = self.client(group);
        let until = Instant::now() + TIMEOUT;
        let described = client.describe(until).await.map_err(|error| format!("it does not answer: {error}"))?;
        if described.cluster_id.is_empty() || described.leader.is_empty() {
            return Err("it has no leader yet".to_owned());
        }
        let ownership = Ownership::decode(&described.ownership).map_err(|error| error.to_string())?;
        if ownership.is_sharded() && (ownership.store, ownership.group) != (state.store, group.id) {
            let (other, store) = (ownership.group, ownership.store);
            return Err(format!("these nodes are group {other} of store {store:016x}"));
        }
        self.see(group, &described).await.map_err(|error| error.to_string())?;
        let adopt = SystemCommand::Adopt { store: state.store, group: group.id, keep: false };
        match client.system(adopt, until).await {
            Ok(SystemAnswer::Done) => {}
            Ok(SystemAnswer::Refused(refusal)) => return Err(refusal.to_string()),
            Ok(other) => return Err(format!("an answer that does not fit: {other:?}")),
            Err(error) => return Err(error.to_string()),
        }
        let spoken = self.roster.lock().unwrap_or_else(PoisonError::into_inner).spoken();
        self.tell_versions(&client, group.id, spoken).await;
        ready(state, group, voters(&described), now_ms())?;
        let until = Instant::now() + TIMEOUT;
        let activated = self.store.update(until, |state| state.activate_group(group.id)).await;
        activated.map_err(|error| error.to_string())?;
        tracing::info!(group = group.id, voters = voters(&described), "the group is active");
        Ok(())
    }

    /// Writes into a group what its routers speak, where that has changed: the group waits for it with a newer cluster version. It is
    /// written again by each router that begins to coordinate, so a document that was lost comes back.
    async fn tell_versions(&mut self, client: &GroupClient, group: GroupId, spoken: Option<RouterVersions>) {
        let Some(spoken) = spoken.filter(|spoken| self.told.get(&group) != Some(spoken)) else { return };
        let until = Instant::now() + TIMEOUT;
        let key = Bytes::from_static(ROUTER_VERSIONS_KEY);
        let written = async {
            let (expected_version, now) = client.system_key(key.clone(), until).await?;
            if RouterVersions::decode(&now).is_ok_and(|now| now == spoken) {
                return Ok(SystemAnswer::Done);
            }
            let value = spoken.encode();
            client.system(SystemCommand::PutKey { key: key.clone(), expected_version, value }, until).await
        };
        match written.await {
            Ok(SystemAnswer::Refused(refusal)) => tracing::debug!(group, %refusal, "the routers' versions"),
            Ok(_) => drop(self.told.insert(group, spoken)),
            Err(error) => tracing::debug!(group, %error, "a group was not told the routers' versions"),
        }
    }

    async fn see(&self, group: &GroupRecord, described: &Description) -> Result<(), StoreError> {
        if described.cluster_id.is_empty() {
            return Ok(());
        }
        let members: Vec<MemberRecord> = described.members.iter().map(member).collect();
        let until = Instant::now() + TIMEOUT;
        let seen = self
            .store
            .update(until, |state| state.see_group(group.id, &described.cluster_id, members.clone(), now_ms()));
        seen.await.map(drop)
    }

    /// Shows why the operation of a new group waits.
    async fn note_waiting(&self, state: &ClusterState, group: GroupId, reason: &str) {
        let waits = state
            .operations
            .values()
            .find(|operation| !operation.state.is_over() && operation.task == OperationKind::AddGroup { group });
        let Some(operation) = waits.map(|operation| operation.id) else { return };
        let reason = format!("group {group} is not ready: {reason}");
        let until = Instant::now() + TIMEOUT;
        let noted = self.store.update(until, |state| state.note_stalled(operation, Some(&reason))).await;
        if let Err(error) = noted {
            tracing::debug!(operation, "a reason was not written down: {error}");
        }
    }

    fn client(&mut self, group: &GroupRecord) -> GroupClient {
        let addresses = group.reachable_at();
        if let Some(client) = self.forming.get(&group.id) {
            client.set_addresses(addresses);
            return client.clone();
        }
        let (client, tasks) = GroupClient::start(&format!("new group {}", group.id), addresses, None, &self.stop);
        self.tasks.spawn(tasks.ended());
        self.forming.insert(group.id, client.clone());
        client
    }

    fn keep_clients(&mut self, keep: impl Fn(GroupId) -> bool) {
        self.forming.retain(|id, client| {
            let kept = keep(*id);
            if !kept {
                client.stop();
            }
            kept
        });
        while self.tasks.try_join_next().is_some() {}
    }
}

/// Whether a new group may own slots. One whose nodes register is waited for until it is complete; one that was added by its
/// addresses is as its operator wants it.
fn ready(state: &ClusterState, group: &GroupRecord, voters: usize, now_ms: u64) -> Result<(), String> {
    let registers = state.nodes.values().any(|node| node.group == group.id && node.bootstrap);
    let waited = group.reached_ms > 0 && now_ms.saturating_sub(group.reached_ms) >= PATIENCE_MS;
    if voters == 0 {
        Err("it has no voters".to_owned())
    } else if registers && voters < state.replicas && !waited {
        Err(format!("it has {voters} of {} voters", state.replicas))
    } else {
        Ok(())
    }
}

fn voters(described: &Description) -> usize {
    described.members.iter().filter(|member| member.voter).count()
}

fn member(member: &raftkv_proto::group::Member) -> MemberRecord {
    MemberRecord {
        name: member.name.clone(),
        voter: member.voter,
        management_address: member.management_address.clone(),
        group_address: member.group_address.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::decide::placement::Registration;

    #[test]
    fn a_group_that_registers_is_waited_for_and_not_for_ever() {
        let mut state = ClusterState::init(7, vec!["a:1".to_owned()], 3);
        let node = Registration {
            name: "d".to_owned(),
            bootstrap: true,
            raft_address: "d:1".to_owned(),
            management_address: "d:2".to_owned(),
            group_address: "d:3".to_owned(),
            group: None,
        };
        state.register(&node, 1).unwrap();
        state.see_group(2, "c", Vec::new(), 1_000).unwrap();
        let group = state.groups[&2].clone();
        assert!(ready(&state, &group, 1, 2_000).is_err());
        assert!(ready(&state, &group, 3, 2_000).is_ok());
        assert!(ready(&state, &group, 1, 1_000 + PATIENCE_MS).is_ok());
        assert!(ready(&state, &group, 0, 1_000 + PATIENCE_MS).is_err());
        state.forget_node("d").unwrap();
        assert!(ready(&state, &group, 1, 2_000).is_ok(), "added by its address");
    }
}
