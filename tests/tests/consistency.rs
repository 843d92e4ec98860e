//! What reads may see: on any node, every write that was acknowledged before; and nothing, in time, where that cannot be
//! known.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_tests::{
    Client, Cluster, Flow, History, Load, Node, Operation, Put, Seed, eventually, eventually_within, figure,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use reqwest::{Method, StatusCode};

const ROUNDS: u64 = 300;
/// What a request may take beyond its own deadline, on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

/// A write at one node, then at once a read at another, which is slowed in a third of the rounds: its engine or its
/// sidecar stands still while the write is made. A local read there shows the old value; that some did is what proves
/// that this test would find a system that reads locally.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_anywhere_sees_every_acknowledged_write() -> anyhow::Result<()> {
    let mut rng = Seed::from_env().rng(1);
    let cluster = Cluster::builder().start().await?;
    let (mut local_misses, mut slowed) = (0, 0);
    for round in 0..ROUNDS {
        let leader = cluster.leader().await?;
        let readers = cluster.others(&leader);
        let reader = readers.choose(&mut rng).context("a follower")?;
        // A follower that stands still serves no writer; any other node may be the writer.
        let pause = rng.random_range(0..9);
        let writers: Vec<_> = cluster.nodes().iter().filter(|n| pause > 2 || n.index() != reader.index()).collect();
        let writer = writers.choose(&mut rng).context("a node")?;
        match pause {
            0 => reader.engine().pause()?,
            1 | 2 => reader.sidecar().pause()?,
            _ => {}
        }
        let written = writer.client().put("k", round.to_string()).await?.acked();
        // A sidecar that stands still does not keep its engine from answering from its own copy.
        let early = if pause > 0 { Some(reader.client().get_stale("k").await?) } else { None };
        if pause <= 2 {
            slowed += 1;
            reader.engine().resume()?;
            reader.sidecar().resume()?;
        }
        written.with_context(|| format!("round {round}"))?;
        let (local, read) =
            tokio::join!(async { reader.client().get_stale("k").await }, async { reader.client().get("k").await });
        let read = read?.success().with_context(|| format!("round {round}, at {}", reader.name()))?;
        ensure!(
            read.text()? == round.to_string(),
            "round {round}: {} had acknowledged the write, then {} answered {read}",
            writer.name(),
            reader.name()
        );
        let is_old = |answer: &raftkv_tests::Answer| answer.body != round.to_string();
        local_misses += u32::from(early.as_ref().is_some_and(is_old) || is_old(&local?));
    }
    figure("rounds of a write here and a read there", ROUNDS);
    figure("rounds in which the reader was slowed", slowed);
    figure("rounds in which a local read would have missed the write", local_misses);
    ensure!(local_misses > 0, "no local read was stale: this test proves nothing");
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_cut_off_refuses_in_time_and_serves_stale_reads() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().start().await?;
    cluster.node(1).client().put("k", "before").await?.acked()?;
    let follower = cluster.follower().await?;
    cluster.converged().await?;
    cluster.isolate(&follower);
    let at = Instant::now();
    cluster.leader_other_than(&follower).await?.client().put("k", "after").await?.acked()?;
    figure("first put after a follower was cut off", format!("{:.0?}", at.elapsed()));
    refuses_in_time(&follower, "before").await?;
    cluster.heal();
    let at = Instant::now();
    eventually("it serves again", || async { follower.client().get("k").await?.success() }).await?;
    figure("first linearizable read after a follower was let in again", format!("{:.0?}", at.elapsed()));
    ensure!(follower.client().get("k").await?.text()? == "after");
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_cut_off_refuses_in_time_and_loses_nothing_it_acknowledged() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().start().await?;
    let old = cluster.leader().await?;
    let acked = old.client().put("k", "before").await?.acked()?;
    cluster.converged().await?;
    cluster.isolate(&old);
    let at = Instant::now();
    // At first it cannot know that it is alone: then the outcome of a write is unknown, never a success.
    let unknown = std::cell::Cell::new(0);
    eventually_within(Duration::from_secs(10), "the old leader refuses writes as not applied", || async {
        match old.client().put_with("lost", "?", "?timeout=500ms", None).await {
            Put::Acked { .. } => panic!("a leader that was cut off acknowledged a write"),
            Put::Unknown(why) => {
                unknown.set(unknown.get() + 1);
                anyhow::bail!("{why}")
            }
            Put::Refused(_) => Ok(()),
        }
    })
    .await?;
    figure("writes of unknown outcome at a leader that was cut off", unknown.get());
    figure("it refused writes as not applied after", format!("{:.1?}", at.elapsed()));
    refuses_in_time(&old, "before").await?;
    let new = cluster.leader_other_than(&old).await?;
    ensure!(new.client().get("k").await?.revision()? == acked, "an acknowledged write is lost");
    let after = new.client().put("k", "after").await?.acked()?;
    ensure!(after > acked);
    cluster.heal();
    eventually("the old leader serves what the new one wrote", || async {
        let answer = old.client().get("k").await?.success()?;
        ensure!(answer.body == "after" && answer.revision()? == after, "{answer}");
        Ok(())
    })
    .await?;
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

