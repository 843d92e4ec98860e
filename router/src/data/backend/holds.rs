//! [`Holds`]: requests for slots that no group serves at the moment, until one does.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use raftkv_backend::BackendError;
use raftkv_http::limits::{HELD_BYTES, HELD_REQUESTS};
use raftkv_kv::{Ownership, SlotSet};
use raftkv_link::backoff::Backoff;
use raftkv_link::budget::Budget;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::data::groups::Groups;
use crate::data::map::{GroupId, MapWatch, ShardMap};

/// When a request that was turned away should come back: about as long as slots are fenced.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// First wait before the groups are asked whether they serve now.
const FIRST_PROBE: Duration = Duration::from_millis(2);
/// Longest wait between two such questions: what a request may lose to it once its slot is served again.
const LONGEST_PROBE: Duration = Duration::from_millis(10);
/// A group that does not answer within this is left out.
const PROBE_TIMEOUT: Duration = Duration::from_millis(250);
/// How often a newer map is asked for while requests are held.
const REFRESH_EVERY: Duration = Duration::from_millis(250);

/// Holds requests whose slot was refused by the group that should have it: while slots change hands nobody serves them, and
/// when they have, the map of this router is old. One task asks the groups what they serve, on behalf of all. Cloning shares
/// it.
///
/// What it says is where to try next. Whether a group really serves is decided there, in its own log.
#[derive(Debug, Clone)]
pub(crate) struct Holds {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    maps: MapWatch,
    requests: Budget,
    bytes: Budget,
    held: AtomicUsize,
    /// Somebody waits for a slot that is in no move: any group may have it.
    wants_all: AtomicBool,
    begun: Notify,
    /// Number of the probe that was begun last.
    started: AtomicU64,
    probes: watch::Sender<Arc<Probe>>,
}

/// What groups said that they serve.
#[derive(Debug, Default)]
struct Probe {
    number: u64,
    served: HashMap<GroupId, SlotSet>,
}

/// Counts one held request for as long as it lives.
struct Held<'a>(&'a Shared);

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Holds {
    /// Starts the task that asks, which ends after `stop`.
    pub(crate) fn start(maps: &MapWatch, groups: &Groups, stop: &Shutdown) -> (Self, JoinHandle<()>) {
        let shared = Shared {
            maps: maps.clone(),
            requests: Budget::new(HELD_REQUESTS),
            bytes: Budget::new(HELD_BYTES),
            held: AtomicUsize::new(0),
            wants_all: AtomicBool::new(false),
            begun: Notify::new(),
            started: AtomicU64::new(0),
            probes: watch::Sender::default(),
        };
        let holds = Self { shared: Arc::new(shared) };
        let prober = Prober { shared: Arc::clone(&holds.shared), groups: groups.clone() };
        let task = tokio::spawn(prober.run(stop.clone()));
        (holds, task)
    }

    /// Returns when it makes sense to ask for `slot` again: the group to ask, or `None` = the one that the map now says.
    ///
    /// `asked` is the group of `map` that refused, if any was asked. `bytes` is the size of what is held.
    ///
    /// # Errors
    /// `Overloaded` when too much is held already; `Unavailable` at the deadline.
    pub(crate) async fn wait(
        &self,
        slot: u16,
        map: &ShardMap,
        asked: Option<GroupId>,
        bytes: usize,
        deadline: Instant,
    ) -> Result<Option<GroupId>, BackendError> {
        let shared = &*self.shared;
        let moved_on = |newest: &ShardMap| {
            newest.version > map.version && newest.slots.get(slot).is_some() && newest.slots.get(slot) != asked
        };
        if shared.maps.current().is_some_and(|newest| moved_on(&newest)) {
            return Ok(None);
        }
        let (Some(_request), Some(_bytes)) = (shared.requests.take(1), shared.bytes.take(bytes)) else {
            metrics::counter!("raftkv_router_held_shed_total").increment(1);
            return Err(BackendError::Overloaded { retry_after: RETRY_AFTER });
        };
        let (mut probes, mut maps) = (shared.probes.subscribe(), shared.maps.subscribe());
        // A question that was asked before this request was refused may have an older answer than the refusal.
        let fresh = shared.started.load(Ordering::Acquire) + 1;
        if map.move_of(slot).is_none() {
            shared.wants_all.store(true, Ordering::Relaxed);
        }
        shared.held.fetch_add(1, Ordering::Relaxed);
        let _held = Held(shared);
        shared.begun.notify_one();
        loop {
            if maps.borrow_and_update().as_ref().is_some_and(|newest| moved_on(newest)) {
                return Ok(None);
            }
            {
                let probe = probes.borrow_and_update();
                if probe.number >= fresh
                    && let Some(server) = probe.server_of(slot, asked)
                {
                    return Ok(Some(server));
                }
            }
            tokio::select! {
                _ = probes.changed() => {}
                _ = maps.changed() => {}
                () = tokio::time::sleep_until(deadline.into()) => return Err(too_late(slot, map)),
            }
        }
    }
}

