//! Ends processes that an earlier run left behind.
//!
//! Needed only where they do not die with their parent. A process is ended only when it runs one of our programs on
//! one of our directories: ids are reused, and another cluster's processes are none of our business.

use std::path::Path;
use std::time::Duration;

use super::board::ClusterState;
use super::directory::Directory;
use super::programs::{ENGINE, ROUTER, SIDECAR};
use super::spec::ROUTER_MARK;
use crate::failure::Failure;

/// How often to look whether a killed process is gone.
const POLL: Duration = Duration::from_millis(20);
/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Kills what `cluster.json` names and what still is what it says, and waits until it is gone.
pub(super) async fn end(directory: &Directory) -> Result<(), Failure> {
    let Ok(text) = std::fs::read(directory.cluster_file()) else {
        return Ok(());
    };
    // A file that cannot be read names nobody. Ports and directories that are still held will be told of later.
    let Ok(state) = serde_json::from_slice::<ClusterState>(&text) else {
        return Ok(());
    };
    for node in &state.nodes {
        let mark = mark("RAFTKV_DATA_DIR", &node.dir);
        for (pid, program) in [(node.engine_pid, ENGINE), (node.sidecar_pid, SIDECAR)] {
            if let Some(pid) = pid {
                end_one(pid, program, &mark).await?;
            }
        }
    }
    for pid in state.routers.iter().filter_map(|router| router.pid) {
        end_one(pid, ROUTER, &mark(ROUTER_MARK, directory.path())).await?;
    }
    Ok(())
}

/// What the environment of one of our processes has in it.
fn mark(variable: &str, dir: &Path) -> String {
    format!("{variable}={}", dir.display())
}

async fn end_one(pid: u32, program: &str, mark: &str) -> Result<(), Failure> {
    let Some(id) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return Ok(());
    };
    if !is_ours(pid, program, mark) {
        return Ok(());
    }
    let failed = |error: std::io::Error| Failure::io(format!("end {program} left behind as process {pid}"), &error);
    kill(id, || is_ours(pid, program, mark)).map_err(failed)?;
    let deadline = tokio::time::Instant::now() + GONE_WITHIN;
    while is_ours(pid, program, mark) {
        if tokio::time::Instant::now() >= deadline {
            return Err(Failure::unavailable(format!("{program} left behind as process {pid} does not end")));
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Kills the process if `still_ours` holds for the process that the handle names, not for a later one of the same id.
#[cfg(target_os = "linux")]
fn kill(id: rustix::process::Pid, still_ours: impl Fn() -> bool) -> std::io::Result<()> {
    use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    match pidfd_open(id, PidfdFlags::empty()) {
        Ok(handle) if still_ours() => match pidfd_send_signal(&handle, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(not(target_os = "linux"))]
fn kill(id: rustix::process::Pid, still_ours: impl Fn() -> bool) -> std::io::Result<()> {
    if still_ours() {
        rustix::process::kill_process(id, rustix::process::Signal::KILL)?;
    }
    Ok(())
}

/// Whether the process runs `program` and has `mark` in its environment. One that cannot be looked at is not ours.
fn is_ours(pid: u32, program: &str, mark: &str) -> bool {
    let Ok(executable) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    // The kernel appends " (deleted)" when the file was replaced since, by a build for example.
    let name = executable.file_name().unwrap_or_default().to_string_lossy();
    if name.trim_end_matches(" (deleted)") != program {
        return false;
    }
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else {
        return false;
    };
    environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[tokio::test]
    async fn only_a_process_of_our_program_on_our_directory_is_ended() {
        let temporary = tempfile::tempdir().expect("dir");
        let program = temporary.path().join("raftkv-engine");
        std::fs::copy("/bin/sleep", &program).expect("a program that runs for a while");
        let mut child = Command::new(&program)
            .arg("600")
            .env("RAFTKV_DATA_DIR", "/d/node1")
            .stdin(Stdio::null())
            .spawn()
            .expect("start");
        let pid = child.id();
        // Between fork and exec the process still looks like this test.
        let ours = mark("RAFTKV_DATA_DIR", Path::new("/d/node1"));
        while !is_ours(pid, "raftkv-engine", &ours) {
            tokio::time::sleep(POLL).await;
        }

        for (name, dir) in [("raftkv-sidecar", "/d/node1"), ("raftkv-engine", "/d/node2")] {
            end_one(pid, name, &mark("RAFTKV_DATA_DIR", Path::new(dir))).await.expect("not ours");
            assert!(child.try_wait().expect("wait").is_none(), "{name} on {dir} is another process");
        }

        end_one(pid, "raftkv-engine", &ours).await.expect("ours");
        child.wait().expect("ended");
        end_one(pid, "raftkv-engine", &ours).await.expect("gone is as good as ended");
    }
}
