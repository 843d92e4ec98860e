//! The leader's lease: reads that ask nobody must still see all that anybody was told, whoever is stopped meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::ensure;
use raftkv_tests::{Client, Cluster, Node, Put, Seed, eventually, figure};
use rand::RngExt;
use tokio::task::JoinSet;

const KEY: &str = "counter";
/// Between two reads of a node that wait for no other: some are asked while it stands still.
const READ_EVERY: Duration = Duration::from_millis(10);
/// What a read may wait for; a node that stands still takes longer, and then its answers are checked all the same.
const READ_QUERY: &str = "?timeout=500ms";

/// One counter: it is written by one writer, at all nodes in turn, and read at all of them. Nobody may see less than
/// what anybody was told before he asked.
#[derive(Default)]
struct Race {
    /// What was acknowledged or read, at least.
    seen: AtomicU64,
    over: AtomicBool,
    reads: AtomicU64,
    writes: AtomicU64,
    /// Reads of what a node has that were behind: what reading without a lease or a quorum would have given.
    behind: AtomicU64,
}

impl Race {
    /// Runs while `faults` does, which sees how far it is.
    async fn run(cluster: &Cluster, faults: impl AsyncFnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let race = Arc::new(Self::default());
        let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(&race).write(clients.clone()));
        for client in clients {
            tasks.spawn(Arc::clone(&race).read_in_turn(client.clone()));
            tasks.spawn(Arc::clone(&race).read_all_the_time(client));
        }
        let faulted = faults(&race).await;
        race.over.store(true, Ordering::SeqCst);
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        faulted?;
        figure("writes", race.writes.load(Ordering::SeqCst));
        figure("linearizable reads", race.reads.load(Ordering::SeqCst));
        figure("reads without any confirmation that would have been behind", race.behind.load(Ordering::SeqCst));
        ensure!(race.reads.load(Ordering::SeqCst) > 1_000, "too few reads to mean anything");
        ensure!(race.behind.load(Ordering::SeqCst) > 0, "no local read was behind: this test proves nothing");
        Ok(())
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    async fn write(self: Arc<Self>, clients: Vec<Client>) -> anyhow::Result<()> {
        let mut at = 0;
        for value in 1_u64.. {
            // Repeated under one key until it is certain: a write that is applied late would look like an old value.
            loop {
                let key = format!("write-{value}");
                let put = clients[at % clients.len()].put_with(KEY, value.to_string(), "?timeout=1s", Some(&key));
                match tokio::time::timeout(Duration::from_secs(2), put).await {
                    Ok(Put::Acked { .. }) => break,
                    _ if self.is_over() => return Ok(()),
                    _ => at += 1,
                }
            }
            self.seen.fetch_max(value, Ordering::SeqCst);
            self.writes.fetch_add(1, Ordering::SeqCst);
            at += usize::from(value % 5 == 0);
            if self.is_over() {
                break;
            }
        }
        Ok(())
    }

    async fn read_in_turn(self: Arc<Self>, client: Client) -> anyhow::Result<()> {
        while !self.is_over() {
            self.read(&client).await?;
        }
        Ok(())
    }

    async fn read_all_the_time(self: Arc<Self>, client: Client) -> anyhow::Result<()> {
        let mut reads = JoinSet::new();
        while !self.is_over() {
            let (race, client) = (Arc::clone(&self), client.clone());
            reads.spawn(async move { race.read(&client).await });
            tokio::time::sleep(READ_EVERY).await;
            while let Some(read) = reads.try_join_next() {
                read??;
            }
        }
        while let Some(read) = reads.join_next().await {
            read??;
        }
        Ok(())
    }

    async fn read(&self, client: &Client) -> anyhow::Result<()> {
        let seen = self.seen.load(Ordering::SeqCst);
        // A node that is down or cannot know answers nothing, which is no lie.
        if let Ok(answer) = client.get_with(KEY, READ_QUERY).await
            && answer.status.is_success()
        {
            let value: u64 = answer.text()?.parse()?;
            ensure!(value >= seen, "a linearizable read gave {value}, after somebody had seen {seen}: {answer}");
            self.seen.fetch_max(value, Ordering::SeqCst);
            self.reads.fetch_add(1, Ordering::SeqCst);
        }
        let seen = self.seen.load(Ordering::SeqCst);
        if let Ok(answer) = client.get_stale(KEY).await
            && answer.status.is_success()
            && answer.text()?.parse::<u64>()? < seen
        {
            self.behind.fetch_add(1, Ordering::SeqCst);
        }
        Ok(())
    }

    async fn others_write(cluster: &Cluster, than: &Node) -> anyhow::Result<()> {
        let other = cluster.leader_other_than(than).await?;
        eventually("the others write", || async { other.client().put("probe", "x").await?.acked() }).await?;
        Ok(())
    }
}

/// The leader stands still, whole or in half, until another leads and has written; then it goes on, in any order, with
/// reads that were sent to it meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stood_still_answers_nothing_old() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(7);
    let cluster = Cluster::builder().start().await?;
    let result = Race::run(&cluster, async |_| {
        for round in 0..8 {
            let leader = cluster.leader().await?;
            let (engine, sidecar) = [(true, true), (false, true), (true, true), (true, false)][round % 4];
            // Which of the two first makes a difference: the engine may still be granted something.
            if sidecar && rng.random_bool(0.5) {
                leader.sidecar().pause()?;
            }
            if engine {
                leader.engine().pause()?;
            }
            if sidecar {
                leader.sidecar().pause()?;
            }
            Race::others_write(&cluster, &leader).await?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..400))).await;
            leader.engine().resume()?;
            tokio::time::sleep(Duration::from_millis(rng.random_range(0..200))).await;
            leader.sidecar().resume()?;
            eventually("it is ready again", || leader.ready()).await?;
        }
        Ok(())
    })
    .await;
    result?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

/// A successor stands for election without regard to leases, so the lease must be gone before it is asked to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_under_reads() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    Race::run(&cluster, async |race| {
        for round in 0..30 {
            // Refused while the others have not answered a new leader yet, or when it has just lost its place.
            eventually(&format!("transfer {round} is made"), || async {
                let leader = cluster.leader().await?;
                let next = &cluster.others(&leader)[round % 2];
                let path = format!("/transfer-leader?to={}", next.name());
                leader.management().post(&path, "application/json", "").await?.success()
            })
            .await?;
            let before = race.reads.load(Ordering::SeqCst);
            eventually("clients read under the new leader", || async {
                ensure!(race.reads.load(Ordering::SeqCst) > before + 50, "too few have");
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

/// Engines and sidecars of leaders are killed and come back, at once and within the lease they had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_of_leaders_that_come_back_at_once_answer_nothing_old() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    Race::run(&cluster, async |_| {
        for round in 0..8 {
            let leader = cluster.leader().await?;
            match round % 4 {
                0 | 2 => leader.sidecar().crash(),
                1 => leader.engine().crash(),
                _ => leader.crash(),
            }
            eventually("all are ready", || async {
                for node in cluster.nodes() {
                    node.ready().await?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    })
    .await?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}
