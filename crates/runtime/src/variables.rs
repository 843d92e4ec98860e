//! Environment variables `RAFTKV_…` that no program of RaftKV knows: most likely typing errors.
//!
//! They are warned of and not refused: the environment is shared, and somebody else's variable may begin so. A process knows the
//! variables of all programs, for in a container they have one environment.

const PREFIX: &str = "RAFTKV_";

/// Those of the programs, and of the scripts around them. Each program checks in its tests that its own are here.
const KNOWN: &[&str] = &[
    "RAFTKV_ALLOWED_HOSTS",
    "RAFTKV_BIND",
    "RAFTKV_BIN_DIR",
    "RAFTKV_BUSY_POLL",
    "RAFTKV_CACHE_BYTES",
    "RAFTKV_CONFIG",
    "RAFTKV_DATA_DIR",
    "RAFTKV_DISK_RESERVE",
    "RAFTKV_ELECTION_TIMEOUT",
    "RAFTKV_ENDPOINT",
    "RAFTKV_ENGINE_GRPC",
    "RAFTKV_ENGINE_GRPC_LISTEN",
    "RAFTKV_GROUP",
    "RAFTKV_GROUPS",
    "RAFTKV_GROUP_ADVERTISE",
    "RAFTKV_GROUP_LISTEN",
    "RAFTKV_HEARTBEAT",
    "RAFTKV_HTTP_ADVERTISE",
    "RAFTKV_HTTP_LISTEN",
    "RAFTKV_IMAGE",
    "RAFTKV_LOCAL_DIR",
    "RAFTKV_LOG",
    "RAFTKV_LOG_FORMAT",
    "RAFTKV_LOG_MAX",
    "RAFTKV_LOG_RETAIN",
    "RAFTKV_MANAGEMENT",
    "RAFTKV_MANAGEMENT_ADVERTISE",
    "RAFTKV_MANAGEMENT_BIND",
    "RAFTKV_MANAGEMENT_LISTEN",
    "RAFTKV_MAX_CONNECTIONS",
    "RAFTKV_MAX_KEY_BYTES",
    "RAFTKV_MAX_REQUEST_TIMEOUT",
    "RAFTKV_MAX_VALUE_BYTES",
    "RAFTKV_META",
    "RAFTKV_MOVE_PAUSE_AT",
    "RAFTKV_MOVE_RATE",
    "RAFTKV_NEXTEST_PROFILE",
    "RAFTKV_PROFILE",
    "RAFTKV_RAFT_ADVERTISE",
    "RAFTKV_RAFT_LISTEN",
    "RAFTKV_READ_LEASE",
    "RAFTKV_REPLICAS",
    "RAFTKV_REQUEST_TIMEOUT",
    "RAFTKV_ROUTER",
    "RAFTKV_ROUTER_ENDPOINT",
    "RAFTKV_ROUTER_ID",
    "RAFTKV_SHUTDOWN_GRACE",
    "RAFTKV_SIDECAR_GRPC",
    "RAFTKV_SIDECAR_GRPC_LISTEN",
    "RAFTKV_SKIP_BUILD",
    "RAFTKV_SKIP_IMAGE",
    "RAFTKV_SNAPSHOT_AFTER",
    "RAFTKV_STAGES",
    "RAFTKV_STOP_GRACE",
    "RAFTKV_UP_SECONDS",
];

/// Families of the scripts and of the tests.
const FAMILIES: &[&str] = &[
    "RAFTKV_FUZZ_",
    "RAFTKV_MANAGEMENT_PORT_",
    // Not the whole name: scripts/planted.sh looks for that in programs that must have no planted bug.
    "RAFTKV_PLANTED_",
    "RAFTKV_PORT_",
    "RAFTKV_REQUIRE_",
    "RAFTKV_SOAK_",
    "RAFTKV_TEST_",
];

/// More letters than this that differ are no typing error.
const MOST_TYPOS: usize = 3;

/// Whether a program or a script of RaftKV reads the variable; those with other beginnings are somebody else's.
pub fn is_known(name: &str) -> bool {
    !name.starts_with(PREFIX)
        || KNOWN.contains(&name)
        || FAMILIES.iter().any(|family| name.starts_with(family))
        || is_service_link(name)
}

/// Kubernetes tells every container of the services beside it, and one may be called raftkv.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

/// Writes a line into the log for every variable of this process that begins as ours do and is none.
pub fn warn_of_unknown() {
    for (name, _) in std::env::vars_os() {
        if let Some(name) = name.to_str()
            && let Some(warning) = warning(name)
        {
            tracing::warn!("{warning}");
        }
    }
}

fn warning(name: &str) -> Option<String> {
    if is_known(name) {
        return None;
    }
    let nearest = KNOWN.iter().map(|known| (distance(name, known), known)).min();
    Some(match nearest {
        Some((typos, known)) if typos <= MOST_TYPOS => {
            format!("no program of RaftKV reads the environment variable {name}: it is ignored. Is {known} meant?")
        }
        _ => format!("no program of RaftKV reads the environment variable {name}: it is ignored"),
    })
}

/// How many letters have to be put in, left out or changed to make one name of the other (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, of_a) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, of_b) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(of_a != of_b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_variable_is_told_with_the_one_that_is_meant() {
        for (typo, meant) in [
            ("RAFTKV_LOG_RETIAN", "RAFTKV_LOG_RETAIN"),
            ("RAFTKV_CACHE_BYTE", "RAFTKV_CACHE_BYTES"),
            ("RAFTKV_DISKRESERVE", "RAFTKV_DISK_RESERVE"),
            ("RAFTKV_HEART_BEAT", "RAFTKV_HEARTBEAT"),
        ] {
            let warning = warning(typo).expect("unknown");
            assert!(warning.contains(typo) && warning.ends_with(&format!("Is {meant} meant?")), "{warning}");
        }
        let warning = warning("RAFTKV_OF_SOMEBODY_ELSE").expect("unknown");
        assert!(!warning.contains("meant"), "{warning}");
    }

    #[test]
    fn variables_of_all_programs_and_of_others_are_no_mistake() {
        for name in [
            "RAFTKV_META",
            "RAFTKV_RAFT_LISTEN",
            "RAFTKV_PORT_1",
            "RAFTKV_TEST_SEED",
            "RAFT_KV",
            "PATH",
            "RAFTKV_SERVICE_HOST",
            "RAFTKV_PORT",
        ] {
            assert_eq!(warning(name), None, "{name}");
        }
        assert!(KNOWN.is_sorted() && KNOWN.iter().all(|name| name.starts_with(PREFIX)));
    }

    #[test]
    fn a_distance_counts_letters() {
        for (a, b, expected) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 2),
            ("abc", "ab", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!((distance(a, b), distance(b, a)), (expected, expected), "{a} {b}");
        }
    }
}
