//! [`ShardedBackend`]: many groups as one key-value store.

mod holds;
mod members;
mod merge;
mod range;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::{join_all, try_join_all};
use raftkv_backend::{Backend, BackendError, Entry, ListRequest, Page, Read, RequestContext, ServedBy};
use raftkv_http::RaftStats;
use raftkv_http::limits::{self, CountedList, MAX_LISTS, ROUTER_RUNNING_LISTS};
use raftkv_kv::{Key, Op, Outcome, SlotSet, slot_of};
use raftkv_link::budget::Budget;
use raftkv_link::proposer::weight;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::data::group::Found;
use crate::data::groups::Groups;
use crate::data::map::{GroupId, MapWatch, ShardMap};

use holds::Holds;
use members::Members;
use merge::Merge;
use range::slots_of_range;
use writes::{Part, Pending, Writes};

/// When a listing that was turned away should come back.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A [`Backend`] over all groups of the shard map. Cloning shares everything.
///
/// A request goes to the group that the map names. Where that group says that the slot is not its own, nothing was applied,
/// and the request is held until a group serves the slot. Unknown outcomes are never sent to another group.
#[derive(Clone)]
pub struct ShardedBackend {
    shared: Arc<Shared>,
}

struct Shared {
    router: String,
    maps: MapWatch,
    groups: Groups,
    holds: Holds,
    lists: Budget,
    running_lists: Semaphore,
    members: Members,
    wrong_group: metrics::Counter,
}

impl ShardedBackend {
    /// Starts what is behind it, which ends after `stop`. `router` is this router's id; `http` is for the management
    /// interface of nodes.
    pub fn start(
        router: String,
        maps: MapWatch,
        groups: Groups,
        http: reqwest::Client,
        stop: &Shutdown,
    ) -> (Self, JoinHandle<()>) {
        let (holds, task) = Holds::start(&maps, &groups, stop);
        let shared = Shared {
            members: Members::new(router.clone(), maps.clone(), groups.clone(), http),
            router,
            maps,
            groups,
            holds,
            lists: Budget::new(MAX_LISTS),
            running_lists: Semaphore::new(ROUTER_RUNNING_LISTS),
            wrong_group: metrics::counter!("raftkv_router_wrong_group_total"),
        };
        (Self { shared: Arc::new(shared) }, task)
    }

    /// The newest map; the first one is waited for.
    async fn map(&self, deadline: Instant) -> Result<Arc<ShardMap>, BackendError> {
        if let Some(map) = self.shared.maps.current() {
            return Ok(map);
        }
        self.shared.maps.newer_than(0, deadline).await.ok_or_else(|| no_map(&self.shared.maps))
    }

