//! [`Presence`]: which routers run, and which of them coordinates. A small document of its own in the meta group, so that
//! its steady change does not touch the cluster document.
//!
//! The lease is for progress and never for safety: two coordinators at once do no harm, only work twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use raftkv_kv::RouterVersions;
use raftkv_proto::VersionRange;
use serde::{Deserialize, Serialize};

use crate::control::document::state::MAX_TEXT_BYTES;

/// The format that this version reads and writes.
const FORMAT: u32 = 1;
/// How often a router shows that it lives, and the coordinator that it works. A coordinator that stops hands over; one
/// that died is missed after [`LEASE`].
pub(in crate::control) const BEAT: Duration = Duration::from_secs(1);
/// A coordinator whose counter did not change for so long, by one's own clock, is taken to be gone.
pub(in crate::control) const LEASE: Duration = Duration::from_secs(5);
/// A router that was not heard of for so long is shown as gone.
pub(in crate::control) const GONE: Duration = Duration::from_secs(10);
/// A router that was not heard of for so long is forgotten.
pub(in crate::control) const FORGOTTEN: Duration = Duration::from_secs(600);
/// Most routers that are written down. More run as well, without being shown.
pub(crate) const MAX_ROUTERS: usize = 64;

/// Which routers run, and which of them coordinates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct Presence {
    format: u32,
    /// Of the write, so that a router knows its own.
    writer: String,
    /// The router that coordinates; empty = none.
    pub(in crate::control) coordinator: String,
    /// Changes while the coordinator works.
    pub(in crate::control) counter: u64,
    /// By id.
    pub(in crate::control) routers: BTreeMap<String, RouterRecord>,
}

/// A router, as it describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::control) struct RouterRecord {
    /// Its version, with the cluster versions that it speaks behind it ([`VersionRange::label`]): version 0.1.0 takes a record with
    /// another field for none of its own.
    pub(in crate::control) version: String,
    /// Changes while it lives.
    pub(in crate::control) counter: u64,
}

impl Default for Presence {
    /// Nobody is there.
    fn default() -> Self {
        Self { format: FORMAT, writer: String::new(), coordinator: String::new(), counter: 0, routers: BTreeMap::new() }
    }
}

impl Presence {
    /// As JSON.
    pub(in crate::control) fn encode(&self) -> Vec<u8> {
        // Structs and maps with text keys: always has a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads what [`encode`](Self::encode) wrote. `None` = another version's, or damaged: it is nothing that must be kept.
    pub(in crate::control) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(bytes).ok().filter(|presence| presence.format == FORMAT)
    }

    /// What all routers that are not forgotten speak. Not known where there may be more than are written down.
    pub(in crate::control) fn spoken(&self) -> Option<RouterVersions> {
        if self.routers.is_empty() || self.routers.len() >= MAX_ROUTERS {
            return None;
        }
        let ranges = || self.routers.values().map(|router| VersionRange::of_label(&router.version));
        let (min, max) = (ranges().map(|range| range.min).max()?, ranges().map(|range| range.max).min()?);
        Some(RouterVersions { min, max })
    }

    /// This router lives.
    pub(in crate::control) fn beat(&mut self, router: &str, version: &str, nonce: u64) {
        self.writer = format!("{router}/{nonce:016x}");
        if let Some(record) = self.routers.get_mut(router) {
            record.counter = record.counter.wrapping_add(1);
            version.clone_into(&mut record.version);
        } else if self.routers.len() < MAX_ROUTERS && router.len() <= MAX_TEXT_BYTES {
            self.routers.insert(router.to_owned(), RouterRecord { version: version.to_owned(), counter: 1 });
        }
        if self.coordinator == router {
            self.counter = self.counter.wrapping_add(1);
        }
    }

    /// This router coordinates from now on.
    pub(in crate::control) fn claim(&mut self, router: &str) {
        router.clone_into(&mut self.coordinator);
        self.counter = self.counter.wrapping_add(1);
    }

    /// This router stops: others need not wait until they miss it.
    pub(in crate::control) fn leave(&mut self, router: &str, nonce: u64) {
        self.writer = format!("{router}/{nonce:016x}");
        self.routers.remove(router);
        if self.coordinator == router {
            self.coordinator.clear();
        }
    }
}

/// When counters were last seen to change, by this process' own clock. Pure: the time is given.
#[derive(Debug, Default)]
pub(in crate::control) struct Watcher {
    coordinator: Option<(String, u64, Instant)>,
    routers: BTreeMap<String, (u64, Instant)>,
}

