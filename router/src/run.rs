//! [`run`]: starts the router and stops it, in the right order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use raftkv_http::Front;
use raftkv_runtime::exit::{self, ExitCode};
use raftkv_runtime::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::config::Config;
use crate::control::plane::ClusterConfig;
use crate::control::plane::ControlPlane;
use crate::data::backend::ShardedBackend;
use crate::data::groups::Groups;
use crate::data::map::MapWatch;

/// To reach a node's management interface that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// The parts get this long to end once nobody waits for them any more; then the process ends all the same.
const PARTS_GRACE: Duration = Duration::from_secs(2);

/// Why the router ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for clients cannot be bound.
    #[error("listen on {address}: {source}")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system failed.
    #[error("{action}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A server or a task ended that never should.
    #[error("{0}")]
    Internal(String),
}

impl RunError {
    /// What the process should end with.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Listen { .. } | Self::Io { .. } => exit::IO,
            Self::Internal(_) => exit::SOFTWARE,
        }
    }
}

/// Binds the socket for clients.
///
/// # Errors
/// When the address is in use or is none of this machine's.
pub async fn bind(config: &Config) -> Result<TcpListener, RunError> {
    let address = config.http_listen.to_string();
    TcpListener::bind(&address).await.map_err(|source| RunError::Listen { address, source })
}

/// Runs a router until `shutdown`, then stops gracefully.
///
/// Order of stopping: HTTP takes no more and answers what it has within the grace period; then the control plane and the
/// clients of the groups, which served the requests that were being answered.
///
/// # Errors
/// When the server ends by itself, which it never should.
///
/// Boxed, so that it is compiled here once and not again in every program that awaits it: that took minutes of a build.
pub fn run(config: Config, listener: TcpListener, shutdown: Shutdown) -> BoxFuture<'static, Result<(), RunError>> {
    run_here(config, listener, shutdown).boxed()
}

async fn run_here(config: Config, listener: TcpListener, shutdown: Shutdown) -> Result<(), RunError> {
    let address = local_address(&listener)?;
    tracing::info!(router = config.router_id, http = %address, meta = ?config.meta, "router starting");
    let http = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        // Never through a proxy: these are our own nodes.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| RunError::Internal(format!("prepare the HTTP client: {error}")))?;

    // Not a child of `shutdown`: these serve the requests that are being drained.
    let parts_stop = Shutdown::new();
    let maps = MapWatch::new();
    let (groups, groups_task) = Groups::start(&maps, &parts_stop);
    let (backend, holds_task) =
        ShardedBackend::start(config.router_id.clone(), maps.clone(), groups.clone(), http, &parts_stop);
    // Leads no more as soon as it is asked to stop: others take over while this one still answers its clients.
    let (plane, mut tasks) = ControlPlane::start(cluster_config(&config), maps.clone(), groups, &shutdown);
    tasks.extend([groups_task, holds_task, tokio::spawn(announce_ready(maps, parts_stop.clone()))]);

    let front = Front::new(backend, config.door.api_config(), |routes| {
        crate::control::http::described(routes.merge(crate::control::http::router(plane)))
    });
    let stop = shutdown.clone();
    let limits = config.door.http_limits([config.router_id.as_str()]);
    let served = raftkv_http::serve(listener, front, limits, async move { stop.wait().await }).await;
    let ended = match served {
        Ok(()) if shutdown.is_triggered() => Ok(()),
        Ok(()) => Err(RunError::Internal("the HTTP server ended by itself".to_owned())),
        Err(error) => Err(RunError::Internal(format!("the HTTP server failed: {error}"))),
    };
    shutdown.trigger();
    parts_stop.trigger();
    if tokio::time::timeout(PARTS_GRACE, wait_for(tasks)).await.is_err() {
        tracing::warn!("some parts did not end in time");
    }
    if ended.is_ok() {
        tracing::info!(router = config.router_id, "router stopped");
    }
    ended
}

async fn wait_for(tasks: Vec<JoinHandle<()>>) {
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!("a task of the router failed: {error}");
        }
    }
}

fn local_address(listener: &TcpListener) -> Result<SocketAddr, RunError> {
    listener.local_addr().map_err(|source| RunError::Io { action: "ask for the HTTP address", source })
}

fn cluster_config(config: &Config) -> ClusterConfig {
    ClusterConfig {
        router: config.router_id.clone(),
        meta: config.meta.clone(),
        replicas: config.replicas,
        move_rate: config.move_rate,
        hold: config.hold.clone(),
    }
}

/// Says in the log when requests can be answered for the first time.
async fn announce_ready(maps: MapWatch, stop: Shutdown) {
    let since = Instant::now();
    let mut watch = maps.subscribe();
    tokio::select! {
        () = stop.wait() => {}
        known = watch.wait_for(Option::is_some) => if let Ok(map) = known && let Some(map) = &*map {
            let groups = map.groups.len();
            tracing::info!(after = ?since.elapsed(), epoch = map.epoch, groups, "ready: the shard map is known");
        }
    }
}