fn too_late(slot: u16, map: &ShardMap) -> BackendError {
    BackendError::Unavailable(match map.move_of(slot) {
        Some(moving) => {
            format!("slot {slot} is on its way from group {} to group {} and not served yet", moving.from, moving.to)
        }
        None => format!("no group serves slot {slot}"),
    })
}

impl Probe {
    /// A group that serves the slot, rather another one than the one that just refused.
    fn server_of(&self, slot: u16, refused: Option<GroupId>) -> Option<GroupId> {
        let servers = self.served.iter().filter(|(_, served)| served.contains(slot)).map(|(group, _)| *group);
        servers.min_by_key(|group| (Some(*group) == refused, *group))
    }

    fn all_served(&self) -> SlotSet {
        self.served.values().fold(SlotSet::new(), |all, served| all.union(served))
    }
}

/// The task that asks the groups, while requests are held.
struct Prober {
    shared: Arc<Shared>,
    groups: Groups,
}

impl Prober {
    async fn run(self, stop: Shutdown) {
        let held = metrics::gauge!("raftkv_router_held_requests");
        loop {
            tokio::select! {
                () = stop.wait() => return,
                () = self.shared.begun.notified() => {}
            }
            let mut backoff = Backoff::new(FIRST_PROBE, LONGEST_PROBE);
            let mut refresh_at = Instant::now();
            loop {
                let waiting = self.shared.held.load(Ordering::Relaxed);
                held.set(waiting as f64);
                if waiting == 0 {
                    self.shared.wants_all.store(false, Ordering::Relaxed);
                    break;
                }
                if Instant::now() >= refresh_at {
                    self.shared.maps.ask_refresh();
                    refresh_at = Instant::now() + REFRESH_EVERY;
                }
                tokio::select! {
                    () = stop.wait() => return,
                    () = async {
                        tokio::time::sleep(backoff.wait()).await;
                        self.probe().await;
                    } => {}
                }
            }
        }
    }

    async fn probe(&self) {
        let Some(map) = self.shared.maps.current() else { return };
        let number = self.shared.started.fetch_add(1, Ordering::AcqRel) + 1;
        // Most wait for the slots of the one move under way.
        let moving = map.moving.as_ref().filter(|_| !self.shared.wants_all.load(Ordering::Relaxed));
        let asked = match moving {
            Some(moving) => vec![moving.from, moving.to],
            None => map.groups.keys().copied().collect(),
        };
        let until = Instant::now() + PROBE_TIMEOUT;
        let ask = |group| {
            let client = self.groups.client(&map, group);
            async move {
                let description = client?.describe(until).await.ok()?;
                let ownership = Ownership::decode(&description.ownership).ok()?;
                // A node that was wiped, or is not yet what it will be, serves nothing of this store.
                ownership.is_sharded().then(|| (group, ownership.served()))
            }
        };
        let served = join_all(asked.into_iter().map(ask)).await.into_iter().flatten().collect();
        let probe = Probe { number, served };
        // Waking all who are held takes time that others need: only when there may be news for them.
        if moving.is_none_or(|moving| probe.all_served().overlaps(&moving.slots)) {
            self.shared.probes.send_replace(Arc::new(probe));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_group_is_asked_before_the_one_that_refused() {
        let all = SlotSet::all();
        let probe = Probe { number: 1, served: [(1, all.clone()), (2, all.clone())].into() };
        assert_eq!(probe.server_of(5, Some(1)), Some(2));
        assert_eq!(probe.server_of(5, Some(2)), Some(1));
        assert_eq!(probe.server_of(5, None), Some(1));
        let only = Probe { number: 1, served: [(1, all)].into() };
        assert_eq!(only.server_of(5, Some(1)), Some(1), "it serves again: a move was cancelled");
        assert_eq!(Probe::default().server_of(5, Some(1)), None);
    }
}
