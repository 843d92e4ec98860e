//! Damaged files: a crash's traces at the end of the log are no damage, everything else is found, told and never served.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_runtime::exit;
use raftkv_tests::damage::{end_of_records, files_below, flip_bit, overwrite, truncate};
use raftkv_tests::{Cluster, Contents, Load, Node, Seed, eventually, figure};
use rand::RngExt;

const PUTS: u64 = 3_000;
/// What each frame of the log begins with.
const FRAME_MAGIC: &[u8] = b"RKfr";
/// Bytes of a frame's header.
const FRAME_HEADER: usize = 44;
/// A node with damaged files comes back or says what is wrong within this.
const VERDICT: Duration = Duration::from_secs(30);

async fn loaded() -> anyhow::Result<(Cluster, Contents)> {
    let cluster = Cluster::builder().start().await?;
    let clients = cluster.nodes().iter().map(|node| node.client()).collect();
    let report = Load::start("k", PUTS, 16, clients).report().await?;
    let contents = cluster.converged().await?;
    report.check_alone(&contents)?;
    Ok((cluster, contents))
}

/// The newest segment of the write-ahead log.
fn log_file(node: &Node) -> anyhow::Result<PathBuf> {
    let log = node.dir().join("sidecar/wal");
    // Their names sort by age.
    let newest = files_below(&log)?.into_iter().rfind(|file| file.extension().is_some_and(|ext| ext == "wal"));
    newest.with_context(|| format!("no log below {}", log.display()))
}

/// The log's bytes from its first frame on.
fn first_frame(file: &Path) -> anyhow::Result<Vec<u8>> {
    let bytes = std::fs::read(file)?;
    let start = bytes.windows(FRAME_MAGIC.len()).position(|bytes| bytes == FRAME_MAGIC);
    Ok(bytes[start.context("there is no frame")?..].to_vec())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_torn_end_of_the_log_recovers_by_itself() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(3);
    let (cluster, contents) = loaded().await?;
    for how in ["cut short", "zeroed", "followed by garbage"] {
        let node = cluster.follower().await?;
        node.kill();
        let file = log_file(&node)?;
        let end = end_of_records(&file)?;
        // The beginning of one frame more: nobody was told of it, so nobody relies on it. Not even its header is whole.
        let begun = &first_frame(&file)?[..rng.random_range(8..FRAME_HEADER)];
        let garbage: Vec<u8> = (0..200).map(|_| rng.random_range(1..=255)).collect();
        match how {
            "cut short" => {
                overwrite(&file, end, begun)?;
                truncate(&file, end + begun.len() as u64)?;
            }
            // The file has zeros from here on.
            "zeroed" => overwrite(&file, end, begun)?,
            _ => overwrite(&file, end, &garbage)?,
        }
        let at = Instant::now();
        node.start()?;
        eventually(&format!("{} comes back with its log {how}", node.name()), || node.ready()).await?;
        figure(&format!("ready again with a log {how} after"), format!("{:.1?}", at.elapsed()));
        ensure!(node.logs()?.contains("cut short by a crash"), "{how}: nothing was torn");
        cluster.whole(3).await?;
        let after = cluster.converged().await?;
        ensure!(after.entries == contents.entries, "{how}: {}", after.difference(&contents));
        // The node can also go on with that log.
        node.client().put("alive", how).await?.acked()?;
        node.client().delete("alive").await?.success()?;
        node.kill();
        node.start()?;
        cluster.whole(3).await?;
        let again = cluster.converged().await?;
        ensure!(again.entries == contents.entries, "{how}, restarted: {}", again.difference(&contents));
    }
    cluster.finish().await
}

/// What became of a node with a damaged file.
enum Verdict {
    /// It serves, and what it serves was compared: nothing is wrong.
    Served,
    /// It keeps ending with an error that names the file.
    Refused(String),
}

