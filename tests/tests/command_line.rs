//! `raftkv` and the management port, as somebody meets them who mistypes, asks the wrong address or sees a part only.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_tests::{Client, Cluster, LocalCluster, binary, eventually, signal};
use reqwest::Method;
use rustix::process::Signal;

/// No command takes longer, whatever it meets.
const PATIENCE: Duration = Duration::from_secs(60);
/// The command's own variables, which the machine of the test must not bring in.
const VARIABLES: [&str; 4] = ["RAFTKV_ENDPOINT", "RAFTKV_MANAGEMENT", "RAFTKV_ROUTER_ENDPOINT", "RAFTKV_ROUTER"];

/// What a command said, and its exit code.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

async fn raftkv(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Said> {
    let mut command = tokio::process::Command::new(binary("raftkv")?);
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("raftkv does not end")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
}

/// Fails unless the command ended with `code` and said `part` on stderr.
async fn refused(arguments: &[&str], code: i32, part: &str) -> anyhow::Result<()> {
    let said = raftkv(arguments, &[]).await?;
    ensure!(
        said.code == Some(code) && said.err.contains(part),
        "{arguments:?}: {code} and {part:?} expected: {said:?}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_mistyped_does_nothing_and_strangers_are_known() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(1, &["--groups", "2"]).await?;
    let [router] = &cluster.printed.routers[..] else { anyhow::bail!("one router: {:?}", cluster.printed) };
    let [first, second] = &cluster.printed.nodes[..] else { anyhow::bail!("two nodes: {:?}", cluster.printed) };
    Client::new(&router.http).put("k", "v").await?.acked()?;
    let management = Client::new(&first.management);

    // Half understood, each of these would wipe the node that is asked.
    for (path, why) in [
        ("/kill?peerid=node9&confirm=delete-all-keys", "unknown parameter peerid"),
        ("/kill?peerID=&confirm=delete-all-keys", "peerID must not be empty"),
        ("/kill?peerID=node9&peerID=&confirm=delete-all-keys", "peerID must not be empty"),
    ] {
        let answer = management.post(path, "application/json", "").await?;
        ensure!(answer.status == 400 && answer.to_string().contains(why), "{path}: {answer}");
    }
    let form = management.post("/kill", "application/x-www-form-urlencoded", "peerID=node9").await?;
    ensure!(form.status == 400, "{form}");
    let look = management.request(Method::GET, "/kill").send().await?;
    ensure!(look.headers().get("allow").is_some_and(|allow| allow == "POST"), "{look:?}");
    let detail = look.text().await?;
    ensure!(detail.contains(r#""detail":"POST""#), "{detail}");
    let at_first = ["--management", &first.management];
    refused(&[&["node", "kill", "", "--yes-delete-all-keys"][..], &at_first].concat(), 64, "a value is required")
        .await?;

    // Each address answers, and none is what the command needs.
    refused(&["get", "k", "--endpoint", &first.management], 69, "is not RaftKV's HTTP API").await?;
    refused(&["put", "k", "v", "--endpoint", &first.management], 69, "is not RaftKV's HTTP API").await?;
    refused(&["list", "--endpoint", &first.management], 69, "is not RaftKV's HTTP API").await?;
    refused(&["node", "remove", "x", "--management", &first.http], 69, "is not a node's management API").await?;
    refused(&["group", "list", "--router", &first.management], 69, "is not a router").await?;
    refused(&["get", "missing", "--endpoint", &first.http], 1, "no such key: missing").await?;

    // Why another node is not reached.
    for (address, why) in [
        ("nosuch.invalid:8088", "cannot resolve nosuch.invalid"),
        ("127.0.0.1:1", "connection refused"),
        (first.http.as_str(), "not a RaftKV peer"),
    ] {
        refused(&[&["node", "join", "x", address][..], &at_first].concat(), 69, why).await?;
    }

    // The flag wins, and what is empty is not set.
    let status = raftkv(&["status", "--router", &router.http], &[("RAFTKV_MANAGEMENT", "http://127.0.0.1:1")]).await?;
    ensure!(status.code == Some(0) && status.out.contains("store"), "{status:?}");
    let empty = raftkv(&["get", "k"], &[("RAFTKV_ENDPOINT", "")]).await?;
    ensure!(!empty.err.contains("invalid value"), "{empty:?}");

    // The answer of the first that answers, not of the next default address.
    let both = format!("127.0.0.1:1,{},{}", router.http, first.http);
    refused(&["group", "add", "127.0.0.1:1", "--router", &both], 69, "group_unreachable").await?;

    // As in a router's container: what is its own is all that is known, and all commands work.
    let own = [
        ("RAFTKV_ENDPOINT", format!("127.0.0.1:1,{}", router.http)),
        ("RAFTKV_MANAGEMENT", format!("127.0.0.1:1,{}", router.http)),
        ("RAFTKV_ROUTER", router.http.clone()),
    ];
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    for (arguments, part) in [
        (&["get", "k"][..], "v"),
        (&["status"][..], "store"),
        (&["status", "-o", "json"][..], "\"groups\""),
        (&["group", "list"][..], "active"),
        (&["group", "list", "-o", "json"][..], "\"active\""),
        (&["node", "transfer", second.name.as_str()][..], second.name.as_str()),
    ] {
        let said = raftkv(arguments, &own).await?;
        ensure!(said.code == Some(0) && said.out.contains(part), "{arguments:?}: {said:?}");
    }
    let several = raftkv(&["snapshot"], &own).await?;
    ensure!(several.code == Some(1) && several.err.contains("several groups"), "{several:?}");

    // By name; once it is removed it is not in the way, and its number means nothing else.
    let removed = raftkv(&["group", "remove", &second.group], &own).await?;
    ensure!(removed.code == Some(0), "{removed:?}");
    let list = raftkv(&["group", "list", "-o", "json"], &own).await?;
    ensure!(!list.out.contains("removed"), "{list:?}");
    let again = raftkv(&["group", "remove", "2"], &own).await?;
    ensure!(again.code == Some(1) && again.err.contains("was removed"), "{again:?}");
    ensure!(Client::new(&router.http).get("k").await?.text()? == "v");
    cluster.stop().await
}

#[tokio::test]
async fn a_program_that_cannot_use_its_directory_names_it() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    // As one of another user, also for root: a file stands where a directory is needed.
    let data = dir.path().join("data");
    std::fs::write(&data, "")?;
    for program in ["raftkv-sidecar", "raftkv-engine"] {
        let mut command = tokio::process::Command::new(binary(program)?);
        command.env("NODE_ID", "node1").env("RAFTKV_DATA_DIR", &data).kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await.context("it does not end")??;
        let said = [output.stderr, output.stdout].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
        let path = data.display().to_string();
        ensure!(output.status.code() == Some(74) && said.contains(&path), "{program}: {:?}: {said}", output.status);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_hangs_or_a_leader_that_takes_its_time_is_told_as_it_is() -> anyhow::Result<()> {
    let cluster = LocalCluster::start(3, &[]).await?;
    let [first, second, third] = &cluster.printed.nodes[..] else { anyhow::bail!("three: {:?}", cluster.printed) };
    let to_first = raftkv(&["node", "transfer", &first.name, "--management", &first.management], &[]).await?;
    ensure!(to_first.code == Some(0), "{to_first:?}");
    eventually("node1 leads", || async {
        let status = raftkv(&["status", "-o", "json", "--management", &second.management], &[]).await?;
        ensure!(status.code == Some(0) && status.out.contains(r#""leader":"node1","nodes""#), "{status:?}");
        Ok(())
    })
    .await?;
    let sidecar = third.sidecar_pid.context("it runs")?;
    signal(sidecar, Signal::STOP)?;
    let began = Instant::now();
    let status = raftkv(&["status", "--management", &second.management], &[]).await?;
    let took = began.elapsed();
    signal(sidecar, Signal::CONT)?;
    ensure!(status.code == Some(1) && status.out.contains("node3 does not answer"), "{status:?}");
    ensure!(took < Duration::from_secs(8), "one member that hangs held up the others for {took:?}");

    // The leader hangs, and nobody can take its place: the follower that is asked waits for it as long as it may, and then
    // says what came of it.
    let hanging = [first.sidecar_pid.context("it runs")?, sidecar];
    hanging.iter().try_for_each(|pid| signal(*pid, Signal::STOP))?;
    let said = raftkv(&["node", "remove", "node3", "--management", &second.management], &[]).await;
    hanging.iter().try_for_each(|pid| signal(*pid, Signal::CONT))?;
    let said = said?;
    ensure!(said.code == Some(69), "{said:?}");
    ensure!(!said.err.contains("no answer within 10s"), "the node's own answer is not seen: {said:?}");
    ensure!(said.err.matches("unknown").count() <= 1, "told twice: {said:?}");
    cluster.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_die_and_no_command_fails() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let endpoints: Vec<String> = cluster.nodes().iter().map(|node| node.http_address().to_string()).collect();
    let endpoints = endpoints.join(",");
    // The second and the third time the client meets the dead node first, too: each attempt begins with the first address.
    for round in 0..3 {
        let leader = cluster.leader().await?;
        leader.kill();
        let value = format!("round {round}");
        let put = raftkv(&["put", "k", &value, "--endpoint", &endpoints], &[]).await?;
        ensure!(put.code == Some(0), "{put:?}");
        let get = raftkv(&["get", "k", "--endpoint", &endpoints], &[]).await?;
        ensure!(get.code == Some(0) && get.out == value, "{get:?}");
        leader.start()?;
        eventually("the killed leader is back", || leader.ready()).await?;
    }

    // Nobody is there, and nobody comes: told in the end, and not before.
    for node in cluster.nodes() {
        node.kill();
    }
    let began = Instant::now();
    let said = raftkv(&["put", "k", "v", "--timeout", "2s", "--endpoint", &endpoints], &[]).await?;
    let took = began.elapsed();
    ensure!(said.code == Some(69) && said.err.contains("cannot connect"), "{said:?}");
    ensure!(took > Duration::from_secs(1) && took < Duration::from_secs(10), "{took:?}");
    Ok(())
}
