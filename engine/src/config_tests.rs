//! Tests of the engine's configuration.

use std::time::Duration;

use clap::Parser;
use raftkv_kv::Limits;

use super::*;

fn file(toml: &str) -> File {
    let dir = tempfile::tempdir().expect("directory");
    let path = dir.path().join("node.toml");
    std::fs::write(&path, toml).expect("write");
    load_file(Some(&path)).expect("well-formed")
}

fn flags(flags: &[&str]) -> Args {
    Args::try_parse_from(std::iter::once("raftkv-engine").chain(flags.iter().copied())).expect("known flags")
}

fn refused(given: &[&str]) -> String {
    Config::merge(flags(given), File::default()).expect_err("refused").to_string()
}

#[test]
fn defaults_need_nothing_but_a_name() {
    let config = Config::merge(flags(&["--node-id", "node1"]), File::default()).expect("sound");
    assert_eq!(config.name, "node1");
    assert_eq!(config.dir, PathBuf::from("/var/lib/raftkv/engine"));
    assert_eq!(config.http_listen.to_string(), "0.0.0.0:8080");
    assert_eq!(config.http_advertise, None);
    assert_eq!(config.group_listen.to_string(), "0.0.0.0:50053");
    assert_eq!(config.grpc_listen.to_string(), "unix:/var/lib/raftkv/engine.sock");
    assert_eq!(config.sidecar_grpc.to_string(), "unix:/var/lib/raftkv/sidecar.sock");
    assert_eq!(config.disk_reserve, None);
    assert_eq!(config.door.limits, Limits::default());
}

#[test]
fn a_flag_wins_over_the_environment_the_environment_over_the_file_and_the_file_over_the_default() {
    let toml = "
        node_id = 'from-file'
        [engine]
        request_timeout = '1s'
        shutdown_grace = '2s'
        cache_bytes = '7MiB'
        allowed_hosts = ['kv.example']
        [sidecar]
        anything = true
    ";
    // clap stores environment variables in the same fields as flags, and prefers the flag.
    let mut given = flags(&["--request-timeout", "3s"]);
    given.http_advertise = Some("from-environment:1".to_owned());
    let config = Config::merge(given, file(toml)).expect("sound");
    assert_eq!(config.door.request_timeout, Duration::from_secs(3), "flag");
    assert_eq!(config.http_advertise.as_deref(), Some("from-environment:1"), "environment");
    assert_eq!(config.door.shutdown_grace, Duration::from_secs(2), "file");
    assert_eq!(config.cache_bytes, 7 * 1024 * 1024, "file");
    assert_eq!(config.door.allowed_hosts.len(), 1, "file");
    assert_eq!(config.name, "from-file", "file");
    assert_eq!(config.door.max_request_timeout, raftkv_http::MAX_TIMEOUT, "default");
}

#[test]
fn every_setting_has_an_environment_variable() {
    use clap::CommandFactory;
    for argument in Args::command().get_arguments().filter(|argument| !argument.is_hide_set()) {
        let name = argument.get_id().as_str();
        if !["help", "version"].contains(&name) {
            assert!(argument.get_env().is_some(), "{name}");
            assert!(argument.get_help().is_some(), "{name}");
        }
    }
}

#[test]
fn an_empty_variable_is_not_set() {
    let config =
        Config::merge(flags(&["--node-id", "a", "--cache-bytes", "", "--http-advertise", " "]), File::default());
    let config = config.expect("sound");
    assert_eq!((config.cache_bytes, config.http_advertise), (DEFAULT_CACHE.0, None));
}

#[test]
fn routers_come_from_a_list() {
    let given = flags(&["--node-id", "a", "--router", "r1:8000, r2:8000,"]);
    let config = Config::merge(given, file("[engine]\nrouter = ['r3:8000']")).expect("sound");
    assert_eq!(config.routers, ["r1:8000", "r2:8000"]);
    let config = Config::merge(flags(&["--node-id", "a"]), file("[engine]\nrouter = ['r3:8000']")).expect("sound");
    assert_eq!(config.routers, ["r3:8000"]);
}

#[test]
fn what_makes_no_sense_is_refused_with_its_name() {
    let cases: [(&[&str], &str); 12] = [
        (&["--request-timeout", "5"], "RAFTKV_REQUEST_TIMEOUT"),
        (&["--request-timeout", "0s"], "RAFTKV_REQUEST_TIMEOUT"),
        (&["--max-request-timeout", "1s"], "RAFTKV_MAX_REQUEST_TIMEOUT"),
        (&["--max-key-bytes", "1MiB"], "RAFTKV_MAX_KEY_BYTES"),
        (&["--max-value-bytes", "0"], "RAFTKV_MAX_VALUE_BYTES"),
        (&["--http-listen", "unix:/tmp/http.sock"], "RAFTKV_HTTP_LISTEN"),
        (&["--group-listen", "unix:/tmp/group.sock"], "RAFTKV_GROUP_LISTEN"),
        (&["--router", "router:8000,router:0"], "RAFTKV_ROUTER"),
        (&["--http-advertise", "node1:0"], "RAFTKV_HTTP_ADVERTISE"),
        (&["--allowed-hosts", "kv.example:80"], "RAFTKV_ALLOWED_HOSTS"),
        (&["--node-id", "no spaces"], "NODE_ID"),
        (&["--cache-bytes", "1KiB"], "RAFTKV_CACHE_BYTES"),
    ];
    for (given, setting) in cases {
        let error = refused(given);
        assert!(error.starts_with(setting), "{given:?}: {error}");
    }
}

#[test]
fn a_large_value_fits_into_a_batch() {
    let config = Config::merge(flags(&["--max-value-bytes", "8MiB"]), File::default()).expect("sound");
    assert!(config.door.limits.max_batch_bytes > config.door.limits.max_value_bytes);
}

#[test]
fn its_variables_are_known_to_the_other_programs() {
    let command = <Args as clap::CommandFactory>::command();
    for name in command.get_arguments().filter_map(clap::Arg::get_env) {
        assert!(name.to_str().is_some_and(raftkv_runtime::variables::is_known), "{name:?}");
    }
}
