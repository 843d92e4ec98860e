//! The storage engine process of a RaftKV node.

use clap::Parser;
use raftkv_engine::config::{Args, Config};
use raftkv_engine::run::{GROUP_CONNECTIONS, Listeners, RunError, run};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::{directory, exit, file_limit, metrics, panic, telemetry, variables, wipe, workers};

/// HTTP is most of a node's work; the store and the sidecar need the other half.
const SHARE_OF_CORES: f64 = 0.5;

// 14 to 23 % more writes with fjall than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    panic::abort_on_panic();
    directory::keep_private();
    let args = Args::try_parse().unwrap_or_else(|usage| {
        let code = if usage.use_stderr() { exit::USAGE } else { 0 };
        let _ = usage.print();
        std::process::exit(code)
    });
    let config = Config::resolve(args).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    telemetry::init(&config.log, config.log_format).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    metrics::install().unwrap_or_else(|error| exit::fatal_error(exit::SOFTWARE, &error));
    variables::warn_of_unknown();
    file_limit::raise_for(config.door.max_connections + GROUP_CONNECTIONS.max_connections);
    let runtime = workers::runtime(SHARE_OF_CORES).unwrap_or_else(|error| exit::fatal_error(error.exit_code(), &error));
    if let Err(error) = runtime.block_on(start(config)) {
        exit::fatal_error(error.exit_code(), &error);
    }
    // An abandoned listing may still be reading.
    runtime.shutdown_background();
    telemetry::flush();
}

async fn start(config: Config) -> Result<(), RunError> {
    let shutdown = Shutdown::new();
    shutdown.signals().map_err(|source| RunError::Io { action: "handle signals", source })?;
    // Before any file is opened: a killed node must never serve old data.
    if wipe::carry_out(config.data_dir(), wipe::Part::Engine)
        .map_err(|source| RunError::Io { action: "wipe the data of a killed node", source })?
    {
        tracing::warn!("this node was killed: its data is wiped, and it starts empty");
    }
    let listeners = Listeners::bind(&config).await?;
    #[cfg(feature = "failpoints")]
    raftkv_runtime::failpoints::listen(&config.data_dir().join("engine.failpoints"))
        .map_err(|source| RunError::Io { action: "listen for failpoints", source })?;
    run(config, listeners, shutdown).await
}
