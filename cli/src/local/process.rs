//! [`Supervisor`]: keeps one process running.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_runtime::exit;
use raftkv_runtime::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::board::{Board, eprintln_lossy};
use super::plan::ProcessSpec;

/// First pause before a restart, doubled each time.
const MIN_BACKOFF: Duration = Duration::from_millis(200);
/// Longest pause before a restart.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// A process that ran this long was well: the next restart comes quickly again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// A log larger than this is put aside when its process starts; one such old log is kept.
const MAX_LOG_BYTES: u64 = 16 * 1024 * 1024;
/// How much of a log is shown when a process cannot be started.
const TAIL_LINES: usize = 10;

/// Starts a process, starts it again when it ends, and stops it when asked.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) spec: ProcessSpec,
    pub(super) restart: bool,
    pub(super) grace: Duration,
    pub(super) board: Arc<Board>,
    pub(super) shutdown: Shutdown,
}

impl Supervisor {
    /// Returns when the process has ended for good.
    pub(super) async fn run(self) {
        let mut backoff = MIN_BACKOFF;
        while !self.shutdown.is_triggered() {
            let started = Instant::now();
            let how = match self.start() {
                Ok(mut child) => {
                    self.board.set_pid(&self.spec, child.id());
                    let ended = self.until_end_or_shutdown(&mut child).await;
                    self.board.set_pid(&self.spec, None);
                    match ended {
                        Some(status) => self.judge(status),
                        None => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let name = format!("{} of {}", self.spec.role.name(), self.spec.node_name);
            if !self.restart {
                eprintln_lossy(&format!("{name} ended ({how}) and stays so; its log is {}", self.spec.log.display()));
                return;
            }
            if started.elapsed() >= WELL_AFTER {
                backoff = MIN_BACKOFF;
            }
            eprintln_lossy(&format!("{name} ended ({how}); starting it again in {backoff:?}"));
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.shutdown.wait() => return,
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    fn start(&self) -> io::Result<Child> {
        rotate(&self.spec.log)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.spec.log)?;
        let mut command = Command::new(&self.spec.launcher);
        command
            .arg("local-exec")
            .arg(format!("--parent={}", std::process::id()))
            .arg(&self.spec.program)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Ctrl-C in the terminal is for us; the children are stopped in order.
            .process_group(0)
            .kill_on_drop(true);
        for (name, value) in &self.spec.environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.spawn()
    }

    /// `None` = it was stopped because of the shutdown.
    async fn until_end_or_shutdown(&self, child: &mut Child) -> Option<io::Result<ExitStatus>> {
        tokio::select! {
            status = child.wait() => return Some(status),
            () = self.shutdown.wait() => {}
        }
        terminate(child);
        if tokio::time::timeout(self.grace, child.wait()).await.is_err() {
            eprintln_lossy(&format!(
                "{} of {} did not stop within {:?}: killed",
                self.spec.role.name(),
                self.spec.node_name,
                self.grace
            ));
            // The error would be that it has just ended.
            let _ = child.kill().await;
        }
        None
    }

    /// Says how it ended, and gives up on a start that cannot succeed.
    fn judge(&self, status: io::Result<ExitStatus>) -> String {
        let status = match status {
            Ok(status) => status,
            Err(error) => return error.to_string(),
        };
        if matches!(status.code(), Some(exit::USAGE | exit::CONFIG)) {
            let tail = tail(&self.spec.log).unwrap_or_default();
            self.board.give_up(format!(
                "{} of {} refuses its configuration ({status}):\n{tail}",
                self.spec.role.name(),
                self.spec.node_name
            ));
        }
        status.to_string()
    }
}

fn terminate(child: &Child) {
    // No id = it has ended and was waited for. As long as it has one, the id cannot be another process's.
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::TERM);
    }
}

/// Puts a log aside that has become large.
fn rotate(log: &Path) -> io::Result<()> {
    match std::fs::metadata(log) {
        Ok(metadata) if metadata.len() > MAX_LOG_BYTES => std::fs::rename(log, log.with_extension("log.1")),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The last lines of a log.
pub(super) fn tail(log: &Path) -> io::Result<String> {
    let text = std::fs::read(log)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_log_is_put_aside_and_a_small_one_is_kept() {
        let temporary = tempfile::tempdir().expect("dir");
        let log = temporary.path().join("engine.log");
        rotate(&log).expect("none is fine");
        std::fs::write(&log, "small").expect("write");
        rotate(&log).expect("small");
        assert!(log.exists());
        std::fs::File::create(&log).expect("create").set_len(MAX_LOG_BYTES + 1).expect("grow");
        rotate(&log).expect("large");
        assert!(!log.exists() && temporary.path().join("engine.log.1").exists());
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let temporary = tempfile::tempdir().expect("dir");
        let log = temporary.path().join("engine.log");
        let lines: Vec<_> = (0..30).map(|line| line.to_string()).collect();
        std::fs::write(&log, lines.join("\n")).expect("write");
        assert_eq!(tail(&log).expect("read"), lines[20..].join("\n"));
    }
}