/// Half a connection is worse than none: a node hears and is not heard, or the other way round. The rest must go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_way_and_broken_connections_do_not_stop_the_group() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().start().await?;
    for flow in [Flow::Silent, Flow::Closed] {
        for leader_is_heard in [true, false] {
            let leader = cluster.leader().await?;
            let follower = cluster.follower().await?;
            let (from, to) = if leader_is_heard { (&follower, &leader) } else { (&leader, &follower) };
            cluster.cut(from, to, flow);
            let clients = cluster.others(&follower).iter().map(|node| node.client()).collect();
            let load = Load::start(&format!("{flow:?}-{leader_is_heard}/"), 2_000, 8, clients);
            let report =
                tokio::time::timeout(Duration::from_secs(60), load.report()).await.context("writes stand still")??;
            let what = if leader_is_heard { "from a follower to the leader" } else { "from the leader to a follower" };
            figure(&format!("longest gap, {flow:?} {what}"), format!("{:.1?}", report.longest_gap()));
            cluster.heal();
            cluster.whole(3).await?;
            report.check(&cluster.converged().await?)?;
        }
    }
    cluster.finish().await
}

/// A write is asked again so often where its outcome is told as unknown.
const WRITES: usize = 5;

/// A node that is cut off answers 503 to linearizable reads and to writes, each within its deadline, and serves what it
/// has to those who ask for no more.
///
/// Its sidecar says "not applied" a tenth of the deadline before that. Where processors are short even this can be too late, and
/// "unknown" is what the client has to be told: not every time, though.
async fn refuses_in_time(node: &Node, has: &str) -> anyhow::Result<()> {
    let client = node.client();
    for timeout in [300, 1_000, 2_000] {
        let query = format!("?timeout={timeout}ms");
        for (method, path) in [
            (Method::GET, format!("/v1/kv/k{query}")),
            (Method::GET, format!("/v1/kv{query}")),
            (Method::PUT, format!("/v1/kv/new{query}")),
            (Method::DELETE, format!("/v1/kv/k{query}")),
        ] {
            let mut left = if method == Method::GET { 1 } else { WRITES };
            let answer = loop {
                let at = Instant::now();
                let answer = Client::send(client.request(method.clone(), &path)).await?;
                let took = at.elapsed();
                ensure!(took < Duration::from_millis(timeout) + SLACK, "{method} {path} took {took:.1?}");
                left -= 1;
                if left == 0 || answer.status != StatusCode::GATEWAY_TIMEOUT {
                    break answer;
                }
            };
            let problem = answer.json()?;
            ensure!(
                answer.status == StatusCode::SERVICE_UNAVAILABLE && problem["outcome"] == "not_applied",
                "{method} {path} at a node cut off: {answer}"
            );
        }
        let stale = client.get_with("k", "?consistency=stale").await?;
        ensure!(stale.text()? == has && stale.header("raftkv-consistency") == "stale", "{stale}");
        let listed = client.get_path("/v1/kv?consistency=stale").await?.success()?.json()?;
        ensure!(listed["entries"][0]["key"] == "k", "{listed}");
    }
    eventually_within(Duration::from_secs(10), "it says that it is not ready", || async {
        let answer = client.get_path("/readyz").await?;
        ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer}");
        Ok(())
    })
    .await
}

const KEYS: usize = 6;
const CLIENTS: u64 = 8;
const FAULTS: usize = 4;

