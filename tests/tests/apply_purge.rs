//! A follower that installs a snapshot, applies what follows it and purges its log, all at once and under load: the path of
//! openraft #2116, on which an entry that is to be applied may have been purged. Whatever the process does, the cluster comes
//! through: nothing acknowledged is lost, histories are linearizable, replicas are equal.

use std::time::{Duration, Instant};

use anyhow::ensure;
use raftkv_tests::{
    Client, Cluster, Load, LoadReport, Node, Registers, Seed, Tolerance, eventually_within, figure, full_from_env,
};

/// How long the path is driven; with `RAFTKV_TEST_FULL=1` for minutes.
const SOME: Duration = Duration::from_secs(15);
const FULL: Duration = Duration::from_secs(180);
/// Times a snapshot has to be installed for the run to count.
const LEAST_INSTALLS: usize = 3;
/// A log this short is purged all the time.
const LOG_RETAIN: &str = "64KiB";
const SNAPSHOT_AFTER: &str = "64KiB";
const PATIENCE: Duration = Duration::from_secs(60);
/// Written while the follower is away, each to be found at the end.
const PUTS: u64 = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_a_follower_installs_applies_and_purges_under_load() -> anyhow::Result<()> {
    let seed = Seed::from_env();
    let cluster = Cluster::builder()
        .env("RAFTKV_LOG_RETAIN", LOG_RETAIN)
        .env("RAFTKV_SNAPSHOT_AFTER", SNAPSHOT_AFTER)
        .start()
        .await?;
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    let keys = (0..32).map(|key| format!("register/{key}")).collect();
    let registers = Registers::start(keys, 8, clients.clone(), Tolerance::Faults, seed);

    let (begin, until) = (Instant::now(), if full_from_env() { FULL } else { SOME });
    let (mut installs, mut loads) = (0, Vec::new());
    while begin.elapsed() < until || installs < LEAST_INSTALLS {
        ensure!(begin.elapsed() < until + PATIENCE, "only {installs} snapshots were installed");
        let (installed, load) = once(&cluster, loads.len()).await?;
        installs += installed;
        loads.push(load);
        registers.healthy()?;
    }
    let report = registers.check().await?;
    cluster.whole(3).await?;
    let contents = cluster.converged().await?;
    for load in &loads {
        load.check(&contents)?;
    }
    figure("snapshots installed by a follower under load", installs);
    figure("operations checked for linearizability meanwhile", report.operations);
    figure("longest wait of a client", format!("{:.1?}", report.longest_wait));
    ensure!(report.operations > 1_000, "{} operations are too few to be a load", report.operations);
    cluster.finish().await
}

/// A follower is left behind, comes back by snapshot, and is made to purge at every step while it catches up. Returns how many
/// snapshots it has installed, and what was written meanwhile.
async fn once(cluster: &Cluster, round: usize) -> anyhow::Result<(usize, LoadReport)> {
    let follower = cluster.follower().await?;
    let installed = || -> anyhow::Result<usize> { Ok(follower.logs()?.matches("the snapshot is live").count()) };
    let before = installed()?;
    let leader = cluster.leader().await?;
    follower.kill();
    // What the follower has got is not known exactly; it is no more than its leader has now.
    let last = leader.status().await?.node.last_log;
    let clients: Vec<Client> = cluster.others(&follower).iter().map(|node| node.client()).collect();
    let load = Load::start(&format!("pad-{round}/"), PUTS, 16, clients).report();
    let purged = async {
        eventually_within(PATIENCE, "the others' logs begin behind the follower's end", || async {
            for other in cluster.others(&follower) {
                // Refused while it has nothing new to keep.
                let _ = other.compact().await?;
                let purged = other.status().await?.node.purged;
                ensure!(purged > last, "{} has purged up to {purged:?}, it should {last:?}", other.name());
            }
            Ok(())
        })
        .await
    };
    let (load, purged) = tokio::join!(load, purged);
    let load = load?;
    purged?;
    follower.start()?;
    eventually_within(PATIENCE, "the follower installs a snapshot, and is ready", || async {
        compact(&follower).await;
        ensure!(installed()? > before, "its log says nothing of a snapshot");
        follower.ready().await
    })
    .await?;
    Ok((installed()? - before, load))
}

/// While it starts nobody answers, and before it has applied anything new it refuses: both are fine.
async fn compact(node: &Node) {
    let _ = node.compact().await;
}
