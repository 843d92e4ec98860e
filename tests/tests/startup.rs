//! One program alone: what it says of its settings and of its files, and that it does not need its standard error.

use std::fs::File;
use std::io::PipeWriter;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use raftkv_tests::{Client, Loopback, binary, eventually_within, signal};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
const PROGRAMS: [&str; 3] = ["raftkv-engine", "raftkv-sidecar", "raftkv-router"];

/// A program with its settings, killed when dropped.
struct Alone {
    command: Command,
    child: Option<Child>,
    client: Client,
}

impl Alone {
    fn new(program: &str, dir: &Path, loopback: &Loopback) -> anyhow::Result<Self> {
        let address = |port: u16| SocketAddr::from((loopback.node(1), port)).to_string();
        let mut command = Command::new(binary(program)?);
        command.env_clear().env("RAFTKV_DATA_DIR", dir).stdin(Stdio::null()).stdout(Stdio::null());
        let front = address(8080);
        match program {
            "raftkv-engine" => {
                command.env("NODE_ID", "n1").env("RAFTKV_HTTP_LISTEN", &front);
                command.env("RAFTKV_GROUP_LISTEN", address(50_053));
            }
            "raftkv-sidecar" => {
                command.env("NODE_ID", "n1").env("RAFTKV_MANAGEMENT_LISTEN", &front);
                command.env("RAFTKV_RAFT_LISTEN", address(8088));
            }
            _ => {
                command.env("RAFTKV_HTTP_LISTEN", &front).env("RAFTKV_META", address(50_053));
            }
        }
        Ok(Self { command, child: None, client: Client::new(front) })
    }

    fn start(&mut self, stderr: impl Into<Stdio>) -> anyhow::Result<()> {
        self.child = Some(self.command.stderr(stderr).spawn()?);
        Ok(())
    }

    async fn lives(&mut self) -> anyhow::Result<()> {
        let Self { child, client, .. } = self;
        let child = std::sync::Mutex::new(child.as_mut().context("started")?);
        eventually_within(PATIENCE, "it answers", || async {
            let ended = child.lock().map_or(None, |mut child| child.try_wait().ok().flatten());
            ensure!(ended.is_none(), "it ended: {ended:?}");
            client.get_path("/livez").await?.success()?;
            Ok(())
        })
        .await
    }

    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let text = self.client.get_path("/metrics").await?.text()?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)).with_context(|| format!("no {name}"))?;
        Ok(value.trim().parse()?)
    }

    /// Asks it to stop; gives its exit code.
    async fn stopped(&mut self) -> anyhow::Result<Option<i32>> {
        let mut child = self.child.take().context("started")?;
        signal(child.id(), rustix::process::Signal::TERM)?;
        let child = std::sync::Mutex::new(&mut child);
        eventually_within(PATIENCE, "it stops", || async {
            let ended = child.lock().map_or(None, |mut child| child.try_wait().ok().flatten());
            Ok(ended.context("it runs")?.code())
        })
        .await
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn directory() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("rka").tempdir()?)
}

/// The end of a pipe that takes nothing more.
fn filled(pipe: PipeWriter) -> anyhow::Result<PipeWriter> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | rustix::fs::OFlags::NONBLOCK)?;
    for size in [4_096, 1] {
        while rustix::io::write(&pipe, &vec![b'x'; size]).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&pipe, flags)?;
    Ok(pipe)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_program_needs_somebody_to_take_its_log() -> anyhow::Result<()> {
    for program in PROGRAMS {
        let full = File::options().write(true).open("/dev/full")?;
        let (reader, closed) = std::io::pipe()?;
        drop(reader);
        let (_unread, waiting) = std::io::pipe()?;
        let sinks: [(&str, Stdio); 3] =
            [("full", full.into()), ("closed", closed.into()), ("unread", filled(waiting)?.into())];
        for (sink, stderr) in sinks {
            let what = || format!("{program} with a log that is {sink}");
            let (dir, loopback) = (directory()?, Loopback::reserve()?);
            let mut process = Alone::new(program, dir.path(), &loopback)?;
            process.start(stderr)?;
            process.lives().await.with_context(what)?;
            let lost = process.metric("raftkv_log_lines_lost_total").await.with_context(what)?;
            ensure!((lost > 0.0) == (sink != "unread"), "{}: {lost} lines are lost", what());
            let code = process.stopped().await.with_context(what)?;
            ensure!(code == Some(0), "{}: it ended with {code:?}", what());
        }
    }
    Ok(())
}

