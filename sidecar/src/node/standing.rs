//! [`Standing`]: whether this node serves at all, and why not.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::raft::keeper::Keeper;

/// What keeps a node that runs from serving.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar {
    /// It is no member of its cluster any more.
    Removed,
    /// Its log lacks entries that it acknowledged before: the data directory is an old copy.
    Stale,
    /// Another process that runs has its identity.
    Duplicate,
}

impl Bar {
    /// For programs; never renamed.
    pub fn code(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Stale => "stale_data",
            Self::Duplicate => "duplicate_identity",
        }
    }
}

/// What readiness, requests and administration of this node share: while a bar stands, each of them is refused with its
/// reason. Cheap to clone.
#[derive(Clone)]
pub struct Standing {
    inner: Arc<Inner>,
}

struct Inner {
    /// Whether a bar stands: what every request looks at.
    is_barred: AtomicBool,
    bars: Mutex<BTreeMap<Bar, String>>,
    /// Tells the engine.
    keeper: Keeper,
    doubts: Notify,
}

impl Standing {
    /// Without a bar. The engine is told by `keeper`.
    pub fn new(keeper: Keeper) -> Self {
        let (is_barred, bars, doubts) = (AtomicBool::new(false), Mutex::default(), Notify::new());
        Self { inner: Arc::new(Inner { is_barred, bars, keeper, doubts }) }
    }

    /// Puts a bar, with the reason as requests are to hear it. Says whether it is a new one.
    pub fn bar(&self, bar: Bar, why: impl Into<String>) -> bool {
        let why = why.into();
        let mut bars = self.bars();
        let before = bars.insert(bar, why.clone());
        if before.as_ref() != Some(&why) {
            self.tell(&bars);
        }
        before.is_none()
    }

    /// Takes a bar away. Says whether it stood.
    pub fn lift(&self, bar: Bar) -> bool {
        let mut bars = self.bars();
        let stood = bars.remove(&bar).is_some();
        if stood {
            self.tell(&bars);
        }
        stood
    }

    /// Whether this bar stands, alone or among others.
    pub fn stands(&self, bar: Bar) -> bool {
        self.inner.is_barred.load(Ordering::Acquire) && self.bars().contains_key(&bar)
    }

    /// Whether this node may vote. What it voted and acknowledged before may be known to another process only.
    pub fn may_vote(&self) -> bool {
        ![Bar::Stale, Bar::Duplicate].into_iter().any(|bar| self.stands(bar))
    }

    /// The bar that stands and its reason; of two, the one that is declared first.
    pub fn barred(&self) -> Option<(Bar, String)> {
        if !self.inner.is_barred.load(Ordering::Acquire) {
            return None;
        }
        self.bars().first_key_value().map(|(bar, why)| (*bar, why.clone()))
    }

    /// A leader says that this node is no member: whether that is so is to be found out now.
    pub fn doubt(&self) {
        self.inner.doubts.notify_one();
    }

    /// Returns when there was a doubt since the last call.
    pub async fn doubted(&self) {
        self.inner.doubts.notified().await;
    }

    fn tell(&self, bars: &BTreeMap<Bar, String>) {
        self.inner.is_barred.store(!bars.is_empty(), Ordering::Release);
        self.inner.keeper.set_out_of_service(bars.values().next().cloned().unwrap_or_default());
    }

    fn bars(&self) -> MutexGuard<'_, BTreeMap<Bar, String>> {
        self.inner.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Standing").field("barred", &self.barred()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_engine_is_told_of_a_bar_when_it_comes_and_when_it_goes() {
        let keeper = Keeper::default();
        let standing = Standing::new(keeper.clone());
        assert_eq!(standing.barred(), None);
        assert!(standing.bar(Bar::Removed, "gone") && !standing.bar(Bar::Removed, "gone"));
        // An engine that comes later.
        let (_engine, mut told) = keeper.open();
        assert_eq!(told.recv().await.map(|told| told.out_of_service), Some("gone".to_owned()));
        assert!(standing.bar(Bar::Duplicate, "twice"));
        assert_eq!(standing.barred(), Some((Bar::Removed, "gone".to_owned())), "the first that stands");
        assert!(standing.stands(Bar::Removed) && standing.stands(Bar::Duplicate));
        assert!(standing.lift(Bar::Removed) && !standing.lift(Bar::Removed));
        assert_eq!(standing.barred(), Some((Bar::Duplicate, "twice".to_owned())));
        assert!(standing.lift(Bar::Duplicate) && standing.barred().is_none() && !standing.stands(Bar::Duplicate));
        let mut last = None;
        while let Ok(next) = told.try_recv() {
            last = Some(next.out_of_service);
        }
        assert_eq!(last, Some(String::new()));
    }
}
