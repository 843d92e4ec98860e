//! [`run`]: starts and stops the engine in the right order.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use raftkv_backend::Backend;
use raftkv_http::{Elsewhere, Front};
use raftkv_runtime::disk::{DiskPlan, SMALLEST_DISK_BYTES};
use raftkv_runtime::exit::{self, ExitCode};
use raftkv_runtime::grpc::{
    self, ChannelOptions, ConnectionLimits, Endpoint, LINK_CONNECTIONS, Listener, ListenerError,
};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::wipe::{self, Part};
use raftkv_store::{Store, StoreError, StoreOptions};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::backend::EngineBackend;
use crate::barrier::Barriers;
use crate::config::Config;
use crate::consensus_client::ConsensusClient;
use crate::disk_guard::DiskGuard;
use crate::group::{GroupService, Timeouts};
use crate::proposer::{Proposer, Shortcut};
use crate::state_machine::{ServiceInfo, StateMachineService};

/// Connection limits of the router port. Each router has a handful of connections to each node.
pub const GROUP_CONNECTIONS: ConnectionLimits = ConnectionLimits::of(512, 1_024);
/// Time for remaining writes to finish after HTTP has drained: the clients are gone.
const PROPOSER_GRACE: Duration = Duration::from_millis(500);
/// Time for routers' streams to finish after HTTP has drained; in-flight requests need less.
const GROUP_GRACE: Duration = Duration::from_secs(3);
/// Time for the sidecar's calls to finish; streams stay open indefinitely and are cut.
const GRPC_GRACE: Duration = Duration::from_millis(300);
/// Poll interval for logging readiness.
const READY_POLL: Duration = Duration::from_millis(250);

/// The sockets of an engine, bound before any other work starts.
#[derive(Debug)]
pub struct Listeners {
    /// For clients.
    pub http: TcpListener,
    /// For routers.
    pub group: Listener,
    /// For the sidecar.
    pub grpc: Listener,
}

impl Listeners {
    /// Binds the addresses in `config`.
    pub async fn bind(config: &Config) -> Result<Self, RunError> {
        // The sockets are in the data directory.
        raftkv_runtime::directory::create_durable(&config.dir)
            .map_err(|source| RunError::Io { action: "create the data directory", source })?;
        let address = config.http_listen.to_string();
        let http = TcpListener::bind(&address).await.map_err(|source| RunError::Listen { address, source })?;
        let group = Listener::bind(&config.group_listen).await?;
        Ok(Self { http, group, grpc: Listener::bind(&config.grpc_listen).await? })
    }

    /// The address for routers, with the actual port if port 0 was configured.
    pub fn group_address(&self) -> &Endpoint {
        self.group.endpoint()
    }

    /// The address for clients, with the actual port if port 0 was configured.
    pub fn http_address(&self) -> Result<SocketAddr, RunError> {
        self.http.local_addr().map_err(|source| RunError::Io { action: "ask for the HTTP address", source })
    }
}

/// The reason the engine ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The address for clients cannot be bound.
    #[error("listen on {address}: {source}")]
    Listen {
        /// The address.
        address: String,
        /// The cause.
        source: std::io::Error,
    },
    /// The address for routers or for the sidecar cannot be bound.
    #[error(transparent)]
    Listener(#[from] ListenerError),
    /// The store cannot be opened.
    #[error("open the store: {0}")]
    Store(#[from] StoreError),
    /// The operating system failed.
    #[error("{action}: {source}")]
    Io {
        /// The attempted action.
        action: &'static str,
        /// The cause.
        source: std::io::Error,
    },
    /// The node was killed; the next start wipes the data.
    #[error("this node was removed from its group, and its data is to be wiped: starting again, empty")]
    Killed,
    /// A server or a task ended unexpectedly.
    #[error("{0}")]
    Internal(String),
}

impl RunError {
    /// Exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Listen { .. } | Self::Listener(_) | Self::Io { .. } => exit::IO,
            // Data of another version is as unusable as damaged data, and a restart does not help.
            Self::Store(StoreError::Corrupt(_) | StoreError::Unsupported(_)) => exit::DATA,
            Self::Store(StoreError::Inconsistent(_)) => exit::SOFTWARE,
            Self::Store(_) => exit::IO,
            Self::Killed => exit::TEMPFAIL,
            Self::Internal(_) => exit::SOFTWARE,
        }
    }
}