impl Watcher {
    /// Takes note of what was read at `now`.
    pub(in crate::control) fn saw(&mut self, presence: &Presence, now: Instant) {
        let is_same = self
            .coordinator
            .as_ref()
            .is_some_and(|(name, counter, _)| *name == presence.coordinator && *counter == presence.counter);
        if !is_same {
            self.coordinator = Some((presence.coordinator.clone(), presence.counter, now));
        }
        self.routers.retain(|name, _| presence.routers.contains_key(name));
        for (name, record) in &presence.routers {
            let seen = self.routers.entry(name.clone()).or_insert((record.counter, now));
            if seen.0 != record.counter {
                *seen = (record.counter, now);
            }
        }
    }

    /// Whether nobody coordinates, as far as can be seen.
    pub(in crate::control) fn is_vacant(&self, now: Instant) -> bool {
        self.coordinator
            .as_ref()
            .is_some_and(|(name, _, since)| name.is_empty() || now.saturating_duration_since(*since) >= LEASE)
    }

    /// How long ago a router was last heard of.
    pub(in crate::control) fn silence(&self, router: &str, now: Instant) -> Option<Duration> {
        self.routers.get(router).map(|(_, since)| now.saturating_duration_since(*since))
    }

    /// Routers that are to be forgotten.
    pub(in crate::control) fn forgotten(&self, now: Instant) -> Vec<String> {
        let gone = self.routers.iter().filter(|(_, (_, since))| now.saturating_duration_since(*since) >= FORGOTTEN);
        gone.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coordinator_is_missed_when_its_counter_stands_still() {
        let (mut presence, mut watcher, start) = (Presence::default(), Watcher::default(), Instant::now());
        assert!(!watcher.is_vacant(start), "nothing was read yet");
        watcher.saw(&presence, start);
        assert!(watcher.is_vacant(start), "there is none");

        presence.beat("a", "1", 1);
        presence.claim("a");
        watcher.saw(&presence, start);
        assert!(!watcher.is_vacant(start + LEASE - BEAT));
        presence.beat("a", "1", 2);
        watcher.saw(&presence, start + LEASE - BEAT);
        assert!(!watcher.is_vacant(start + LEASE), "it was seen since");
        watcher.saw(&presence, start + LEASE + LEASE);
        assert!(watcher.is_vacant(start + LEASE + LEASE));
        presence.leave("a", 3);
        watcher.saw(&presence, start);
        assert!(watcher.is_vacant(start), "it left");
    }

    #[test]
    fn one_router_of_version_0_1_0_speaks_for_all() {
        let mut presence = Presence::default();
        assert_eq!(presence.spoken(), None, "nobody is there");
        let range = |min, max| VersionRange { min, max };
        presence.beat("a", &range(1, 3).label("0.3.0"), 1);
        presence.beat("b", &range(2, 4).label("0.4.0"), 1);
        assert_eq!(presence.spoken(), Some(RouterVersions { min: 2, max: 3 }));
        presence.beat("c", "0.1.0", 1);
        assert_eq!(presence.spoken(), Some(RouterVersions { min: 2, max: 1 }), "nothing is common to all");
        presence.leave("c", 2);
        assert_eq!(presence.spoken(), Some(RouterVersions { min: 2, max: 3 }));
        for at in 0..MAX_ROUTERS {
            presence.beat(&format!("router-{at:03}"), &range(1, 3).label("0.3.0"), 0);
        }
        assert_eq!(presence.spoken(), None, "there may be more");
    }

    #[test]
    fn silent_routers_are_forgotten_and_the_document_is_bounded() {
        let (mut presence, mut watcher, start) = (Presence::default(), Watcher::default(), Instant::now());
        for at in 0..2 * MAX_ROUTERS {
            presence.beat(&format!("router-{at:03}"), "1", 0);
        }
        assert_eq!(presence.routers.len(), MAX_ROUTERS);
        watcher.saw(&presence, start);
        presence.beat("router-000", "1", 1);
        watcher.saw(&presence, start + FORGOTTEN);
        assert_eq!(watcher.silence("router-000", start + FORGOTTEN), Some(Duration::ZERO));
        assert_eq!(watcher.forgotten(start + FORGOTTEN).len(), MAX_ROUTERS - 1);
        assert_eq!(Presence::decode(&presence.encode()), Some(presence));
        assert_eq!(Presence::decode(br#"{"format":2}"#), None);
    }
}
