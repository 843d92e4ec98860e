//! [`ShardMap`]: which group owns which slot; [`MapWatch`]: the newest one that this router knows.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use raftkv_kv::{MoveId, SLOTS, SlotSet, slot_of};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{Notify, watch};

/// Names a group within its sharded store. Never 0, never used again.
pub type GroupId = u32;

/// In the place of a group where a slot has none.
const NOBODY: GroupId = 0;

/// Which group owns which slot, as of one version of the cluster document. Pure: no clock, socket or lock.
///
/// A hint: every group checks for itself what it owns, so an old map costs time and never harm.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    /// The sharded store.
    pub store: u64,
    /// The version of the document that it was made from: rises with every change, also of what is no part of the map.
    pub version: u64,
    /// Rises whenever slots change hands.
    pub epoch: u64,
    /// All groups that may be asked for something, by id; also those that own no slot (yet).
    pub groups: BTreeMap<GroupId, GroupEntry>,
    /// Who owns each slot.
    pub slots: SlotTable,
    /// The move under way, if any.
    pub moving: Option<Moving>,
}

/// Where a group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupEntry {
    /// Its id.
    pub id: GroupId,
    /// Its name, for people.
    pub name: String,
    /// host:port of the group service of some of its nodes; the others are learned from these.
    pub addresses: Vec<String>,
}

/// Slots on their way from one group to another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moving {
    /// Which move.
    pub id: MoveId,
    /// Which slots.
    pub slots: SlotSet,
    /// Who owned them when it began.
    pub from: GroupId,
    /// Who will.
    pub to: GroupId,
}

/// The group of each slot. Written as ranges `[first, last, group]`, without the slots that no group has.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotTable(Box<[GroupId]>);

impl SlotTable {
    /// No slot has a group.
    pub fn new() -> Self {
        Self(vec![NOBODY; usize::from(SLOTS)].into_boxed_slice())
    }

    /// Every slot has this group.
    pub fn all(group: GroupId) -> Self {
        Self(vec![group; usize::from(SLOTS)].into_boxed_slice())
    }

    /// The group of a slot; `None` = it has none, or there is no such slot.
    pub fn get(&self, slot: u16) -> Option<GroupId> {
        self.0.get(usize::from(slot)).copied().filter(|group| *group != NOBODY)
    }

    /// Gives slots to a group; 0 = to none.
    pub fn assign(&mut self, slots: &SlotSet, group: GroupId) {
        for slot in slots.iter() {
            self.0[usize::from(slot)] = group;
        }
    }

    /// The slots of a group; of 0 = those that no group has.
    pub fn slots_of(&self, group: GroupId) -> SlotSet {
        (0..SLOTS).filter(|slot| self.0[usize::from(*slot)] == group).collect()
    }

    /// Runs of slots with the same group, both ends included, rising, without the slots that no group has.
    pub fn ranges(&self) -> Vec<(u16, u16, GroupId)> {
        let mut ranges: Vec<(u16, u16, GroupId)> = Vec::new();
        for (slot, &group) in (0..SLOTS).zip(self.0.iter()) {
            match ranges.last_mut() {
                Some((_, last, owner)) if *owner == group => *last = slot,
                _ => ranges.push((slot, slot, group)),
            }
        }
        ranges.retain(|(_, _, group)| *group != NOBODY);
        ranges
    }
}

impl Default for SlotTable {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.ranges()).finish()
    }
}

impl Serialize for SlotTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.ranges().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SlotTable {
    /// Refuses ranges that this type would not have written.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Self::new();
        let mut next = 0u32;
        for (first, last, group) in Vec::<(u16, u16, GroupId)>::deserialize(deserializer)? {
            if u32::from(first) < next || first > last || last >= SLOTS || group == NOBODY {
                return Err(serde::de::Error::custom("the ranges of slots are not in order"));
            }
            next = u32::from(last) + 1;
            table.assign(&SlotSet::range(first, last), group);
        }
        Ok(table)
    }
}

impl ShardMap {
    /// The group that owns a key's slot; `None` = no group does.
    pub fn group_of(&self, key: &[u8]) -> Option<GroupId> {
        self.slots.get(slot_of(key))
    }

    /// The groups that own slots or are about to: those where keys are. Rising.
    pub fn holders(&self) -> Vec<GroupId> {
        let mut holders: Vec<GroupId> = self.slots.ranges().into_iter().map(|(_, _, group)| group).collect();
        holders.extend(self.moving.iter().flat_map(|moving| [moving.from, moving.to]));
        holders.sort_unstable();
        holders.dedup();
        holders
    }

    /// The move under way, if this slot is in it.
    pub fn move_of(&self, slot: u16) -> Option<&Moving> {
        self.moving.as_ref().filter(|moving| moving.slots.contains(slot))
    }
}

