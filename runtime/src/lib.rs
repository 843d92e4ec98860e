//! Process plumbing shared by the binaries: telemetry, shutdown, exit codes, configuration.