    /// Waits until it makes sense to ask for a slot again; the group to ask, if not the one that the map says.
    async fn hold(
        &self,
        slot: u16,
        map: &ShardMap,
        asked: Option<GroupId>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Option<GroupId>, BackendError> {
        if asked.is_some() {
            self.shared.wrong_group.increment(1);
        }
        self.shared.holds.wait(slot, map, asked, bytes, deadline).await
    }

    /// Sends parts to their groups, all at once; what was refused as another group's, with the group that did.
    async fn send(
        &self,
        writes: &mut Writes,
        map: &ShardMap,
        parts: Vec<Part>,
        deadline: Instant,
    ) -> Vec<(Option<GroupId>, Vec<Pending>)> {
        let sent = parts.into_iter().map(|part| async move {
            let answer = match self.shared.groups.client(map, part.group) {
                Some(client) => Some(client.write(part.ops(), deadline).await),
                None => None,
            };
            (part, answer)
        });
        let mut refused = Vec::new();
        for (part, answer) in join_all(sent).await {
            let group = part.group;
            match answer {
                Some(answer) => refused.push((Some(group), writes.answered(part, answer))),
                // The map is newer or older than what said to ask it.
                None => refused.push((None, part.pending)),
            }
        }
        refused
    }

    /// Holds operations by slot; those that were held in vain have their results then.
    async fn hold_all(
        &self,
        writes: &mut Writes,
        map: &ShardMap,
        refused: Vec<(Option<GroupId>, Vec<Pending>)>,
        deadline: Instant,
    ) {
        let mut by_slot: Vec<(u16, Option<GroupId>, Vec<Pending>)> = Vec::new();
        for (group, pending) in refused {
            for pending in pending {
                match by_slot.iter_mut().find(|(slot, ..)| *slot == pending.slot) {
                    Some((_, _, same)) => same.push(pending),
                    None => by_slot.push((pending.slot, group, vec![pending])),
                }
            }
        }
        let held = by_slot.into_iter().map(|(slot, asked, pending)| async move {
            let bytes = pending.iter().map(|pending| weight(&pending.op)).sum();
            (self.hold(slot, map, asked, bytes, deadline).await, pending)
        });
        for (waited, mut pending) in join_all(held).await {
            match waited {
                Ok(hint) => {
                    pending.iter_mut().for_each(|pending| pending.hint = hint);
                    writes.again(pending);
                }
                Err(error) => writes.failed(pending, &error),
            }
        }
    }

    /// One operation, as most requests are: without the lists that several need.
    async fn write_one(&self, ctx: RequestContext, op: Op) -> Result<Outcome, BackendError> {
        let slot = slot_of(op.command.key().as_bytes());
        let mut hint = None;
        loop {
            let map = self.map(ctx.deadline).await?;
            let asked = hint.take().or_else(|| map.slots.get(slot));
            let client = asked.and_then(|group| self.shared.groups.client(&map, group));
            if let Some(client) = &client {
                let mut outcomes = client.write(vec![op.clone()], ctx.deadline).await?;
                match outcomes.pop() {
                    Some(Outcome::WrongGroup) => {}
                    Some(outcome) => return Ok(outcome),
                    None => return Err(BackendError::Internal("a write without an outcome".to_owned())),
                }
            }
            let asked = asked.filter(|_| client.is_some());
            hint = self.hold(slot, &map, asked, weight(&op), ctx.deadline).await?;
        }
    }

    /// A page of the keys of these groups, and the slots it has them of.
    async fn list_once(
        &self,
        ctx: RequestContext,
        map: &ShardMap,
        groups: &[GroupId],
        request: &ListRequest,
    ) -> Result<(Page, SlotSet, u64), BackendError> {
        let mut merge = Merge::new(request, groups.len());
        let mut store_revision = 0;
        loop {
            let wanted = merge.wanted();
            if wanted.is_empty() {
                let served = merge.served();
                let revision = if groups.len() == 1 { store_revision } else { 0 };
                return Ok((merge.page(), served, revision));
            }
            let pages = wanted.into_iter().map(|(at, part)| async move {
                let group = groups[at];
                let client = self
                    .shared
                    .groups
                    .client(map, group)
                    .ok_or_else(|| BackendError::Unavailable(format!("group {group} is not in the shard map")))?;
                let page = client.list(&part, ctx.consistency, ctx.deadline).await;
                Ok((at, page.map_err(|error| of_group(group, error))?))
            });
            for (at, page) in try_join_all(pages).await? {
                store_revision = page.store_revision;
                merge.came(at, page);
            }
        }
    }
}

impl Backend for ShardedBackend {
    async fn write(&self, ctx: RequestContext, mut ops: Vec<Op>) -> Result<Vec<Outcome>, BackendError> {
        if ops.len() == 1
            && let Some(op) = ops.pop()
        {
            return Ok(vec![self.write_one(ctx, op).await?]);
        }
        let mut writes = Writes::new(ops);
        while !writes.is_done() {
            let map = match self.map(ctx.deadline).await {
                Ok(map) => map,
                Err(error) => {
                    writes.give_up(&error);
                    break;
                }
            };
            let (parts, homeless) = writes.split(&map);
            let mut refused = self.send(&mut writes, &map, parts, ctx.deadline).await;
            refused.push((None, homeless));
            self.hold_all(&mut writes, &map, refused, ctx.deadline).await;
        }
        writes.result()
    }

