//! The consensus process of a RaftKV node.

use raftkv_runtime::file_limit::SIDECAR_FILES;
use raftkv_runtime::grpc::LINK_CONNECTIONS;
use raftkv_runtime::{
    directory, exit, file_limit, metrics, panic, published, shutdown::Shutdown, telemetry, variables, wipe, workers,
};
use raftkv_sidecar::config::{Args, Config};
use raftkv_sidecar::life::lifecycle::StartError;
use raftkv_sidecar::node::identity::IdentityError;
use raftkv_sidecar::run::{Listeners, PEER_CONNECTIONS, RunError, run};
use raftkv_sidecar::serve::management::MOST_CONNECTIONS;
use raftkv_sidecar::wal::WalError;

/// Raft is one task after the other; more threads only help where many peers and engines talk at once.
const SHARE_OF_CORES: f64 = 0.25;

/// Peers, the engine, and operators and monitoring on the management port.
const EXPECTED_CONNECTIONS: usize =
    PEER_CONNECTIONS.max_connections + LINK_CONNECTIONS.max_connections + MOST_CONNECTIONS;
// What systems give a process at least is enough: no warning where there is nothing to be done.
const _: () = assert!(EXPECTED_CONNECTIONS + SIDECAR_FILES <= 1_024);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    panic::abort_on_panic();
    directory::keep_private();
    let args = <Args as clap::Parser>::try_parse().unwrap_or_else(|error| {
        let _ = error.print();
        std::process::exit(if error.use_stderr() { exit::USAGE } else { 0 })
    });
    let config = Config::resolve(args).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    telemetry::init(&config.log, config.log_format).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    metrics::install().unwrap_or_else(|error| exit::fatal_error(exit::SOFTWARE, &error));
    variables::warn_of_unknown();
    published::warn_of_management();
    file_limit::raise_for_fixed(EXPECTED_CONNECTIONS, SIDECAR_FILES);
    let runtime = workers::runtime(SHARE_OF_CORES).unwrap_or_else(|error| exit::fatal_error(error.exit_code(), &error));
    runtime.block_on(start(config));
    runtime.shutdown_background();
    telemetry::flush();
}

async fn start(config: Config) {
    let shutdown = Shutdown::new();
    shutdown.signals().unwrap_or_else(|error| exit::fatal_error(exit::IO, &error));
    match wipe::carry_out(config.data_dir(), wipe::Part::Sidecar) {
        Ok(true) => tracing::warn!("this node was killed: its log and its identity are wiped, and it starts empty"),
        Ok(false) => {}
        Err(error) => exit::fatal(exit::IO, format!("wipe a killed node: {error}")),
    }
    // The Unix sockets are in the data directory, which the first start makes.
    directory::create_durable(&config.dir).unwrap_or_else(|error| exit::fatal_error(exit::IO, &error));
    directory::warn_of_access(config.data_dir());
    let listeners = Listeners::bind(&config).await.unwrap_or_else(|error| exit::fatal_error(exit::IO, &error));
    #[cfg(feature = "failpoints")]
    raftkv_runtime::failpoints::listen(&config.data_dir().join("sidecar.failpoints"))
        .unwrap_or_else(|error| exit::fatal_error(exit::IO, &error));
    if let Err(error) = run(config, listeners, shutdown).await {
        exit::fatal_error(exit_code(&error), &error);
    }
}

fn exit_code(error: &RunError) -> exit::ExitCode {
    match error {
        RunError::Identity(IdentityError::NameMismatch { .. }) | RunError::Start(StartError::BadName(_)) => {
            exit::CONFIG
        }
        RunError::Identity(IdentityError::Damaged { .. })
        | RunError::Start(StartError::Promise(IdentityError::Damaged { .. })) => exit::DATA,
        RunError::Log(WalError::Damaged { .. } | WalError::UnsupportedVersion { .. }) => exit::DATA,
        RunError::Identity(_)
        | RunError::Log(_)
        | RunError::Disk { .. }
        | RunError::Aside(_)
        | RunError::Serve { .. }
        | RunError::Start(_) => exit::IO,
        RunError::Engine(_) | RunError::Client(_) => exit::CONFIG,
        RunError::Reseed { .. } | RunError::Killed | RunError::KillGivenUp(_) => exit::TEMPFAIL,
        RunError::Task(_) => exit::SOFTWARE,
    }
}
