//! [`run`]: the whole sidecar, on listeners that are given to it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use openraft::RaftMetrics;
use raftkv_runtime::disk::{DiskPlan, Space};
use raftkv_runtime::grpc::{self, ConnectionLimits, Endpoint, LINK_CONNECTIONS, Listener, ListenerError};
use raftkv_runtime::guard::Hosts;
use raftkv_runtime::reminder::Reminder;
use raftkv_runtime::settings::watch_advertised;
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::wipe::{self, Part};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::config::Config;
use crate::engine::client::EngineClient;
use crate::engine::disk::Disk;
use crate::lead::barrier::ReadBarriers;
use crate::lead::clock;
use crate::lead::compaction::{self, Limits};
use crate::lead::leadership::Leadership;
use crate::lead::membership::Membership;
use crate::lead::outlook;
use crate::lead::proposals::Proposals;
use crate::lead::versions;
use crate::life::kill::{Ending, Killer};
use crate::life::lifecycle::{Lifecycle, StartError, Wishes};
use crate::life::registration::{Registrar, Registration};
use crate::life::removal;
use crate::life::reseed::Reseed;
use crate::node::Node;
use crate::node::identity::{Identity, IdentityError, IdentityStore, LOG_DIR};
use crate::peers::PEER_SILENCE;
use crate::peers::management::ManagementClient;
use crate::raft::log_store::LogStore;
use crate::raft::types::TypeConfig;
use crate::serve::consensus_service::ConsensusService;
use crate::serve::management::{self, Management};
use crate::serve::peer_service::PeerService;
use crate::serve::status::VERSION;
use crate::wal::{WalError, WalOptions};

/// This part of the reserve is left to the engine before large entries are logged.
const STORE_KEEPS_DIVISOR: u64 = 4;
/// And of that so many memtables always.
const STORE_NEEDS_MEMTABLES: u64 = 2;
/// How often it is said that the engine does not answer.
const ENGINE_REMIND: Duration = Duration::from_secs(5);

/// Between two looks whether an engine that is being wiped is empty.
const EMPTY_POLL: Duration = Duration::from_millis(100);

/// For an engine that is stopping as well to finish. One that goes on alone is not waited for any longer.
const ENGINE_DRAIN_DEADLINE: Duration = Duration::from_secs(3);

/// On the port for peers. A member has a handful to each other one.
pub const PEER_CONNECTIONS: ConnectionLimits = ConnectionLimits::of(256, 512);

/// For what is in flight when the node stops.
const IN_FLIGHT_DEADLINE: Duration = Duration::from_secs(1);

/// The sockets of a sidecar, bound.
#[derive(Debug)]
pub struct Listeners {
    /// For peers.
    pub raft: Listener,
    /// For operators.
    pub management: Listener,
    /// For the engine.
    pub engine: Listener,
}

impl Listeners {
    /// Binds what the configuration names.
    pub async fn bind(config: &Config) -> Result<Self, ListenerError> {
        Ok(Self {
            raft: Listener::bind(&config.raft_listen).await?,
            management: Listener::bind(&config.management_listen).await?,
            engine: Listener::bind(&config.grpc_listen).await?,
        })
    }
}