    async fn get(&self, ctx: RequestContext, key: Key) -> Result<Read<Option<Entry>>, BackendError> {
        let slot = slot_of(key.as_bytes());
        let mut hint = None;
        loop {
            let map = self.map(ctx.deadline).await?;
            let asked = hint.take().or_else(|| map.slots.get(slot));
            let client = asked.and_then(|group| self.shared.groups.client(&map, group));
            if let Some(client) = &client
                && let Found::Here { entry, store_revision } = client.get(&key, ctx.consistency, ctx.deadline).await?
            {
                return Ok(Read { value: entry, store_revision, consistency: ctx.consistency });
            }
            let asked = asked.filter(|_| client.is_some());
            hint = self.hold(slot, &map, asked, key.as_bytes().len(), ctx.deadline).await?;
        }
    }

    async fn list(&self, ctx: RequestContext, request: ListRequest) -> Result<Read<Page>, BackendError> {
        let Some(_share) = self.shared.lists.take(1) else {
            limits::count_refused_list();
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let _counted = CountedList::begin();
        let turn = tokio::time::timeout_at(ctx.deadline.into(), self.shared.running_lists.acquire());
        let _turn = match turn.await {
            Ok(Ok(turn)) => turn,
            Ok(Err(_)) => return Err(BackendError::ShuttingDown),
            Err(_) => return Err(BackendError::DeadlineExceeded("the listing was not done in time".to_owned())),
        };
        let slots = slots_of_range(&request.start, request.end.as_deref());
        loop {
            let map = self.map(ctx.deadline).await?;
            let groups = holders_of(&map, &slots);
            let (page, served, store_revision) = self.list_once(ctx, &map, &groups, &request).await?;
            // A slot that changed hands between the questions may have been served in none of them.
            let Some(missing) = slots.difference(&served).iter().next() else {
                return Ok(Read { value: page, store_revision, consistency: ctx.consistency });
            };
            self.hold(missing, &map, map.slots.get(missing), request.start.len(), ctx.deadline).await?;
        }
    }

    async fn join(&self, ctx: RequestContext, name: String, raft_address: String) -> Result<String, BackendError> {
        self.shared.members.join(ctx.deadline, &name, &raft_address).await
    }

    async fn remove(&self, ctx: RequestContext, name: String) -> Result<String, BackendError> {
        self.shared.members.remove(ctx.deadline, &name).await
    }

    fn served_by(&self) -> ServedBy {
        ServedBy { node: self.shared.router.clone() }
    }

    async fn ready(&self) -> Result<(), BackendError> {
        // How the groups are is told by /v1/cluster: one that is down must not take this router from the others' clients.
        self.shared.maps.current().map(|_| ()).ok_or_else(|| no_map(&self.shared.maps))
    }
}

impl RaftStats for ShardedBackend {
    async fn raft_stats(&self, ctx: RequestContext) -> Result<BTreeMap<String, String>, BackendError> {
        self.shared.members.stats(ctx.deadline).await
    }
}

fn no_map(maps: &MapWatch) -> BackendError {
    let reason = maps.explanation().unwrap_or_else(|| "no meta group answered".to_owned());
    BackendError::Unavailable(format!("the shard map is not known yet: {reason}"))
}

/// The groups where keys of these slots are, or may be in a moment. Rising.
fn holders_of(map: &ShardMap, slots: &SlotSet) -> Vec<GroupId> {
    if slots.len() > 1 {
        return map.holders();
    }
    let of_slot = |slot: u16| {
        let moving = map.move_of(slot).into_iter().flat_map(|moving| [moving.from, moving.to]);
        map.slots.get(slot).into_iter().chain(moving)
    };
    let mut groups: Vec<GroupId> = slots.iter().flat_map(of_slot).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// Says which group it was.
fn of_group(group: GroupId, error: BackendError) -> BackendError {
    match error {
        BackendError::Unavailable(reason) => BackendError::Unavailable(format!("group {group}: {reason}")),
        error => error,
    }
}
