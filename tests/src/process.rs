//! [`Process`]: a program under test, across restarts.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};

use crate::probe::{Memory, memory_of};
use crate::wait::eventually_within;

/// Stop timeout: longer than the process's graceful shutdown timeout.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Delay before the first restart, as in Docker; doubles after each short run.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// Maximum delay before a restart.
const RESTART_LAST: Duration = Duration::from_secs(2);
/// A run of this length resets the restart delay.
const LASTED: Duration = Duration::from_secs(10);

/// A program with environment and log file. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    program: PathBuf,
    env: Vec<(String, String)>,
    /// A program that starts this program, with arguments.
    wrapper: Vec<String>,
    child: Option<Child>,
    /// Whether a supervisor should keep the process running.
    wanted: bool,
    started: Option<Instant>,
    starts: u32,
    wait: Duration,
    exits: Vec<Exit>,
}

/// An unrequested exit of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; `None` after a signal.
    pub code: Option<i32>,
    /// The signal that ended the process.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl Process {
    /// Creates a process without starting the program. Output is appended to `log`.
    pub fn new(name: impl Into<String>, program: PathBuf, log: PathBuf) -> Self {
        let state = Mutex::new(State { program, ..State::default() });
        Self { name: name.into(), log, state }
    }

    /// Name used in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Path of the log.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sets an environment variable, from the next start.
    pub fn set_env(&self, name: &str, value: impl Into<String>) {
        let mut state = self.state();
        state.env.retain(|(known, _)| known != name);
        state.env.push((name.to_owned(), value.into()));
    }

    /// Uses the program of the same name in `dir`, another version, from the next start.
    pub fn set_programs(&self, dir: &Path) {
        let mut state = self.state();
        if let Some(name) = state.program.file_name() {
            state.program = dir.join(name);
        }
    }

    /// Starts the program through a wrapper program with these arguments, from the next start. The wrapper must exec.
    pub(crate) fn set_wrapper(&self, wrapper: Vec<String>) {
        self.state().wrapper = wrapper;
    }

    /// Starts the process unless running.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        state.wanted = true;
        state.wait = RESTART_FIRST;
        self.reap(&mut state);
        self.spawn(&mut state)
    }

    /// Kills the process with SIGKILL, without a restart.
    pub fn kill(&self) {
        let mut state = self.state();
        state.wanted = false;
        if let Some(mut child) = state.child.take() {
            // The process may have exited just before.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Kills the process with SIGKILL, like a crash: a supervisor restarts the process.
    pub fn crash(&self) {
        if let Some(child) = &mut self.state().child {
            let _ = child.kill();
            // `child` stays in place for `reap`, which records the exit.
            let _ = child.wait();
        }
    }

    /// Sends SIGTERM and waits for the exit. No restart follows.
    pub async fn stop(&self) -> anyhow::Result<Exit> {
        self.ask_to_stop()?;
        self.stopped().await
    }

    /// Sends SIGTERM and disables restarts.
    pub fn ask_to_stop(&self) -> anyhow::Result<()> {
        self.state().wanted = false;
        self.signal(Signal::TERM)
    }

    /// Waits for the exit after [`ask_to_stop`](Self::ask_to_stop).
    pub async fn stopped(&self) -> anyhow::Result<Exit> {
        self.exited(STOP_PATIENCE).await
    }

    /// Waits for the exit of an unsupervised process.
    pub async fn exited(&self, patience: Duration) -> anyhow::Result<Exit> {
        eventually_within(patience, &format!("{} ends", self.name), || async {
            let mut state = self.state();
            let Some(child) = &mut state.child else { bail!("it is not running") };
            let status = child.try_wait()?.ok_or_else(|| anyhow!("it runs"))?;
            state.child = None;
            Ok(status.into())
        })
        .await
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
        kill_process(pid, signal).with_context(|| format!("send a signal to {}", self.name))
    }

    /// Pauses the process with SIGSTOP.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Resumes the process with SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sets the soft limit of open files and sockets; open files are unaffected. The hard limit is unchanged, so the
    /// limit can be raised again.
    pub fn limit_files(&self, files: u64) -> anyhow::Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
        // Both processes have the same hard limit, because the child inherits the limit.
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum })
            .with_context(|| format!("limit the files of {}", self.name))?;
        Ok(())
    }

    /// Number of open files and sockets.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// Process id while running.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        let child = state.child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// Current memory use.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        memory_of(self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?)
    }

    /// Number of starts.
    pub fn starts(&self) -> u32 {
        self.state().starts
    }

    /// All unrequested exits, as found by a supervisor or at a start.
    pub fn exits(&self) -> Vec<Exit> {
        self.state().exits.clone()
    }

    /// Restarts the process if wanted, not running, and down for the restart delay. Called by supervisors.
    pub(crate) fn supervise(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        if !state.wanted {
            // The caller that requested the stop collects the exit.
            return Ok(());
        }
        self.reap(&mut state);
        let down_since = state.started.unwrap_or_else(Instant::now);
        if state.child.is_some() || down_since.elapsed() < state.wait {
            return Ok(());
        }
        state.wait = (state.wait * 2).min(RESTART_LAST);
        self.spawn(&mut state)
    }

    fn reap(&self, state: &mut State) {
        if let Some(child) = &mut state.child
            && let Ok(Some(status)) = child.try_wait()
        {
            state.child = None;
            state.exits.push(status.into());
            if state.started.is_some_and(|started| started.elapsed() > LASTED) {
                state.wait = RESTART_FIRST;
            }
            // From here on the wait is counted.
            state.started = Some(Instant::now());
        }
    }

    fn spawn(&self, state: &mut State) -> anyhow::Result<()> {
        if state.child.is_some() {
            return Ok(());
        }
        let log = || File::options().create(true).append(true).open(&self.log);
        let out = log().with_context(|| format!("open {}", self.log.display()))?;
        let err = log().with_context(|| format!("open {}", self.log.display()))?;
        let mut command = match state.wrapper.split_first() {
            Some((wrapper, _)) => Command::new(wrapper),
            None => Command::new(&state.program),
        };
        if let Some((_, arguments)) = state.wrapper.split_first() {
            command.args(arguments).arg(&state.program);
        }
        let child = command
            .env_clear()
            .envs(state.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("start {}", state.program.display()))?;
        state.child = Some(child);
        state.started = Some(Instant::now());
        state.starts += 1;
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &Path) -> Process {
        let script = dir.join("sleeper");
        std::fs::write(&script, "#!/bin/sh\nexec /bin/sleep 600\n").expect("write");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&script, mode).expect("executable");
        Process::new("sleeper", script, dir.join("log"))
    }

    #[tokio::test]
    async fn what_crashed_is_started_again_and_what_was_killed_is_not() {
        let dir = tempfile::tempdir().expect("directory");
        let process = sleeper(dir.path());
        process.start().expect("start");
        let first = process.pid().expect("runs");
        process.crash();
        let patience = Duration::from_secs(10);
        let second = eventually_within(patience, "it runs again", || async {
            process.supervise()?;
            process.pid().ok_or_else(|| anyhow!("it is down"))
        })
        .await
        .expect("restarted");
        assert_ne!(first, second);
        assert_eq!(process.exits(), [Exit { code: None, signal: Some(9) }]);

        process.kill();
        process.supervise().expect("nothing to do");
        assert_eq!(process.pid(), None);
    }

    #[tokio::test]
    async fn a_process_is_gone_with_its_owner() {
        let dir = tempfile::tempdir().expect("directory");
        let process = sleeper(dir.path());
        process.start().expect("start");
        let pid = process.pid().expect("runs");
        drop(process);
        assert!(memory_of(pid).is_err());
    }
}
