//! [`Process`]: one program under test, from its start to its end and on to its next start.

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

/// A process that was asked to stop gets this long: more than the grace that it gives itself.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// Wait before the first restart, as Docker's; it doubles with each start that did not last.
const RESTART_FIRST: Duration = Duration::from_millis(100);
/// The longest wait before a restart.
const RESTART_LAST: Duration = Duration::from_secs(2);
/// A process that ran this long was a success: the waits begin anew.
const LASTED: Duration = Duration::from_secs(10);

/// A program with its environment and its log file. Killed when dropped.
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
    /// A program that starts this one, with its arguments.
    wrapper: Vec<String>,
    child: Option<Child>,
    /// Whether a supervisor should see to it that it runs.
    wanted: bool,
    started: Option<Instant>,
    starts: u32,
    wait: Duration,
    exits: Vec<Exit>,
}

/// How a process ended that nobody had asked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit {
    /// Its code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Self { code: status.code(), signal: status.signal() }
    }
}

impl Process {
    /// A program that is not started yet. Its output is appended to `log`.
    pub fn new(name: impl Into<String>, program: PathBuf, log: PathBuf) -> Self {
        let state = Mutex::new(State { program, ..State::default() });
        Self { name: name.into(), log, state }
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its output is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sets a variable for its next starts.
    pub fn set_env(&self, name: &str, value: impl Into<String>) {
        let mut state = self.state();
        state.env.retain(|(known, _)| known != name);
        state.env.push((name.to_owned(), value.into()));
    }

    /// Has its next starts made with the program of the same name in `dir`: another version.
    pub fn set_programs(&self, dir: &Path) {
        let mut state = self.state();
        if let Some(name) = state.program.file_name() {
            state.program = dir.join(name);
        }
    }

    /// Has its next starts made by another program, which becomes this one; its arguments come first.
    pub(crate) fn set_wrapper(&self, wrapper: Vec<String>) {
        self.state().wrapper = wrapper;
    }

    /// Starts it, unless it runs.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        state.wanted = true;
        state.wait = RESTART_FIRST;
        self.reap(&mut state);
        self.spawn(&mut state)
    }

    /// Ends it with SIGKILL and leaves it down.
    pub fn kill(&self) {
        let mut state = self.state();
        state.wanted = false;
        if let Some(mut child) = state.child.take() {
            // It may have ended by itself a moment ago.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it with SIGKILL, as a crash would: where there is a supervisor, it starts it again.
    pub fn crash(&self) {
        if let Some(child) = &mut self.state().child {
            let _ = child.kill();
            // Kept for whoever reaps it: from here on it is seen to be dead.
            let _ = child.wait();
        }
    }

    /// Asks it to end with SIGTERM, waits until it has and leaves it down.
    pub async fn stop(&self) -> anyhow::Result<Exit> {
        self.ask_to_stop()?;
        self.stopped().await
    }

    /// Asks it to end with SIGTERM, and to stay down.
    pub fn ask_to_stop(&self) -> anyhow::Result<()> {
        self.state().wanted = false;
        self.signal(Signal::TERM)
    }

    /// Waits until it has ended after [`ask_to_stop`](Self::ask_to_stop).
    pub async fn stopped(&self) -> anyhow::Result<Exit> {
        self.exited(STOP_PATIENCE).await
    }

    /// Waits until it has ended, where no supervisor would start it again.
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

    /// Makes it stand still, with SIGSTOP.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Makes it go on, with SIGCONT.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sets how many files and sockets it may have open; what is open stays. The hard limit stays as it is, so that this can be undone.
    pub fn limit_files(&self, files: u64) -> anyhow::Result<()> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a process id")?;
        // Inherited from this process, which has the same hard limit.
        let maximum = getrlimit(Resource::Nofile).maximum;
        prlimit(Some(pid), Resource::Nofile, Rlimit { current: Some(files), maximum })
            .with_context(|| format!("limit the files of {}", self.name))?;
        Ok(())
    }

    /// How many files and sockets it has open.
    pub fn open_files(&self) -> anyhow::Result<usize> {
        let pid = self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?;
        Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
    }

    /// Its id while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut state = self.state();
        let child = state.child.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// Its memory now.
    pub fn memory(&self) -> anyhow::Result<Memory> {
        memory_of(self.pid().ok_or_else(|| anyhow!("{} is not running", self.name))?)
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.state().starts
    }

    /// How it ended each time a supervisor found it down.
    pub fn exits(&self) -> Vec<Exit> {
        self.state().exits.clone()
    }

    /// Starts it again when it should run and does not, and has been down long enough. For supervisors.
    pub(crate) fn supervise(&self) -> anyhow::Result<()> {
        let mut state = self.state();
        if !state.wanted {
            // How it ends is for whoever asked it to.
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