/// Why a sidecar ended other than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Who this node is cannot be established.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The log cannot be used.
    #[error(transparent)]
    Log(#[from] WalError),
    /// The operating system does not say how large the disk is.
    #[error("look at the file system of {}: {source}", dir.display())]
    Disk {
        /// Where the sidecar's directory is.
        dir: std::path::PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The address of the engine makes no connection.
    #[error("set up the connection to the engine: {0}")]
    Engine(#[source] tonic::transport::Error),
    /// No HTTP client.
    #[error("set up the client of the management API: {0}")]
    Client(#[source] reqwest::Error),
    /// Raft does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A server ended.
    #[error("serve {what}: {source}")]
    Serve {
        /// Which.
        what: &'static str,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The state is lost here; the next start joins the cluster anew.
    #[error("starting again as a member without data; what was here is in {}", aside.display())]
    Reseed {
        /// Where the old directory is now.
        aside: std::path::PathBuf,
    },
    /// The old directory cannot be put aside.
    #[error("put the sidecar's directory aside: {0}")]
    Aside(#[source] std::io::Error),
    /// The node was killed; the next start wipes it.
    #[error("this node was removed from its group, and its data is to be wiped: starting again, empty")]
    Killed,
    /// A kill was given up after the node had stopped serving.
    #[error("starting again, for the kill was given up: {0}")]
    KillGivenUp(String),
    /// A task ended by a bug.
    #[error("a task has ended: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// Runs a sidecar until the shutdown, then hands leadership over and stops gracefully, within the shutdown timeout.
///
/// Boxed, so that it is compiled here once and not again in every program that awaits it: that took minutes of a build.
pub fn run(config: Config, listeners: Listeners, shutdown: Shutdown) -> BoxFuture<'static, Result<(), RunError>> {
    run_here(config, listeners, shutdown).boxed()
}

async fn run_here(config: Config, listeners: Listeners, shutdown: Shutdown) -> Result<(), RunError> {
    listeners.engine.warn_of_tcp("RAFTKV_SIDECAR_GRPC_LISTEN");
    let (dir, name) = (config.dir.clone(), config.name.clone());
    let opened = tokio::task::spawn_blocking(move || IdentityStore::open(&dir, &name));
    let store = opened.await??;
    let cluster_id = store.allegiance().map(|allegiance| allegiance.cluster_id);
    let identity = Arc::new(Identity {
        raft_id: store.raft_id(),
        raft_address: advertised(&config.raft_advertise, &config.name, &listeners.raft),
        management_address: advertised(&config.management_advertise, &config.name, &listeners.management),
        http_address: config.http_advertise.clone(),
        group_address: config.group_advertise.clone(),
        name: config.name.clone(),
    });
    tracing::info!(
        name = identity.name,
        raft_id = identity.raft_id,
        raft = identity.raft_address,
        management = identity.management_address,
        version = VERSION,
        "starting"
    );

    let advertised = [
        ("RAFTKV_RAFT_ADVERTISE", identity.raft_address.clone()),
        ("RAFTKV_MANAGEMENT_ADVERTISE", identity.management_address.clone()),
        ("RAFTKV_HTTP_ADVERTISE", identity.http_address.clone()),
        ("RAFTKV_GROUP_ADVERTISE", identity.group_address.clone()),
    ];
    let engine = EngineClient::new(&config.engine_grpc).map_err(RunError::Engine)?;
    let client = ManagementClient::new().map_err(RunError::Client)?;
    let registrar = registrar(&config, &identity).map_err(RunError::Client)?;
    let node = Node::new(identity, engine);
    let leadership = Leadership::new(node.clone(), client.clone());
    let membership = Arc::new(Membership::new(node.clone(), leadership.clone(), client.clone()));
    let wishes = Wishes {
        bootstrap: config.bootstrap,
        join: config.join.clone(),
        dir: config.dir.clone(),
        timing: config.timing,
        read_lease: config.read_lease,
    };
    let lifecycle = Arc::new(Lifecycle::new(node.clone(), store, client.clone(), registrar, wishes));
    let killer = Killer::new(node.clone(), membership.clone(), config.data_dir(), &config.dir);
    let barriers = ReadBarriers::new(node.clone());
    let space = Space::of(&config.dir).map_err(|source| RunError::Disk { dir: config.dir.clone(), source })?;
    let plan = DiskPlan::for_disk(space.total_bytes);
    let limits = Limits {
        snapshot_after: config.snapshot_after.unwrap_or(plan.snapshot_after),
        retain: config.log_retain.unwrap_or(plan.log_retain).min(config.log_max),
        max: config.log_max,
    };
    let disk = Disk::new(config.dir.clone(), &plan, config.disk_reserve);
    let trusts_socket = matches!(config.grpc_listen, Endpoint::Unix(_));
    let proposals = Proposals::new(node.clone(), disk.clone(), trusts_socket);

    // What serves ends after what works: peers are needed to give leadership away.
    let serving = Shutdown::new();
    let working = shutdown.child();
    let mut tasks: JoinSet<Result<(), RunError>> = JoinSet::new();

    let own = advertised.iter().map(|(_, address)| address.as_str()).chain([config.name.as_str()]);
    let hosts = Hosts::new(own, &config.allowed_hosts);
    let at = Management {
        node: node.clone(),
        lifecycle: lifecycle.clone(),
        membership: membership.clone(),
        leadership: leadership.clone(),
        killer: killer.clone(),
        client: client.clone(),
        scrapes: Arc::new(management::scrapes(node.clone())),
    };
    let routes = management::router(at, hosts);
    let until = serving.clone();
    tasks.spawn(async move {
        management::serve(listeners.management, routes, until).await;
        Ok(())
    });
    let peers = PeerService::server(node.clone(), lifecycle.clone(), proposals.clone(), barriers.clone(), disk.clone());
    let mut server = grpc::server().http2_keepalive_timeout(Some(PEER_SILENCE));
    tasks.spawn(serve_grpc("peers", listeners.raft, PEER_CONNECTIONS, server.add_service(peers), serving.clone()));
    let consensus = ConsensusService::server(node.clone(), proposals, barriers, membership, lifecycle.clone());
    tasks.spawn(serve_grpc(
        "the engine",
        listeners.engine,
        LINK_CONNECTIONS,
        grpc::server().add_service(consensus),
        serving.clone(),
    ));

    for (setting, address) in advertised {
        tasks.spawn(async move {
            watch_advertised(setting, &address).await;
            Ok(())
        });
    }
    // The watch of the engine never ends; it goes with the set of tasks.
    let watched = node.engine.clone();
    tasks.spawn(async move {
        watched.watch_engine().await;
        Ok(())
    });
    tasks.spawn(ended(leadership.clone().watch(working.clone())));
    tasks.spawn(ended(outlook::watch(node.clone(), working.clone())));
    tasks.spawn(ended(clock::run(node.clone(), working.clone())));
    tasks.spawn(ended(versions::watch(node.clone(), working.clone())));
    let reserve = disk.reserve;
    tasks.spawn(ended(disk.clone().watch(node.engine.clone(), working.clone())));
    tasks.spawn(ended(compaction::run(node.clone(), limits, disk, working.clone())));
    tasks.spawn(ended(removal::watch(node.clone(), lifecycle.clone(), client.clone(), working.clone())));
    tasks.spawn(ended(killer.clone().resume()));
    let (engine_node, until, log_dir) = (node.clone(), working.clone(), config.dir.join(LOG_DIR));
    let (dir, join, asking) = (config.dir.clone(), config.join.clone(), client);
    let data_dir = config.data_dir().to_owned();
    tasks.spawn(async move {
        // Reading a long log takes a while; those who ask who this is are answered meanwhile.
        let (segment_bytes, kept_bytes) = (plan.segment_bytes, reserve / STORE_KEEPS_DIVISOR);
        // A flush has to have room, whatever is logged.
        let least_bytes = kept_bytes.min(STORE_NEEDS_MEMTABLES * plan.memtable_bytes);
        let options = WalOptions { segment_bytes, kept_bytes, least_bytes, ..WalOptions::new(log_dir) };
        let log = tokio::task::spawn_blocking(move || LogStore::open(options)).await??;
        let bounds = log.wal().bounds();
        // Raft asks the engine where it stands before anything else.
        if !await_engine(&engine_node, &until).await {
            return Ok(());
        }
        if cluster_id.is_none() && !await_empty_engine(&engine_node, &data_dir, &until).await {
            return Ok(());
        }
        if let Some(cluster_id) = &cluster_id {
            let raft_id = engine_node.identity.raft_id;
            let reseed = Reseed { cluster_id, raft_id, join: &join, dir: &dir, client: &asking };
            if let Some(aside) = reseed.check(&engine_node.engine, &bounds, &until).await.map_err(RunError::Aside)? {
                return Err(RunError::Reseed { aside });
            }
        }
        lifecycle.log_is_open(log);
        if !until.is_triggered() {
            lifecycle.run(until).await?;
        }
        Ok(())
    });

    let result = loop {
        tokio::select! {
            () = shutdown.wait() => break Ok(()),
            ending = killer.ended() => break Err(match ending {
                Ending::Wipe => RunError::Killed,
                Ending::Resume(reason) => RunError::KillGivenUp(reason),
            }),
            Some(ended) = tasks.join_next() => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => break Err(error),
                Err(error) => break Err(error.into()),
            },
        }
    };
    // Everything that works ends, also when it is an error that ends it all.
    shutdown.trigger();
    let deadline = Instant::now() + config.shutdown_grace;
    if tokio::time::timeout_at(deadline, stop(&node, &leadership, &serving, tasks)).await.is_err() {
        tracing::warn!(grace = ?config.shutdown_grace, "not everything ended in time");
    }
    if let Some(group) = node.group() {
        group.log.wal().close();
    }
    tracing::info!("stopped");
    result
}

async fn stop(node: &Node, leadership: &Leadership, serving: &Shutdown, mut tasks: JoinSet<Result<(), RunError>>) {
    leadership.stop().await;
    if node.group().is_some() {
        // The engine stops, too, and finishes what its clients asked: that is forwarded to the new leader through here.
        let mut engine = node.engine.connected();
        let _ = tokio::time::timeout(ENGINE_DRAIN_DEADLINE, engine.wait_for(|connected| !connected)).await;
    }
    if let Some(group) = node.group() {
        // What was taken is answered, if it can be.
        let wait = group.raft.wait(Some(IN_FLIGHT_DEADLINE));
        let done =
            |metrics: &RaftMetrics<TypeConfig>| metrics.last_applied.map(|id| id.index()) >= metrics.last_log_index;
        if wait.metrics(done, "all entries are applied").await.is_err() {
            tracing::info!("not everything in flight was answered");
        }
    }
    serving.trigger();
    // Open streams of peers and of the engine end when Raft does, or with their connection.
    if let Some(group) = node.group()
        && let Err(error) = group.raft.shutdown().await
    {
        tracing::warn!("stop consensus: {error}");
    }
    tasks.abort_all();
    while tasks.join_next().await.is_some() {}
}

async fn ended(work: impl Future<Output = ()>) -> Result<(), RunError> {
    work.await;
    Ok(())
}

async fn serve_grpc(
    what: &'static str,
    listener: Listener,
    limits: ConnectionLimits,
    router: grpc::Router,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let until = async move { shutdown.wait().await };
    router
        .serve_with_incoming_shutdown(listener.into_bounded_stream(limits), until)
        .await
        .map_err(|source| RunError::Serve { what, source })
}

/// False when the shutdown came first.
async fn await_engine(node: &Node, shutdown: &Shutdown) -> bool {
    let mut connected = node.engine.connected();
    let mut reminder = Reminder::default();
    loop {
        tokio::select! {
            () = shutdown.wait() => return false,
            answer = connected.wait_for(|connected| *connected) => return answer.is_ok(),
            () = tokio::time::sleep(ENGINE_REMIND) => {
                if let Some(again) = reminder.due("engine") {
                    tracing::info!("waiting for the engine{again}");
                }
            }
        }
    }
}

/// Waits until the engine is as empty as this node: one that is not has the data of another life, or is about to be
/// wiped. False when the shutdown came first.
async fn await_empty_engine(node: &Node, data_dir: &Path, shutdown: &Shutdown) -> bool {
    let mut reminder = Reminder::default();
    loop {
        let ordered = wipe::is_ordered(data_dir, Part::Engine);
        match node.engine.position().await {
            Ok(position) if position.next_index == 0 && !ordered => return true,
            Ok(_) => {
                if let Some(again) = reminder.due("engine") {
                    tracing::error!(
                        being_wiped = ordered,
                        "this node is in no cluster, but its engine has data: waiting until it is empty. Unless it is about \
                         to be wiped, stop this node and delete the engine's directory, too{again}"
                    );
                }
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.wait() => return false,
            () = tokio::time::sleep(EMPTY_POLL) => {}
        }
    }
}

/// For a node that has nobody to join.
fn registrar(config: &Config, identity: &Identity) -> Result<Option<Registrar>, reqwest::Error> {
    if config.routers.is_empty() {
        return Ok(None);
    }
    if !config.join.is_empty() {
        // No mistake: the engine passes requests on to the same routers.
        tracing::info!("JOIN_ADDR and RAFTKV_ROUTER are both set: JOIN_ADDR counts, no router is asked for a group");
        return Ok(None);
    }
    let registration = Registration::new(identity, config.bootstrap, config.group.clone());
    Registrar::new(config.routers.clone(), registration).map(Some)
}

fn advertised(configured: &Option<String>, name: &str, listener: &Listener) -> String {
    if let Some(address) = configured {
        return address.clone();
    }
    match listener.endpoint() {
        Endpoint::Tcp(bound) => match bound.rsplit_once(':') {
            Some((_, port)) => format!("{name}:{port}"),
            None => name.to_owned(),
        },
        // The configuration does not let it come to this.
        Endpoint::Unix(_) => name.to_owned(),
    }
}