/// Runs an engine until `shutdown`, then stops gracefully.
///
/// Shutdown order: HTTP and routers' streams stop accepting requests and finish accepted requests within the grace
/// period; then proposals and barriers stop; the gRPC service stops last, because in-flight requests wait for entries
/// applied by the sidecar.
///
/// Boxed, so the function is compiled only here and not again in every awaiting program, which added minutes to a
/// build.
pub fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> BoxFuture<'static, Result<(), RunError>> {
    run_here(config, listeners, shutdown).boxed()
}

async fn run_here(config: Config, listeners: Listeners, shutdown: Shutdown) -> Result<(), RunError> {
    let http_address = listeners.http_address()?;
    listeners.grpc.warn_of_tcp("RAFTKV_ENGINE_GRPC_LISTEN");
    let advertised =
        config.http_advertise.clone().unwrap_or_else(|| format!("{}:{}", config.name, http_address.port()));
    let disk = DiskGuard::new(&config.dir, config.disk_reserve)
        .map_err(|source| RunError::Io { action: "look at the free space of the disk", source })?;
    if disk.total_bytes() < SMALLEST_DISK_BYTES {
        tracing::warn!(
            dir = %config.dir.display(),
            total_bytes = disk.total_bytes(),
            "the file system has less than {SMALLEST_DISK_BYTES} bytes: the log and the disk reserve take most of it"
        );
    }
    let plan = DiskPlan::for_disk(disk.total_bytes());
    let shortcut = Shortcut::default();
    let store = open_store(&config, &plan, shortcut.clone()).await?;
    tracing::info!(
        node = config.name,
        http = %http_address,
        group = %listeners.group.endpoint(),
        grpc = %listeners.grpc.endpoint(),
        sidecar = %config.sidecar_grpc,
        disk_reserve_bytes = disk.reserve_bytes(),
        "engine starting"
    );

    let http_limits = config.door.http_limits([config.name.as_str(), &advertised]);
    let info = ServiceInfo { http_address: advertised, disk: Some(disk.clone()) };
    let grpc_stop = Shutdown::new();
    let state_machine = StateMachineService::new(store.clone(), info);
    let upgrader_slot = state_machine.upgrader();
    let mut grpc = serve_grpc(state_machine, listeners.grpc, grpc_stop.clone());

    // Not a child of `shutdown`: these parts serve the requests being drained.
    let parts_stop = Shutdown::new();
    let consensus = ConsensusClient::new(connect(&config.sidecar_grpc)?);
    let (proposer, proposer_task) =
        Proposer::start_beside(shortcut.end(), consensus.proposals(), parts_stop.clone(), PROPOSER_GRACE);
    let (barriers, mut tasks) = Barriers::start(&consensus, store.applied(), &parts_stop);
    tasks.push(proposer_task);
    tasks.push(disk.watch(store.clone(), parts_stop.clone()));
    let backend = EngineBackend::new(config.name.clone(), store.clone(), consensus, proposer, barriers, disk);
    tasks.push(tokio::spawn(announce_ready(backend.clone(), parts_stop.clone())));

    let clients_stop = shutdown.child();
    let timeouts = Timeouts { default: config.door.request_timeout, max: config.door.max_request_timeout };
    let group = GroupService::new(config.name.clone(), backend.clone(), shortcut, timeouts, clients_stop.clone());
    let upgrader = group.upgrader();
    // The only place to set the slot.
    let _ = upgrader_slot.set(upgrader.clone());
    tasks.push(tokio::spawn(upgrader.run(parts_stop.clone())));
    let mut group = serve_group(group, listeners.group, clients_stop.clone());
    let elsewhere = elsewhere(&config, &backend)?;
    let front = elsewhere.around(Front::new(backend, config.door.api_config(), |routes| routes));
    let mut http = tokio::spawn(raftkv_http::serve(listeners.http, front, http_limits, {
        let clients_stop = clients_stop.clone();
        async move { clients_stop.wait().await }
    }));

    let (mut is_http_over, mut is_group_over) = (false, false);
    let ended = tokio::select! {
        served = &mut http => {
            is_http_over = true;
            ended_early("HTTP", served, &shutdown)
        }
        served = &mut group => {
            is_group_over = true;
            ended_early("group", served, &shutdown)
        }
        served = &mut grpc => ended_early("gRPC", served, &grpc_stop),
        () = wipe::ordered(config.data_dir(), Part::Engine) => Err(RunError::Killed),
    };
    clients_stop.trigger();
    if !is_http_over {
        // The server has a separate time limit.
        let _ = http.await;
    }
    if !is_group_over && tokio::time::timeout(GROUP_GRACE, &mut group).await.is_err() {
        group.abort();
    }
    parts_stop.trigger();
    for task in tasks {
        if let Err(error) = task.await {
            tracing::error!("a task of the engine failed: {error}");
        }
    }
    grpc_stop.trigger();
    if !grpc.is_finished() && tokio::time::timeout(GRPC_GRACE, &mut grpc).await.is_err() {
        grpc.abort();
    }
    // Joins the apply thread, which finishes any started work.
    let closed = tokio::task::spawn_blocking(move || store.close()).await;
    closed.map_err(|error| RunError::Internal(format!("close the store: {error}")))?;
    if ended.is_ok() {
        tracing::info!(node = config.name, "engine stopped");
    }
    ended
}