/// Clients read, write, delete and swap a few keys on all nodes while leaders are cut off or killed; then a checker looks
/// for an order of the operations in which one copy of the data would have answered the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_histories_are_linearizable_through_faults() -> anyhow::Result<()> {
    let seed = Seed::from_env();
    let mut rng = seed.rng(0);
    let cluster = Cluster::builder().partitionable().start().await?;
    let going_on = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|number| {
            let nodes = cluster.nodes().iter().map(|node| node.client()).collect();
            tokio::spawn(one_client(number, seed.rng(number), nodes, Arc::clone(&going_on)))
        })
        .collect();
    for fault in 0..FAULTS {
        let leader = cluster.leader().await?;
        let cut_off = rng.random_bool(0.5);
        println!("fault {fault}: {} is {}", leader.name(), if cut_off { "cut off" } else { "killed" });
        if cut_off {
            cluster.isolate(&leader)
        } else {
            leader.kill()
        }
        let other = cluster.leader_other_than(&leader).await?;
        eventually("the others write", || async { other.client().put("probe", "x").await?.acked() }).await?;
        cluster.heal();
        leader.start()?;
        eventually("all are ready", || leader.ready()).await?;
    }
    going_on.store(false, std::sync::atomic::Ordering::Relaxed);
    let mut histories = vec![History::default(); KEYS];
    for client in clients {
        for (key, history) in client.await??.into_iter().enumerate() {
            histories[key].extend(history);
        }
    }
    let total: usize = histories.iter().map(History::len).sum();
    figure("operations checked for linearizability", total);
    ensure!(total > 500, "only {total} operations: too few to mean anything");
    let at = Instant::now();
    for (key, history) in histories.into_iter().enumerate() {
        let len = history.len();
        let linearizable = tokio::task::spawn_blocking(move || history.is_linearizable());
        let answer = tokio::time::timeout(Duration::from_secs(120), linearizable).await;
        ensure!(
            answer.context("the checker takes too long")??,
            "the history of key {key}, {len} operations, is not linearizable"
        );
    }
    figure("checked in", format!("{:.1?}", at.elapsed()));
    cluster.whole(3).await?;
    cluster.converged().await?;
    cluster.finish().await
}

async fn one_client(
    number: u64,
    mut rng: StdRng,
    nodes: Vec<Client>,
    going_on: Arc<std::sync::atomic::AtomicBool>,
) -> anyhow::Result<Vec<History>> {
    let mut histories = vec![History::default(); KEYS];
    // What this client saw last, for its swaps: the value and the revision.
    let mut seen: Vec<Option<(Option<u64>, u64)>> = vec![None; KEYS];
    let mut next = number << 32;
    while going_on.load(std::sync::atomic::Ordering::Relaxed) {
        let key = rng.random_range(0..KEYS);
        let path = format!("/v1/kv/register-{key}?timeout=2s");
        let client = nodes.choose(&mut rng).context("a node")?;
        next += 1;
        let choice = rng.random_range(0..10);
        let request = match (choice, seen[key]) {
            (0..4, _) => client.request(Method::GET, &path),
            (4..7, _) => client.request(Method::PUT, &path).body(next.to_string()),
            (7, _) => client.request(Method::DELETE, &path),
            (_, Some((Some(_), revision))) => {
                client.request(Method::PUT, &path).header("if-match", format!("\"{revision}\"")).body(next.to_string())
            }
            (_, Some((None, _))) => {
                client.request(Method::PUT, &path).header("if-none-match", "*").body(next.to_string())
            }
            (_, None) => continue,
        };
        let begin = Instant::now();
        let answer = Client::send(request).await;
        let end = Instant::now();
        let expected = seen[key].and_then(|(value, _)| value);
        let operation = match choice {
            0..4 => None,
            4..7 => Some(Operation::Write(next)),
            7 => Some(Operation::Delete),
            _ => Some(Operation::MaybeSwap { from: expected, to: next }),
        };
        let history = &mut histories[key];
        match (answer, operation) {
            (Ok(answer), None) if answer.status == StatusCode::OK => {
                let value = answer.text()?.parse()?;
                seen[key] = Some((Some(value), answer.revision()?));
                history.answered(Operation::Read(Some(value)), begin, end);
            }
            (Ok(answer), None) if answer.status == StatusCode::NOT_FOUND => {
                seen[key] = Some((None, 0));
                history.answered(Operation::Read(None), begin, end);
            }
            // A read without a result saw nothing.
            (_, None) => {}
            (Ok(answer), Some(Operation::MaybeSwap { from, to })) if answer.status == StatusCode::OK => {
                seen[key] = Some((Some(to), answer.revision()?));
                history.answered(Operation::Swap { from, to }, begin, end);
            }
            (Ok(answer), Some(Operation::MaybeSwap { from, .. }))
                if answer.status == StatusCode::PRECONDITION_FAILED =>
            {
                // By revision, which is stricter than by value, but no value is written twice.
                seen[key] = None;
                history.answered(Operation::NoSwap { from }, begin, end);
            }
            (Ok(answer), Some(operation)) if answer.status == StatusCode::OK => history.answered(operation, begin, end),
            (Ok(answer), Some(Operation::Delete)) if answer.status == StatusCode::NOT_FOUND => {
                history.answered(Operation::Read(None), begin, end);
            }
            (Ok(answer), Some(operation)) => match answer.status {
                StatusCode::GATEWAY_TIMEOUT => history.unanswered(operation, begin),
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => {}
                _ => anyhow::bail!("{operation:?} was answered {answer}"),
            },
            (Err(error), Some(_)) if error.is_connect() => {}
            (Err(_), Some(operation)) => history.unanswered(operation, begin),
        }
    }
    Ok(histories)
}
