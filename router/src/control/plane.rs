//! [`ControlPlane`]: everything of the control plane, started and at hand.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use raftkv_kv::RouterVersions;
use raftkv_runtime::shutdown::Shutdown;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::control::act::coordinator::Coordinator;
use crate::control::act::forming::Inspector;
use crate::control::act::hold::Hold;
use crate::control::act::mover::Mover;
use crate::control::attendance::lease::{Attendance, Roster, RouterView};
use crate::control::document::store::{ClusterStore, StoreError};
use crate::data::group::GroupClient;
use crate::data::groups::Groups;
use crate::data::map::MapWatch;

/// How often the document is looked at when nobody asks for it.
const POLL: Duration = Duration::from_millis(500);
/// The least time between two looks: questions of many requests that met an old map are answered by one.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// The meta group gets this long to answer; then it is asked again.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries to find or make the store.
const OPEN_PAUSE: Duration = Duration::from_millis(250);

/// What the control plane is told by the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterConfig {
    /// This router's id, unique among the routers.
    pub router: String,
    /// Addresses of nodes of the meta group, at least one.
    pub meta: Vec<String>,
    /// Nodes that a group is to have; written into a document that is made.
    pub replicas: usize,
    /// Bytes a second that a move copies at most; `None` = as fast as it goes.
    pub move_rate: Option<u64>,
    /// For tests: where moves are held.
    pub hold: Hold,
}

/// The control plane of this router. Cloning shares it.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    store: ClusterStore,
    groups: Groups,
    roster: Arc<Mutex<Roster>>,
    wake: Arc<Notify>,
    stop: Shutdown,
}

impl ControlPlane {
    /// Starts its tasks, which end soon after `stop`. `maps` is told every map from now on. Returns at once; until the meta
    /// group is reached there is no map.
    pub fn start(
        config: ClusterConfig,
        maps: MapWatch,
        groups: Groups,
        stop: &Shutdown,
    ) -> (Self, Vec<JoinHandle<()>>) {
        // Stopped last: this router says that it leaves.
        let meta_stop = Shutdown::new();
        let (meta, meta_tasks) = GroupClient::start("meta group", config.meta.clone(), None, &meta_stop);
        let store = ClusterStore::new(meta, maps.clone(), config.router.clone());
        let (wake, roster) = (Arc::new(Notify::new()), Arc::default());
        let (leads, led) = watch::channel(false);
        let mover = Mover::new(store.clone(), groups.clone(), config.hold.clone(), config.move_rate);
        let coordinator = Coordinator::new(store.clone(), mover, Arc::clone(&wake), stop.clone());
        let inspector = Inspector::new(store.clone(), groups.clone(), Arc::clone(&roster), stop.clone());
        let attendance = Attendance::new(store.clone(), config.router.clone(), Arc::clone(&roster), leads);
        let plane = Self { store: store.clone(), groups, roster, wake, stop: stop.clone() };
        let follow = {
            let stop = stop.clone();
            async move {
                follow(store, maps, config, attendance, stop).await;
                meta_stop.trigger();
            }
        };
        let tasks = vec![
            tokio::spawn(follow),
            tokio::spawn(coordinator.run(led.clone())),
            tokio::spawn(inspector.run(led)),
            tokio::spawn(meta_tasks.ended()),
        ];
        (plane, tasks)
    }

    /// The cluster document.
    pub fn store(&self) -> &ClusterStore {
        &self.store
    }

    /// The clients of the groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The routers that are known.
    pub fn routers(&self) -> Vec<RouterView> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner).views(Instant::now())
    }

    /// The cluster versions that all routers speak, as far as they are known.
    pub fn routers_speak(&self) -> Option<RouterVersions> {
        self.roster.lock().unwrap_or_else(PoisonError::into_inner).spoken()
    }

    /// The document has something new to do, if this router coordinates.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Triggered when the process ends.
    pub fn stop(&self) -> &Shutdown {
        &self.stop
    }
}

/// Finds the store or makes it, then keeps the map fresh. Where the meta group does not answer the last map stays: the data
/// plane goes on with it.
async fn follow(store: ClusterStore, maps: MapWatch, config: ClusterConfig, attendance: Attendance, stop: Shutdown) {
    let mut was_told: Option<String> = None;
    loop {
        let opened = tokio::select! {
            () = stop.wait() => return,
            opened = store.open(&config.meta, config.replicas, Instant::now() + TIMEOUT) => opened,
        };
        match opened {
            Ok(found) => {
                let (id, epoch, groups) = (found.state.store, found.state.epoch, found.state.groups.len());
                tracing::info!(store = format_args!("{id:016x}"), epoch, groups, "found the store");
                break;
            }
            Err(error) => tell("this router has no store yet", &error, &mut was_told),
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(OPEN_PAUSE) => {}
        }
    }
    let attendance = tokio::spawn(attendance.run(stop.clone()));
    was_told = None;
    loop {
        tokio::select! {
            () = stop.wait() => break,
            () = async {
                tokio::time::sleep(LEAST_PAUSE).await;
                let _ = tokio::time::timeout(POLL, maps.refresh_asked()).await;
            } => {}
        }
        let read = tokio::select! {
            () = stop.wait() => break,
            read = store.read(Instant::now() + TIMEOUT) => read,
        };
        // A document that cannot be used was read all the same; the store has said so.
        let is_reachable = matches!(read, Ok(_) | Err(StoreError::State(_)));
        metrics::gauge!("raftkv_router_meta_reachable").set(f64::from(u8::from(is_reachable)));
        match read {
            Ok(_) if was_told.take().is_some() => tracing::info!("the meta group answers again"),
            Ok(_) | Err(StoreError::State(_)) => {}
            Err(error) => tell("the cluster document cannot be read; the last map is kept", &error, &mut was_told),
        }
    }
    if let Err(error) = attendance.await {
        tracing::error!("a task of the control plane failed: {error}");
    }
}

/// Says what is wrong, once.
fn tell(consequence: &str, error: &StoreError, was_told: &mut Option<String>) {
    let text = error.to_string();
    // The details of an outage change with every try.
    let kind = match error {
        StoreError::Unavailable(_) | StoreError::Unknown(_) => "unavailable".to_owned(),
        _ => text.clone(),
    };
    if was_told.as_deref() != Some(kind.as_str()) {
        tracing::warn!("{consequence}: {text}");
        *was_told = Some(kind);
    }
}
