//! Connections of strangers to the ports of a node, and messages of strangers on them: members, operators and the log are not harmed.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_proto::raft::LeaderId;
use raftkv_tests::{BulkLoad, Cluster, PeerClient, Process, eventually_within, figure};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::Code;

/// Connections of a stranger to one port: several times as many as any port that is not for clients takes.
const CONNECTIONS: usize = 1_500;
/// Files of a process that are none of its connections: tables, segments, sockets between the processes.
const OTHER_FILES: usize = 200;
/// What a process may have more of while they are there.
const MEMORY_BYTES: u64 = 64 << 20;
/// For another client's put meanwhile.
const PUT_DEADLINE: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(60);

/// So many connections to `address`, as far as they are taken; `bytes` are sent on each.
async fn strangers(address: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    raftkv_runtime::file_limit::raise_for(CONNECTIONS);
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        if let Ok(mut stream) = TcpStream::connect(address).await {
            // One that was closed already is no matter.
            let _ = stream.write_all(bytes).await;
            streams.push(stream);
        }
    }
    streams
}

/// `process` holds no more connections than `most`, and little memory for them.
async fn is_bounded(process: &Process, most: usize, memory_before: u64) -> anyhow::Result<()> {
    eventually_within(PATIENCE, "connections are bounded", || async {
        let files = process.open_files()?;
        ensure!(files <= most + OTHER_FILES, "{} has {files} files open", process.name());
        Ok(())
    })
    .await?;
    let more = process.memory()?.resident.saturating_sub(memory_before);
    figure(&format!("bytes of memory more in {} for strangers' connections", process.name()), more);
    ensure!(more <= MEMORY_BYTES, "{} has {more} bytes more", process.name());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_to_the_ports_of_grpc_cost_little_and_keep_no_member_out() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let client = leader.client();
    client.put("before", "v").await?.acked()?;
    let ports = [
        // What silent ones may hold of each: a quarter of its places.
        (leader.sidecar(), leader.raft_address(), 256 / 4),
        (leader.engine(), leader.group_address(), 512 / 4),
    ];
    let mut held = Vec::new();
    for (process, address, most) in ports {
        let memory_before = process.memory()?.resident;
        held.push(strangers(address, b"").await);
        is_bounded(process, most, memory_before).await?;
        let begin = Instant::now();
        client.put("meanwhile", "v").await?.acked()?;
        ensure!(begin.elapsed() < PUT_DEADLINE, "a put took {:?}", begin.elapsed());
    }
    // A member that starts again makes all of its connections anew.
    let follower = cluster.follower().await?;
    follower.stop().await?;
    follower.start()?;
    eventually_within(PATIENCE, "the member is back", || follower.ready()).await?;
    drop(held);
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_never_read_shut_neither_probes_nor_operators_out() -> anyhow::Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    let node = cluster.node(1);
    for asked in ["/metrics", "/status"] {
        // More answers than the kernel holds for a connection.
        let requests = format!("GET {asked} HTTP/1.1\r\nHost: a\r\n\r\n").repeat(400);
        let held = tokio::time::timeout(PATIENCE, async {
            let mut held = Vec::new();
            for _ in 0..300 {
                let mut stream = TcpStream::connect(node.management_address()).await?;
                let written = stream.write_all(requests.as_bytes());
                let _ = tokio::time::timeout(Duration::from_millis(200), written).await;
                held.push(stream);
            }
            anyhow::Ok(held)
        });
        let held = held.await??;
        for path in ["/livez", "/readyz"] {
            let begin = Instant::now();
            node.management().get_path(path).await?.success()?;
            ensure!(begin.elapsed() < Duration::from_secs(5), "{path} took {:?} beside {asked}", begin.elapsed());
        }
        eventually_within(Duration::from_secs(20), "operators are answered", || async {
            node.status().await.map(drop)
        })
        .await?;
        drop(held);
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_without_file_descriptors_waits_for_some_and_loses_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let follower = cluster.follower().await?;
    let clients: Vec<_> = cluster.others(&follower).iter().map(|node| node.client()).collect();
    // Several segments of the log.
    let data =
        |prefix: &str| BulkLoad { puts: 240, keys: 240, value_bytes: 256 * 1024, batch: 2, prefix: prefix.to_owned() };
    // Less than it has: nothing more can be opened.
    follower.sidecar().limit_files(3)?;
    let meanwhile = data("meanwhile/");
    meanwhile.run(&clients).await?;
    eventually_within(PATIENCE, "its log waits", || async {
        let log = std::fs::read_to_string(follower.sidecar().log())?;
        ensure!(log.contains("until there is a file descriptor to spare"), "not yet");
        Ok(())
    })
    .await?;
    ensure!(follower.sidecar().starts() == 1 && follower.sidecar().pid().is_some(), "the sidecar has ended");

    follower.sidecar().limit_files(1_024)?;
    let after = data("after/");
    after.run(&clients).await?;
    eventually_within(PATIENCE, "the follower is ready", || follower.ready()).await?;
    for load in [meanwhile, after] {
        load.check(&follower.client(), 7).await?;
    }
    ensure!(follower.sidecar().starts() == 1, "the sidecar has ended");
    cluster.finish().await
}

/// It keeps its heartbeats, so nobody else would be elected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_file_descriptors_gives_leadership_away() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let clients: Vec<_> = cluster.others(&leader).iter().map(|node| node.client()).collect();
    leader.sidecar().limit_files(3)?;
    let data = BulkLoad { puts: 240, keys: 240, value_bytes: 256 * 1024, batch: 2, prefix: "meanwhile/".to_owned() };
    // What is written while its log waits is asked for again, until another member leads. No write says that a disk is full.
    data.run(&clients).await?;
    let next = cluster.leader_other_than(&leader).await?;
    eventually_within(PATIENCE, "the next leader writes", || async { next.client().put("k", "v").await?.acked() })
        .await?;
    let log = std::fs::read_to_string(leader.sidecar().log())?;
    ensure!(log.contains("the log waits for a file descriptor: this node"), "it does not say why");
    ensure!(leader.sidecar().starts() == 1 && leader.sidecar().pid().is_some(), "the sidecar has ended");

    leader.sidecar().limit_files(1_024)?;
    eventually_within(PATIENCE, "it follows", || leader.ready()).await?;
    data.check(&leader.client(), 7).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_forges_no_log_line_and_a_new_one_is_plain() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let leader = cluster.leader().await?;
    let forged = "2026-01-01T00:00:00.000000Z  INFO raftkv_sidecar: forged";
    let name = format!("node9%0A{}", forged.replace(' ', "%20"));
    for node in [&leader, &cluster.follower().await?] {
        for bad in [name.as_str(), "a%20b", "n%C3%A4", &"n".repeat(64)] {
            let answer = node.management().get_path(&format!("/join?peerID={bad}&peerAddress=127.0.0.1:1")).await?;
            ensure!(answer.status == 400 && answer.json()?["code"] == "bad_name", "{answer}");
        }
        // Names that are only looked for may be anything.
        for path in [format!("/leave?peerID={name}"), format!("/transfer-leader?to={name}")] {
            let answer = node.management().post(&path, "text/plain", "").await?;
            ensure!(answer.status.is_client_error(), "{answer}");
        }
    }
    for node in cluster.nodes() {
        for process in [node.engine(), node.sidecar()] {
            let log = std::fs::read_to_string(process.log())?;
            ensure!(!log.lines().any(|line| line.starts_with(forged)), "{} has a forged line", process.log().display());
        }
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_writes_is_its_users_alone() -> anyhow::Result<()> {
    let cluster = Cluster::builder().nodes(1).start().await?;
    let node = cluster.node(1);
    node.client().put("k", "v").await?.acked()?;
    node.compact().await?.success()?;
    let mut left = vec![node.dir().join("engine"), node.dir().join("sidecar")];
    let mut seen = 0;
    while let Some(path) = left.pop() {
        // A file may be gone by now.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o777;
        ensure!(mode & 0o077 == 0, "{} has mode {mode:o}", path.display());
        seen += 1;
        if metadata.is_dir() {
            left.extend(std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()));
        }
    }
    ensure!(seen > 5, "{seen} files");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_a_stranger_that_says_nothing_keeps_no_leader_out() -> anyhow::Result<()> {
    let cluster = Cluster::builder().env("RAFTKV_LOG_RETAIN", "256KiB").start().await?;
    let follower = cluster.follower().await?;
    let leader = cluster.leader().await?;
    let status = follower.status().await?;
    let cluster_id = status.cluster_id.clone().unwrap_or_default();
    let refused = follower.peer()?.describe_snapshot(&cluster_id, status.node.raft_id).await;
    ensure!(
        refused.as_ref().is_err_and(|refused| refused.code() == Code::FailedPrecondition),
        "a snapshot under a vote that nobody has given: {refused:?}"
    );
    ensure!(follower.status().await?.node.term == status.node.term, "its word was taken for a term");

    // In the name of the true leader the stranger is let in. It keeps the only place, and says nothing more.
    let leading = leader.status().await?.node;
    let vote = LeaderId { term: leading.term, node_id: leading.raft_id };
    let mut stranger = PeerClient::patient(follower.raft_address())?;
    let target = status.node.raft_id;
    let held = tokio::spawn(async move { stranger.describe_snapshot_of(&cluster_id, target, vote).await });
    eventually_within(PATIENCE, "the stranger is let in", || async {
        ensure!(std::fs::read_to_string(follower.sidecar().log())?.contains("receiving a snapshot"), "not yet");
        Ok(())
    })
    .await?;

    // It falls so far behind that only a snapshot helps, with the process that the stranger speaks to.
    follower.sidecar().pause()?;
    follower.engine().pause()?;
    let clients: Vec<_> = cluster.others(&follower).iter().map(|node| node.client()).collect();
    let data = BulkLoad { puts: 32, keys: 32, value_bytes: 64 * 1024, batch: 1, prefix: "data/".to_owned() };
    data.run(&clients).await?;
    eventually_within(PATIENCE, "only a snapshot helps who was away", || async {
        leader.compact().await?.success()?;
        ensure!(leader.status().await?.node.purged > status.node.applied, "the log is whole");
        Ok(())
    })
    .await?;
    ensure!(!held.is_finished(), "the stranger has left before the leader has to send");
    follower.engine().resume()?;
    follower.sidecar().resume()?;
    // It is put in place only where what had been on its way to the paused process does not reach as far.
    eventually_within(PATIENCE, "the snapshot is received", || async {
        ensure!(std::fs::read_to_string(follower.sidecar().log())?.contains("the snapshot is received"), "not yet");
        Ok(())
    })
    .await?;
    let ended = held.await?;
    ensure!(ended.as_ref().is_err_and(|ended| ended.code() == Code::Aborted), "it made no room: {ended:?}");
    eventually_within(PATIENCE, "the follower is ready", || follower.ready()).await?;
    data.check(&follower.client(), 1).await?;
    cluster.finish().await
}