/// The newest map that this router knows. The control plane sets it, the data plane reads it. Cloning shares it.
#[derive(Debug, Clone)]
pub struct MapWatch {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    map: watch::Sender<Option<Arc<ShardMap>>>,
    refresh: Notify,
    /// Why no map is known.
    explanation: Mutex<Option<String>>,
}

impl MapWatch {
    /// None is known yet.
    pub fn new() -> Self {
        let shared = Shared { map: watch::Sender::new(None), refresh: Notify::new(), explanation: Mutex::default() };
        Self { shared: Arc::new(shared) }
    }

    /// The newest one.
    pub fn current(&self) -> Option<Arc<ShardMap>> {
        self.shared.map.borrow().clone()
    }

    /// Sets it, unless one that is as new is known; says whether it did.
    pub fn set(&self, map: ShardMap) -> bool {
        self.shared.map.send_if_modified(|known| {
            let is_newer = known.as_ref().is_none_or(|known| known.version < map.version || known.store != map.store);
            if is_newer {
                metrics::gauge!("raftkv_router_map_epoch").set(map.epoch as f64);
                *known = Some(Arc::new(map));
            }
            is_newer
        })
    }

    /// Control plane: why no map is known, for those who ask for one; `None` = no reason is known.
    pub fn explain(&self, reason: Option<String>) {
        *self.shared.explanation.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Data plane: why no map is known.
    pub fn explanation(&self) -> Option<String> {
        self.shared.explanation.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Told of every map that is set from now on.
    pub fn subscribe(&self) -> watch::Receiver<Option<Arc<ShardMap>>> {
        self.shared.map.subscribe()
    }

    /// Returns a map with a version above `version`, or `None` at the deadline.
    pub async fn newer_than(&self, version: u64, deadline: Instant) -> Option<Arc<ShardMap>> {
        let mut maps = self.subscribe();
        let newer = maps.wait_for(|map| map.as_ref().is_some_and(|map| map.version > version));
        tokio::time::timeout_at(deadline.into(), newer).await.ok()?.ok()?.clone()
    }

    /// Data plane: a group said that the map is old. Many such are one until somebody takes note.
    pub fn ask_refresh(&self) {
        metrics::counter!("raftkv_router_map_refreshes_asked_total").increment(1);
        self.shared.refresh.notify_one();
    }

    /// Control plane: returns when a refresh was asked for since the last time; for one task only. Cancel safe.
    pub async fn refresh_asked(&self) {
        self.shared.refresh.notified().await;
    }
}

impl Default for MapWatch {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(version: u64) -> ShardMap {
        let mut slots = SlotTable::all(1);
        slots.assign(&SlotSet::range(100, 200), 2);
        slots.assign(&SlotSet::range(150, 150), 0);
        let moving = Moving { id: 7, slots: SlotSet::range(0, 9), from: 1, to: 3 };
        ShardMap { store: 5, version, epoch: 1, groups: BTreeMap::new(), slots, moving: Some(moving) }
    }

    #[test]
    fn a_table_round_trips_as_ranges_and_bad_ranges_are_refused() {
        let map = map(1);
        let text = serde_json::to_string(&map.slots).unwrap();
        assert_eq!(text, "[[0,99,1],[100,149,2],[151,200,2],[201,16383,1]]");
        assert_eq!(serde_json::from_str::<SlotTable>(&text).unwrap(), map.slots);
        for bad in ["[[5,1,1]]", "[[0,9,1],[9,10,2]]", "[[0,16384,1]]", "[[0,1,0]]"] {
            assert!(serde_json::from_str::<SlotTable>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn slots_have_owners_and_some_are_on_their_way() {
        let map = map(1);
        assert_eq!(map.group_of(b"foo"), Some(1), "slot 12182");
        assert_eq!((map.slots.get(100), map.slots.get(150)), (Some(2), None));
        assert_eq!(map.slots.slots_of(2), "100-149,151-200".parse().unwrap());
        assert_eq!(map.holders(), [1, 2, 3]);
        assert!(map.move_of(9).is_some() && map.move_of(10).is_none());
    }

    #[tokio::test]
    async fn a_map_is_only_replaced_by_a_newer_one() {
        let maps = MapWatch::new();
        assert!(maps.set(map(2)) && !maps.set(map(2)) && !maps.set(map(1)));
        let waiting = maps.newer_than(2, Instant::now() + std::time::Duration::from_secs(10));
        let (newer, set) = tokio::join!(waiting, async { maps.set(map(3)) });
        assert!(set && newer.unwrap().version == 3);
        assert!(maps.newer_than(3, Instant::now()).await.is_none(), "nothing newer by then");
    }

    #[tokio::test]
    async fn many_questions_for_a_refresh_are_one() {
        let maps = MapWatch::new();
        maps.ask_refresh();
        maps.ask_refresh();
        maps.refresh_asked().await;
        let again = tokio::time::timeout(std::time::Duration::from_millis(1), maps.refresh_asked()).await;
        assert!(again.is_err());
    }
}
