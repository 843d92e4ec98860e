//! [`Supervisor`]: keeps one process running.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use raftkv_runtime::exit;
use raftkv_runtime::shutdown::Shutdown;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::board::{Board, eprintln_lossy};
use super::directory::{finish_kill, is_kill_ordered};
use super::spec::ProcessSpec;

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

/// What the supervisors of a node's two processes share.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// The node's.
    pub(super) dir: PathBuf,
    /// Triggered when it is killed: then neither process is started again.
    pub(super) killed: Shutdown,
}

/// Starts a process, starts it again when it ends, and stops it when asked.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) spec: ProcessSpec,
    /// `None` for a router.
    pub(super) life: Option<Life>,
    pub(super) restart: bool,
    pub(super) grace: Duration,
    pub(super) board: Arc<Board>,
    pub(super) shutdown: Shutdown,
}

impl Supervisor {
    /// Returns when the process has ended for good.
    pub(super) async fn run(self) {
        self.keep_running().await;
        self.bury().await;
    }

    async fn keep_running(&self) {
        let mut backoff = MIN_BACKOFF;
        while !self.shutdown.is_triggered() && !self.is_killed() {
            let started = Instant::now();
            let how = match self.start() {
                Ok(mut child) => {
                    self.board.set_pid(&self.spec, child.id());
                    let ended = self.until_end_or_shutdown(&mut child).await;
                    self.board.set_pid(&self.spec, None);
                    match ended {
                        Some(_) if self.is_killed() => return,
                        Some(status) => self.judge(status),
                        None => return,
                    }
                }
                Err(error) => error.to_string(),
            };
            let name = &self.spec.title;
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
                () = self.killed() => return,
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// Whether the node of this process was killed. Found out once, it holds for the node's other process, too.
    fn is_killed(&self) -> bool {
        let Some(life) = &self.life else { return false };
        if is_kill_ordered(&life.dir) {
            life.killed.trigger();
        }
        life.killed.is_triggered()
    }

    /// Returns when the node was killed, as the end of its other process has shown.
    async fn killed(&self) {
        match &self.life {
            Some(life) => life.killed.wait().await,
            None => std::future::pending().await,
        }
    }

    /// Of a killed node: deletes what this process kept, now that it has ended. Left to the next start where that fails.
    async fn bury(&self) {
        let (Some(life), Some((node, part))) = (&self.life, self.spec.role.part()) else { return };
        if !life.killed.is_triggered() {
            return;
        }
        let dir = life.dir.clone();
        let wiped = tokio::task::spawn_blocking(move || finish_kill(&dir, part)).await;
        match wiped.map_err(io::Error::other).and_then(|wiped| wiped) {
            Ok(()) => eprintln_lossy(&format!("{} was killed and is wiped: it stays out", self.spec.title)),
            Err(error) => eprintln_lossy(&format!("{} was killed, but cannot be wiped: {error}", self.spec.title)),
        }
        self.board.set_killed(node);
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

    /// `None` = it was stopped, because of the shutdown or because its node was killed.
    async fn until_end_or_shutdown(&self, child: &mut Child) -> Option<io::Result<ExitStatus>> {
        tokio::select! {
            status = child.wait() => return Some(status),
            () = self.shutdown.wait() => {}
            () = self.killed() => {}
        }
        terminate(child);
        if tokio::time::timeout(self.grace, child.wait()).await.is_err() {
            eprintln_lossy(&format!("{} did not stop within {:?}: killed", self.spec.title, self.grace));
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
            self.board.give_up(format!("{} refuses its configuration ({status}):\n{tail}", self.spec.title));
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
