//! How many files and sockets the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that an engine or a router has open beside its connections: tables of the store, sockets between the processes.
pub(crate) const OTHER_FILES: u64 = 512;
/// The same for a sidecar: segments of the log, 64 and a few where it is as long as it may be by default, and connections to other members
/// and to the engine.
pub const SIDECAR_FILES: usize = 256;

/// Raises the soft limit of open files to the hard one: each connection needs one, and the store keeps its tables open.
/// Shells hand out a low soft limit for the sake of old programs; services are expected to raise it.
///
/// Where even the hard limit is too low for so many connections, a warning says so: connections beyond it would fail, and with
/// them files that the store has to open. The number of connections is one that `RAFTKV_MAX_CONNECTIONS` is a part of.
pub fn raise_for(connections: usize) {
    raise(&Needs { connections: connections as u64, others: OTHER_FILES, setting: Some("RAFTKV_MAX_CONNECTIONS") });
}

/// The same for a process whose numbers of connections are fixed, and which has `others` files of its own.
pub fn raise_for_fixed(connections: usize, others: usize) {
    raise(&Needs { connections: connections as u64, others: others as u64, setting: None });
}

/// What a process has open at most.
struct Needs {
    connections: u64,
    others: u64,
    /// By which the number of connections can be lowered.
    setting: Option<&'static str>,
}

fn raise(needs: &Needs) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(limit = ?limit.current, "raise the limit of open files: {error}");
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current
        && let Some(why) = too_low(limit, needs)
    {
        tracing::warn!("{why}");
    }
}

/// What to say when the limit does not fit the connections.
fn too_low(limit: u64, needs: &Needs) -> Option<String> {
    let Needs { connections, others, setting } = needs;
    let needed = connections.saturating_add(*others);
    (limit < needed).then(|| {
        let why = format!(
            "this process may have {limit} files open and would need {needed}: {connections} for connections and {others} \
             for its own files. Raise the limit (ulimit -Hn, LimitNOFILE=, ulimits.nofile)"
        );
        match setting {
            Some(setting) => format!("{why} or lower the number of connections ({setting})"),
            None => why,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_the_connections_is_told_with_both_numbers() {
        let needs = |setting| Needs { connections: 4_096, others: OTHER_FILES, setting };
        assert_eq!(too_low(4_096 + OTHER_FILES, &needs(None)), None);
        let why = too_low(1_024, &needs(Some("RAFTKV_MAX_CONNECTIONS"))).expect("too low");
        assert!(why.contains("1024 files") && why.contains("4608") && why.contains("RAFTKV_MAX_CONNECTIONS"), "{why}");
        let why = too_low(1_024, &needs(None)).expect("too low");
        assert!(why.contains("4608") && !why.contains("RAFTKV"), "nothing to lower them by: {why}");
    }
}
