//! [`Attendance`]: shows that this router lives, and takes the coordinator's lease when nobody holds it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use raftkv_kv::{ROUTERS_KEY, RouterVersions};
use raftkv_proto::{SPOKEN, VersionRange};
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::watch;

use crate::control::attendance::presence::{BEAT, GONE, Presence, Watcher};
use crate::control::document::store::{ClusterStore, StoreError};

/// A router that does not coordinate shows itself in every so many beats: half of what makes it count as gone.
const QUIET_BEATS: u32 = 5;
/// The meta group gets this long: the next beat is due then.
const TIMEOUT: Duration = Duration::from_secs(1);
/// A coordinator that could not show itself for so long stops working: by then another may have taken over. Both at once
/// would do no harm, only the same work.
const HOLDS_FOR: Duration = Duration::from_secs(4);

/// What was last read of the routers, for those who ask.
#[derive(Debug, Default)]
pub(in crate::control) struct Roster {
    presence: Presence,
    watcher: Watcher,
}

/// A router, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
pub struct RouterView {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The lowest cluster version that it speaks.
    pub version_min: u32,
    /// The highest one.
    pub version_max: u32,
    /// Whether it was heard of lately.
    pub alive: bool,
    /// Whether it works off the operations.
    pub coordinator: bool,
}

/// Shows that this router lives.
#[derive(Debug)]
pub(in crate::control) struct Attendance {
    store: ClusterStore,
    router: String,
    roster: Arc<Mutex<Roster>>,
    leads: watch::Sender<bool>,
    beaten_at: Option<Instant>,
    beats: u32,
}

impl Roster {
    /// What all routers that are known speak.
    pub(in crate::control) fn spoken(&self) -> Option<RouterVersions> {
        self.presence.spoken()
    }

    /// All routers that are known.
    pub(in crate::control) fn views(&self, now: Instant) -> Vec<RouterView> {
        let view = |(id, record): (&String, &crate::control::attendance::presence::RouterRecord)| {
            let spoken = VersionRange::of_label(&record.version);
            RouterView {
                id: id.clone(),
                version: VersionRange::program_of(&record.version).to_owned(),
                version_min: spoken.min,
                version_max: spoken.max,
                alive: self.watcher.silence(id, now).is_some_and(|silence| silence < GONE),
                coordinator: self.presence.coordinator == *id,
            }
        };
        self.presence.routers.iter().map(view).collect()
    }
}

impl Attendance {
    pub(in crate::control) fn new(
        store: ClusterStore,
        router: String,
        roster: Arc<Mutex<Roster>>,
        leads: watch::Sender<bool>,
    ) -> Self {
        Self { store, router, roster, leads, beaten_at: None, beats: 0 }
    }

    /// Runs until `stop`, then leaves.
    pub(in crate::control) async fn run(mut self, stop: Shutdown) {
        loop {
            if let Err(error) = self.beat().await {
                tracing::debug!("this router could not show itself: {error}");
            }
            let holds = self.beaten_at.is_some_and(|at| at.elapsed() < HOLDS_FOR);
            if !holds {
                self.set_leads(false);
            }
            tokio::select! {
                () = stop.wait() => break,
                () = tokio::time::sleep(BEAT) => {}
            }
        }
        self.set_leads(false);
        if let Err(error) = self.leave().await {
            tracing::debug!("this router could not say that it leaves: {error}");
        }
    }

    async fn beat(&mut self) -> Result<(), StoreError> {
        let until = Instant::now() + TIMEOUT;
        let (version, mut presence) = self.read(until).await?;
        let now = Instant::now();
        let (is_vacant, forgotten) = {
            let mut roster = self.roster.lock().unwrap_or_else(PoisonError::into_inner);
            roster.watcher.saw(&presence, now);
            roster.presence = presence.clone();
            (roster.watcher.is_vacant(now), roster.watcher.forgotten(now))
        };
        let leads = presence.coordinator == self.router;
        let is_known = presence.routers.contains_key(&self.router);
        self.beats = self.beats.wrapping_add(1);
        if !leads && !is_vacant && is_known && !self.beats.is_multiple_of(QUIET_BEATS) {
            self.beaten_at = Some(now);
            self.set_leads(false);
            return Ok(());
        }
        forgotten.iter().for_each(|router| drop(presence.routers.remove(router)));
        presence.beat(&self.router, &SPOKEN.label(env!("CARGO_PKG_VERSION")), rand::random());
        if is_vacant && !leads {
            tracing::info!(
                router = self.router,
                before = presence.coordinator,
                "nobody coordinates: this router does now"
            );
            presence.claim(&self.router);
        }
        if self.store.put_side_document(ROUTERS_KEY, version, presence.encode(), until).await? {
            self.beaten_at = Some(now);
            self.set_leads(presence.coordinator == self.router);
        } else if leads {
            // Somebody else wrote first; the next beat shows whether it was taken over.
            self.beaten_at = Some(now);
        }
        Ok(())
    }

    async fn leave(&self) -> Result<(), StoreError> {
        let until = Instant::now() + TIMEOUT;
        let (version, mut presence) = self.read(until).await?;
        presence.leave(&self.router, rand::random());
        self.store.put_side_document(ROUTERS_KEY, version, presence.encode(), until).await.map(drop)
    }

    async fn read(&self, until: Instant) -> Result<(u64, Presence), StoreError> {
        let (version, bytes) = self.store.side_document(ROUTERS_KEY, until).await?;
        Ok((version, Presence::decode(&bytes).unwrap_or_default()))
    }

    fn set_leads(&self, leads: bool) {
        let changed = self.leads.send_if_modified(|led| std::mem::replace(led, leads) != leads);
        if changed {
            metrics::gauge!("raftkv_router_coordinates").set(f64::from(u8::from(leads)));
            tracing::info!(router = self.router, leads, "coordination");
        }
    }
}
