//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that a process has open beside its connections: tables of the store, segments of the log, sockets between the processes.
pub(crate) const OTHER_FILES: u64 = 512;

/// Raises the soft limit of open files to the hard one: each connection needs one, and the store keeps its tables open.
/// Shells hand out a low soft limit for the sake of old programs; services are expected to raise it.
///
/// Where even the hard limit is too low for so many connections, a warning says so: connections beyond it would fail, and with
/// them files that the store has to open.
pub fn raise_for(connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(limit = ?limit.current, "raise the limit of open files: {error}");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && let Some(why) = too_low(limit, connections as u64)
    {
        tracing::warn!("{why}");
    }
}

/// What to say when the limit does not fit the connections.
fn too_low(limit: u64, connections: u64) -> Option<String> {
    let needed = connections.saturating_add(OTHER_FILES);
    (limit < needed).then(|| {
        format!(
            "this process may have {limit} files open and would need {needed}: {connections} for connections and {OTHER_FILES} \
             for its own files. Raise the limit (ulimit -Hn, LimitNOFILE=, ulimits.nofile) or lower the number of connections \
             (RAFTKV_MAX_CONNECTIONS)"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_connections_is_told_with_both_numbers() {
        assert_eq!(too_low(4_096 + OTHER_FILES, 4_096), None);
        let why = too_low(1_024, 4_096).expect("too low");
        assert!(why.contains("1024 files") && why.contains("4608") && why.contains("RAFTKV_MAX_CONNECTIONS"), "{why}");
    }
}