async fn open_store(config: &Config, plan: &DiskPlan, shortcut: Shortcut) -> Result<Store, RunError> {
    let since = Instant::now();
    let (dir, cache_bytes) = (config.dir.clone(), config.cache_bytes);
    let memtable_bytes = usize::try_from(plan.memtable_bytes).unwrap_or(usize::MAX);
    let options = StoreOptions { cache_bytes, memtable_bytes, shortcut: Some(shortcut), ..StoreOptions::default() };
    let opened = tokio::task::spawn_blocking(move || Store::open(&dir, options));
    let store = opened.await.map_err(|error| RunError::Internal(format!("open the store: {error}")))??;
    let (next_index, revision) = (store.position().next_index, store.revision());
    tracing::info!(dir = %config.dir.display(), next_index, revision, took = ?since.elapsed(), "store opened");
    Ok(store)
}

/// Routing of requests for other groups of a sharded store. Until this node knows whether the group is part of a
/// sharded store, the routers decide.
fn elsewhere(config: &Config, backend: &EngineBackend) -> Result<Elsewhere, RunError> {
    let backend = backend.clone();
    let is_part = move || !backend.has_caught_up() || backend.store().ownership().is_sharded();
    Elsewhere::new(&config.routers, config.door.max_request_timeout, is_part)
        .map_err(|error| RunError::Internal(format!("prepare the connections to the routers: {error}")))
}

fn connect(sidecar: &Endpoint) -> Result<tonic::transport::Channel, RunError> {
    grpc::connect_lazy(sidecar, ChannelOptions::default())
        .map_err(|error| RunError::Internal(format!("prepare the connection to the sidecar at {sidecar}: {error}")))
}

fn serve_grpc(
    service: StateMachineService,
    listener: Listener,
    stop: Shutdown,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    tokio::spawn(async move {
        grpc::server()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(
                listener.into_bounded_stream(LINK_CONNECTIONS),
                async move { stop.wait().await },
            )
            .await
    })
}

fn serve_group(
    service: GroupService,
    listener: Listener,
    stop: Shutdown,
) -> JoinHandle<Result<(), tonic::transport::Error>> {
    tokio::spawn(async move {
        grpc::server()
            .add_service(service.into_server())
            .serve_with_incoming_shutdown(
                listener.into_bounded_stream(GROUP_CONNECTIONS),
                async move { stop.wait().await },
            )
            .await
    })
}

/// Interprets the end of a server.
fn ended_early<E: std::fmt::Display>(
    server: &str,
    served: Result<Result<(), E>, tokio::task::JoinError>,
    stop: &Shutdown,
) -> Result<(), RunError> {
    match served {
        Ok(Ok(())) if stop.is_triggered() => Ok(()),
        Ok(Ok(())) => Err(RunError::Internal(format!("the {server} server ended by itself"))),
        Ok(Err(error)) => Err(RunError::Internal(format!("the {server} server failed: {error}"))),
        Err(error) => Err(RunError::Internal(format!("the {server} server failed: {error}"))),
    }
}

/// Logs when the node can answer requests for the first time.
async fn announce_ready(backend: EngineBackend, stop: Shutdown) {
    let since = Instant::now();
    loop {
        if backend.ready().await.is_ok() {
            tracing::info!(after = ?since.elapsed(), "ready: a leader is known and the store is as new as the group's, requests are answered");
            return;
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(READY_POLL) => {}
        }
    }
}
