//! [`Versions`]: which cluster versions this node speaks, and, while it leads, which ones every member does.
//!
//! What is found is in memory only and begins anew with every leader: it says for how long a version has been spoken by all without
//! interruption, as far as this leader saw it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftkv_proto::{ClusterVersion, SPOKEN, VersionRange};
use tokio::time::Instant;

use crate::raft::types::NodeId;

/// How often members are asked.
pub(crate) const ASK: Duration = Duration::from_secs(1);
/// What a member said counts for so long when it does not answer: one question may be lost. Another process answers within that.
const KEPT: Duration = Duration::from_secs(5);

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Versions {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// This process formed the cluster, and no router that is in front of it is known to speak less than this program.
    formed_here: AtomicBool,
    engine: Mutex<Option<EngineVersions>>,
    seen: Mutex<Seen>,
}

/// What the engine says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EngineVersions {
    /// Where it stood when it said so: the index of the next entry.
    pub next_index: u64,
    /// The group's clock in that state, in milliseconds.
    pub clock_ms: u64,
    /// When the first thing in that state ends by the group's clock, or earlier; 0 = nothing does.
    pub next_deadline_ms: u64,
    /// In its state.
    pub cluster: ClusterVersion,
    /// What it speaks.
    pub spoken: VersionRange,
}

/// What a leader has found out.
#[derive(Debug, Clone, Default)]
struct Seen {
    members: BTreeMap<NodeId, (VersionRange, Instant)>,
    /// The highest version that all speak, and since when; `None` = not known.
    all: Option<(ClusterVersion, Instant)>,
}

impl Seen {
    /// Takes note of the answers of the members at `now`; `None` = it did not answer.
    fn note(&mut self, answers: &BTreeMap<NodeId, Option<VersionRange>>, now: Instant) {
        self.members.retain(|id, (_, at)| answers.contains_key(id) && now.saturating_duration_since(*at) < KEPT);
        for (id, answer) in answers {
            if let Some(range) = answer {
                self.members.insert(*id, (*range, now));
            }
        }
        let all_known = answers.keys().all(|id| self.members.contains_key(id));
        let lowest = self.members.values().map(|(range, _)| range.max).min().filter(|_| all_known);
        self.all = match (lowest, self.all) {
            (Some(lowest), Some((before, since))) if lowest == before => Some((lowest, since)),
            (Some(lowest), _) => Some((lowest, now)),
            (None, _) => None,
        };
    }
}

impl Versions {
    /// What the engine has answered.
    pub fn engine_says(&self, engine: EngineVersions) {
        *lock(&self.inner.engine) = Some(engine);
    }

    /// What the engine said last.
    pub fn engine(&self) -> Option<EngineVersions> {
        *lock(&self.inner.engine)
    }

    /// The cluster version in the engine's state; `None` = the engine has not said.
    pub fn cluster(&self) -> Option<ClusterVersion> {
        lock(&self.inner.engine).map(|engine| engine.cluster)
    }

    /// What both programs of this node speak; `None` = the engine has not said, or they have nothing in common.
    pub fn spoken(&self) -> Option<VersionRange> {
        lock(&self.inner.engine).and_then(|engine| engine.spoken.and(SPOKEN))
    }

    /// This process has formed a cluster.
    pub fn formed(&self) {
        self.inner.formed_here.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    pub fn is_formed_here(&self) -> bool {
        self.inner.formed_here.load(Ordering::Relaxed)
    }

    /// The highest version that all members speak, and for how long; `None` = not known.
    pub fn of_all(&self) -> Option<(ClusterVersion, Duration)> {
        lock(&self.inner.seen).all.map(|(version, since)| (version, since.elapsed()))
    }

    /// The members of the group this node leads have answered; `None` = one did not.
    pub(crate) fn note(&self, answers: &BTreeMap<NodeId, Option<VersionRange>>) {
        lock(&self.inner.seen).note(answers, Instant::now());
    }

    /// This node does not lead: it knows nothing of the others.
    pub(crate) fn forget(&self) {
        *lock(&self.inner.seen) = Seen::default();
    }

    /// What a member speaks, as this leader knows.
    pub fn of(&self, member: NodeId) -> Option<VersionRange> {
        lock(&self.inner.seen).members.get(&member).map(|(range, _)| *range)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: VersionRange = VersionRange::FIRST;
    const BOTH: VersionRange = VersionRange { min: 1, max: 2 };

    fn answers(ranges: &[Option<VersionRange>]) -> BTreeMap<NodeId, Option<VersionRange>> {
        (1..).zip(ranges.iter().copied()).collect()
    }

    #[test]
    fn what_all_speak_counts_from_when_the_last_one_began_to() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        let second = Duration::from_secs(1);
        seen.note(&answers(&[Some(BOTH), Some(FIRST)]), start);
        assert_eq!(seen.all, Some((1, start)));
        seen.note(&answers(&[Some(BOTH), Some(BOTH)]), start + second);
        seen.note(&answers(&[Some(BOTH), Some(BOTH)]), start + 2 * second);
        assert_eq!(seen.all, Some((2, start + second)));
        seen.note(&answers(&[Some(BOTH), Some(BOTH), Some(FIRST)]), start + 3 * second);
        assert_eq!(seen.all, Some((1, start + 3 * second)), "one more, of the version before");
    }

    #[test]
    fn who_is_silent_interrupts_it_and_one_lost_question_does_not() {
        let (mut seen, start) = (Seen::default(), Instant::now());
        seen.note(&answers(&[Some(BOTH), None]), start);
        assert_eq!(seen.all, None, "one has never said anything");
        seen.note(&answers(&[Some(BOTH), Some(BOTH)]), start);
        seen.note(&answers(&[Some(BOTH), None]), start + KEPT / 2);
        assert_eq!(seen.all, Some((2, start)));
        seen.note(&answers(&[Some(BOTH), None]), start + KEPT);
        assert_eq!(seen.all, None);
        let again = start + 2 * KEPT;
        seen.note(&answers(&[Some(BOTH), Some(BOTH)]), again);
        assert_eq!(seen.all, Some((2, again)));
        seen.note(&answers(&[Some(BOTH)]), again + ASK);
        assert_eq!(seen.all, Some((2, again)), "who was removed does not count");
    }
}
