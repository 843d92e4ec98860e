//! The shard router process of RaftKV.

use clap::Parser;
use raftkv_router::config::{Args, Config};
use raftkv_router::run::{RunError, bind, run};
use raftkv_runtime::shutdown::Shutdown;
use raftkv_runtime::{exit, file_limit, metrics, panic, telemetry, variables, workers};

/// As an engine, for both are mostly HTTP: on a machine of its own, TOKIO_WORKER_THREADS gives it more.
const SHARE_OF_CORES: f64 = 0.5;

// Many small messages: the system's allocator is slower.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    panic::abort_on_panic();
    let args = Args::try_parse().unwrap_or_else(|usage| {
        let code = if usage.use_stderr() { exit::USAGE } else { 0 };
        let _ = usage.print();
        std::process::exit(code)
    });
    let config = Config::resolve(args).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    telemetry::init(&config.log, config.log_format).unwrap_or_else(|error| exit::fatal_error(exit::USAGE, &error));
    metrics::install().unwrap_or_else(|error| exit::fatal_error(exit::SOFTWARE, &error));
    variables::warn_of_unknown();
    file_limit::raise_for(config.door.max_connections);
    let runtime = workers::runtime(SHARE_OF_CORES).unwrap_or_else(|error| exit::fatal_error(error.exit_code(), &error));
    if let Err(error) = runtime.block_on(start(config)) {
        exit::fatal_error(error.exit_code(), &error);
    }
    runtime.shutdown_background();
    telemetry::flush();
}

async fn start(config: Config) -> Result<(), RunError> {
    let shutdown = Shutdown::new();
    shutdown.signals().map_err(|source| RunError::Io { action: "handle signals", source })?;
    let listener = bind(&config).await?;
    run(config, listener, shutdown).await
}