/// Runs it to its end; gives its exit code and what it said.
fn refused(mut alone: Alone) -> anyhow::Result<(Option<i32>, String)> {
    let output = alone.command.stderr(Stdio::piped()).output()?;
    Ok((output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned()))
}

#[tokio::test]
async fn a_file_that_is_damaged_at_the_start_has_an_exit_code_of_its_own() -> anyhow::Result<()> {
    let cases: [(&str, &str, &[u8]); 6] = [
        ("raftkv-engine", "engine/CURRENT", b""),
        ("raftkv-engine", "engine/CURRENT", b"raftkv-store 1\ngen-\n"),
        ("raftkv-engine", "engine/CURRENT", b"\xff\xfe\0"),
        ("raftkv-sidecar", "sidecar/identity", b""),
        ("raftkv-sidecar", "sidecar/identity", b"{}"),
        ("raftkv-sidecar", "sidecar/identity", b"\xff\xfe\0"),
    ];
    for (program, file, content) in cases {
        let (dir, loopback) = (directory()?, Loopback::reserve()?);
        let path = dir.path().join(file);
        std::fs::create_dir_all(path.parent().context("a directory")?)?;
        std::fs::write(&path, content)?;
        let (code, said) = refused(Alone::new(program, dir.path(), &loopback)?)?;
        ensure!(code == Some(65), "{file} with {content:?}: {code:?}, {said}");
        ensure!(said.contains(&*path.to_string_lossy()) && said.contains("damaged"), "{file}: {said}");
        ensure!(std::fs::read(&path)? == content, "{file} was changed");
    }
    Ok(())
}

#[tokio::test]
async fn a_setting_that_cannot_be_read_is_told_with_an_example() -> anyhow::Result<()> {
    let cases = [
        ("raftkv-engine", "RAFTKV_CACHE_BYTES", "lots", "512MiB"),
        ("raftkv-engine", "RAFTKV_REQUEST_TIMEOUT", "soon", "250ms"),
        ("raftkv-sidecar", "RAFTKV_LOG_RETAIN", "64 Mega", "512MiB"),
        ("raftkv-router", "RAFTKV_MAX_CONNECTIONS", "lots", "whole number"),
        ("raftkv-engine", "RAFTKV_ALLOWED_HOSTS", "http://kv.example.com", "kv.example.com"),
        ("raftkv-sidecar", "RAFTKV_ALLOWED_HOSTS", "*", "kv.example.com"),
        ("raftkv-router", "RAFTKV_ALLOWED_HOSTS", "kv.example.com:8000", "kv.example.com"),
    ];
    for (program, setting, value, example) in cases {
        let (dir, loopback) = (directory()?, Loopback::reserve()?);
        let mut alone = Alone::new(program, dir.path(), &loopback)?;
        alone.command.env(setting, value);
        let (code, said) = refused(alone)?;
        ensure!(code == Some(64) && said.contains(setting) && said.contains(example), "{setting}={value}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn misspelt_variables_and_a_low_limit_of_files_are_told_at_the_start() -> anyhow::Result<()> {
    for program in PROGRAMS {
        let (dir, loopback) = (directory()?, Loopback::reserve()?);
        let mut alone = Alone::new(program, dir.path(), &loopback)?;
        alone.command.env("RAFTKV_LOG_RETIAN", "1MiB").env("RAFTKV_META", "127.0.0.1:9");
        // A shell lowers the limit for good, then becomes the program.
        let mut limited = Command::new("/bin/sh");
        limited.args(["-c", "ulimit -n 300; exec \"$0\""]).arg(alone.command.get_program()).env_clear();
        for (name, value) in alone.command.get_envs() {
            limited.env(name, value.unwrap_or_default());
        }
        limited.stdin(Stdio::null()).stdout(Stdio::null());
        alone.command = limited;
        let log = dir.path().join("log");
        alone.start(File::create(&log)?)?;
        alone.lives().await?;
        let said = std::fs::read_to_string(&log)?;
        for words in ["Is RAFTKV_LOG_RETAIN meant?", "may have 300 files open"] {
            ensure!(said.contains(words), "{program} does not say {words:?}: {said}");
        }
        ensure!(!said.contains("variable RAFTKV_META"), "{program} knows the variables of the others: {said}");
    }
    Ok(())
}