/// Waits for the verdict. Whatever the node answers meanwhile must be right.
async fn verdict(cluster: &Cluster, node: &Arc<Node>, file: &Path, contents: &Contents) -> anyhow::Result<Verdict> {
    let before = (node.engine().exits().len(), node.sidecar().exits().len());
    let start = Instant::now();
    loop {
        let is_ready = node.ready().await.is_ok();
        // What is damaged is not served: there is an error, the process ends and comes back, which must not take too long.
        if let Ok(served) = Contents::read(&node.client(), "", "stale").await {
            if is_ready && served.store_revision == contents.store_revision {
                ensure!(served.entries == contents.entries, "wrong data is served: {}", served.difference(contents));
                return Ok(Verdict::Served);
            }
            // An older state may be served as stale, a wrong one not: what is there must be as it was written.
            for (key, entry) in &served.entries {
                ensure!(contents.entries.get(key) == Some(entry), "{key} is served as {entry:?}");
            }
        }
        let exits = (node.engine().exits().len(), node.sidecar().exits().len());
        if exits.0 >= before.0 + 2 || exits.1 >= before.1 + 2 {
            let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let logs = node.logs()?;
            let line = logs.lines().rev().find(|line| line.contains("fatal")).unwrap_or_default();
            ensure!(logs.contains(&name), "it ends without naming {name}: {line}");
            // The others go on.
            cluster.leader_other_than(node).await?.client().get("k00000000").await?.success()?;
            return Ok(Verdict::Refused(line.to_owned()));
        }
        ensure!(start.elapsed() < VERDICT, "it neither serves nor ends: {:?}", node.ready().await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rejoin(cluster: &Cluster, node: &Node, contents: &Contents) -> anyhow::Result<()> {
    node.wipe()?;
    node.start()?;
    cluster.whole(3).await?;
    let after = cluster.converged().await?;
    ensure!(after.entries == contents.entries, "{}", after.difference(contents));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_stops_the_node_with_an_error_that_names_the_file() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(4);
    let (mut cluster, contents) = loaded().await?;
    cluster.expect_fatal();
    let mut refused = 0;
    for round in 0..4 {
        let node = cluster.follower().await?;
        node.kill();
        let file = log_file(&node)?;
        // Well below the end: that part was durable.
        let offset = rng.random_range(64..end_of_records(&file)? / 2);
        flip_bit(&file, offset, rng.random_range(0..8))?;
        node.start()?;
        match verdict(&cluster, &node, &file, &contents).await? {
            Verdict::Refused(line) => {
                println!("round {round}: {line}");
                refused += 1;
            }
            Verdict::Served => println!("round {round}: served, byte {offset} meant nothing"),
        }
        rejoin(&cluster, &node, &contents).await?;
    }
    ensure!(refused > 0, "no flipped bit in the log was found");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_store_is_never_served() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(5);
    let (mut cluster, contents) = loaded().await?;
    cluster.expect_fatal();
    let (mut served, mut refused) = (0, 0);
    for round in 0..7 {
        let node = cluster.follower().await?;
        // So that the data is in tables, not only in journals.
        node.compact().await?.success()?;
        node.kill();
        let files: Vec<_> = files_below(&node.dir().join("engine"))?
            .into_iter()
            .filter(|file| std::fs::metadata(file).is_ok_and(|meta| meta.len() > 0))
            .collect();
        ensure!(!files.is_empty(), "no store below {}", node.dir().display());
        // The last time where it is found by a reader only: among the values, the larger part of the largest table.
        let of_values = round == 6;
        let size = |file: &&PathBuf| std::fs::metadata(file).map_or(0, |meta| meta.len());
        let tables = files.iter().filter(|file| file.parent().is_some_and(|dir| dir.ends_with("tables")));
        let file = match tables.max_by_key(size) {
            Some(largest) if of_values => largest,
            _ => &files[rng.random_range(0..files.len())],
        };
        let end = end_of_records(file).unwrap_or(1);
        let offset = if of_values { end / 2 } else { rng.random_range(0..end) };
        flip_bit(file, offset, rng.random_range(0..8))?;
        println!("round {round}: byte {offset} of {end} of {}", file.display());
        let before = node.engine().exits().len();
        node.start()?;
        match verdict(&cluster, &node, file, &contents).await? {
            Verdict::Served => {
                served += 1;
                let found = node.engine().exits()[before..].iter().any(|exit| exit.code == Some(exit::DATA));
                ensure!(found || !of_values, "nobody has found it");
            }
            Verdict::Refused(line) => {
                println!("round {round}: {line}");
                ensure!(!of_values, "a node heals by itself where the others have its data");
                refused += 1;
            }
        }
        rejoin(&cluster, &node, &contents).await?;
    }
    figure("flipped bits in the store after which the node served what is right", served);
    figure("flipped bits in the store after which it refused to start", refused);
    cluster.finish().await
}
