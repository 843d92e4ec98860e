//! The tests of the tests: scenarios that programs without a fault pass, and that each planted bug must fail.
//!
//! The programs with the bugs are those of `scripts/planted.sh`. Each test called `caught_…` runs one of the scenarios of
//! this file again, in a process of its own, with these programs and one bug, and wants to see it fail for the right
//! reason.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use raftkv_tests::faultfs::{Loss, NamePromise, PoweredCluster};
use raftkv_tests::{
    Answer, Client, Cluster, ClusterBuilder, History, Load, Node, Operation, Put, Shards, WallClock, eventually,
    eventually_within, figure, planted_programs,
};

/// Chooses the bug of the programs, when they have any.
const BUG: &str = "RAFTKV_PLANTED_BUG";
/// Scales all times of elections.
const ELECTION_TIMEOUT: &str = "RAFTKV_ELECTION_TIMEOUT";
/// Where a scenario finds its programs.
const BIN_DIR: &str = "RAFTKV_BIN_DIR";
/// What the scenario without a disk of its own says.
const NO_FUSE: &str = "SKIPPED: no FUSE here";
/// And one that sets a wall clock.
const NO_FAKETIME: &str = "SKIPPED: no libfaketime here";
/// A scenario takes seconds. One that a bug brings to a standstill ends here, which is not being caught.
const PATIENCE: Duration = Duration::from_secs(240);
/// A group that is whole serves again within this after a restart.
const BACK: Duration = Duration::from_secs(40);
/// A process sees that its wall clock was set within this.
const JUMP_SEEN: Duration = Duration::from_secs(3);
/// For so long nothing is written.
const IDLE: Duration = Duration::from_secs(5);
/// What may be lost of led time when a leader dies: since its last message.
const UNLED: Duration = Duration::from_millis(500);
/// A put is stamped before it is answered.
const STAMP: Duration = Duration::from_millis(100);
/// A node that has started has read its vote within this.
const VOTE_READ: Duration = Duration::from_secs(5);

fn builder() -> ClusterBuilder {
    with_bug(Cluster::builder())
}

fn with_bug(builder: ClusterBuilder) -> ClusterBuilder {
    match std::env::var(BUG) {
        Ok(bug) => builder.env(BUG, bug),
        Err(_) => builder,
    }
}

/// A scenario that noticed something says it in one line, with the name of the check.
fn noticed(check: &str, what: impl std::fmt::Display) -> anyhow::Error {
    // On a line of its own: what runs the tests leaves one unfinished.
    println!("\nNOTICED by {check}: {what}");
    anyhow!("{check}: {what}")
}

/// One register, its operations one after the other.
#[derive(Default)]
struct Story(History);

impl Story {
    async fn write(&mut self, node: &Node, value: u64) -> anyhow::Result<()> {
        let begin = Instant::now();
        node.client().put("register", value.to_string()).await?.acked()?;
        self.0.answered(Operation::Write(value), begin, Instant::now());
        Ok(())
    }

    /// A read with no answer saw nothing.
    async fn read(&mut self, node: &Node) -> anyhow::Result<Answer> {
        let begin = Instant::now();
        let answer = node.client().get_with("register", "?timeout=1s").await?;
        if answer.status.is_success() {
            self.0.answered(Operation::Read(Some(answer.text()?.parse()?)), begin, Instant::now());
        }
        Ok(answer)
    }

    fn check(self) -> anyhow::Result<()> {
        let told = format!("{:?}", self.0);
        match self.0.is_linearizable() {
            true => Ok(()),
            false => Err(noticed("the linearizability checker", told)),
        }
    }
}

/// A follower whose sidecar stands still does not know what it has missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_a_node_that_was_left_behind_is_not_old() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    let (leader, follower) = (cluster.leader().await?, cluster.follower().await?);
    let mut story = Story::default();
    story.write(&leader, 1).await?;
    cluster.converged().await?;
    story.read(&follower).await?.success()?;
    follower.sidecar().pause()?;
    story.write(&leader, 2).await?;
    let local = follower.client().get_stale("register").await?.text()?;
    ensure!(local == "1", "the follower has {local} already: nothing was tested");
    story.read(&follower).await?;
    follower.sidecar().resume()?;
    story.check()?;
    cluster.finish().await
}

/// A leader whose sidecar stands still under a lease, so that nobody tells its engine that a new one has been elected since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_at_a_leader_that_was_replaced_is_not_old() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    let old = cluster.leader().await?;
    let mut story = Story::default();
    story.write(&old, 1).await?;
    // Long enough for a lease, however it is granted.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        story.read(&old).await?.success()?;
    }
    old.sidecar().pause()?;
    let new = cluster.leader_other_than(&old).await?;
    eventually("the new leader writes", || async { new.client().put("other", "x").await?.acked() }).await?;
    story.write(&new, 2).await?;
    let local = old.client().get_stale("register").await?.text()?;
    ensure!(local == "1", "the old leader has {local} already: nothing was tested");
    story.read(&old).await?;
    old.sidecar().resume()?;
    story.check()?;
    cluster.whole(3).await?;
    cluster.finish().await
}

/// Members made a long promise to a leader that stands still, and have restarted with a shorter one. The leader's engine may read by the
/// long one for several seconds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promise_outlives_the_process_that_made_it() -> anyhow::Result<()> {
    let cluster = builder().env(ELECTION_TIMEOUT, "9s").start().await?;
    let old = cluster.leader().await?;
    let mut story = Story::default();
    story.write(&old, 1).await?;
    // Long enough for a lease, however it is granted.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        story.read(&old).await?.success()?;
    }
    old.sidecar().pause()?;
    for node in cluster.others(&old) {
        node.kill();
        node.sidecar().set_env(ELECTION_TIMEOUT, "");
        node.start()?;
    }
    let new = cluster.leader_other_than(&old).await?;
    eventually("the new leader writes", || async { new.client().put("other", "x").await?.acked() }).await?;
    story.write(&new, 2).await?;
    let local = old.client().get_stale("register").await?.text()?;
    ensure!(local == "1", "the old leader has {local} already: nothing was tested");
    story.read(&old).await?;
    old.sidecar().resume()?;
    story.check()?;
    cluster.whole(3).await?;
    cluster.finish().await
}

/// Few puts one after the other, and no power right after the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_acknowledged_put_outlives_the_power() -> anyhow::Result<()> {
    let Some(mut cluster) = PoweredCluster::start(builder(), NamePromise::Directory).await? else { return Ok(()) };
    for round in 0..3 {
        let node = cluster.leader().await?;
        for number in 0..10 {
            node.client().put(&format!("{round}/{number}"), "x").await?.acked()?;
        }
        cluster.power_off(Loss::Volatile, 0)?;
        cluster.power_on()?;
        cluster.whole(3).await?;
        for number in 0..10 {
            let answer = node.client().get(&format!("{round}/{number}")).await?;
            if answer.status == 404 {
                return Err(noticed("acknowledged writes are there after a power loss", format!("{round}/{number}")));
            }
            answer.success()?;
        }
    }
    cluster.finish().await
}

/// What the log was purged of is durable in the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purged_log_and_no_power_leave_everything() -> anyhow::Result<()> {
    let builder = builder().env("RAFTKV_LOG_RETAIN", "64KiB").env("RAFTKV_SNAPSHOT_AFTER", "64KiB");
    let Some(mut cluster) = PoweredCluster::start(builder, NamePromise::Directory).await? else { return Ok(()) };
    let clients: Vec<_> = cluster.nodes().iter().map(|node| node.client()).collect();
    let report = Load::start("k", 2_000, 16, clients.clone()).report().await?;
    for node in cluster.nodes() {
        node.compact().await?.success()?;
        eventually("the log is purged", || async {
            let purged = node.status().await?.node.purged;
            ensure!(purged > Some(20), "up to {purged:?}");
            Ok(())
        })
        .await?;
    }
    cluster.power_off(Loss::Volatile, 0)?;
    cluster.power_on()?;
    let back = eventually_within(BACK, "every acknowledged write is there", || async {
        cluster.node(1).client().get_with("k00000000", "?timeout=1s").await?.success()
    });
    if let Err(error) = back.await {
        return Err(noticed("acknowledged writes are there after a power loss", format!("{error:#}")));
    }
    cluster.whole(3).await?;
    report.check(&cluster.converged().await?)?;
    cluster.finish().await
}

/// Raft's safety rests on it: who forgets a vote can vote twice in one term.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vote_outlives_a_restart() -> anyhow::Result<()> {
    let cluster = builder().partitionable().start().await?;
    for round in 0..2 {
        let leader = cluster.leader().await?;
        leader.kill();
        let new = cluster.leader_other_than(&leader).await?;
        leader.start()?;
        cluster.whole(3).await?;
        let term = new.status().await?.node.term;
        for node in cluster.nodes() {
            eventually("it has heard of the term", || async {
                let heard = node.status().await?.node.term;
                ensure!(heard >= term, "{heard}");
                Ok(())
            })
            .await?;
            let before = node.status().await?.node.term;
            node.kill();
            // Nobody tells it.
            cluster.isolate(node);
            node.start()?;
            eventually("it answers", || async {
                let status = node.status().await?;
                ensure!(status.cluster_id.is_some() && status.node.role != "waiting", "it has not resumed");
                Ok(())
            })
            .await?;
            // It answers before it has read its vote.
            let remembered = eventually_within(VOTE_READ, "it remembers its term", || async {
                let term = node.status().await?.node.term;
                ensure!(term >= before, "term {before}, after a restart {term}");
                Ok(())
            })
            .await;
            if let Err(error) = remembered {
                return Err(noticed("terms never go back", format!("round {round}, {}: {error:#}", node.name())));
            }
            cluster.heal();
            cluster.whole(3).await?;
        }
    }
    cluster.finish().await
}

/// A sidecar that dies takes answers with it: the engine asks again for what was applied already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_that_are_sent_again_are_applied_once() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    let clients: Vec<Client> = cluster.nodes().iter().map(|node| node.client()).collect();
    let load = Load::start("k", 10_000_000, 24, clients);
    for round in 0..9 {
        let enough = load.acked() + 150;
        eventually("puts go on", || async {
            ensure!(load.acked() >= enough);
            Ok(())
        })
        .await?;
        let node = cluster.node(round % 3 + 1);
        let starts = node.sidecar().starts();
        node.sidecar().crash();
        eventually("its sidecar is back", || async {
            ensure!(node.sidecar().starts() > starts);
            node.ready().await
        })
        .await?;
    }
    load.end();
    let report = load.report().await?;
    cluster.whole(3).await?;
    let contents = cluster.converged().await?;
    if let Err(error) = report.check_alone(&contents) {
        return Err(noticed("every put is applied exactly once", format!("{error:#}")));
    }
    figure("puts acknowledged over nine crashes of a sidecar", report.acked());
    cluster.finish().await
}

/// An engine that dies after a flush comes back with all of an entry or nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_equal_after_crashes_of_their_engines() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    for round in 0..6 {
        // A new engine opens a new session, and the other one dies with that among the last that it has applied.
        let (one, other) = (cluster.node(round % 3 + 1), cluster.node((round + 1) % 3 + 1));
        one.compact().await?.success()?;
        one.engine().crash();
        eventually("it is ready again", || one.ready()).await?;
        eventually("it writes", || async { one.client().put(&format!("k{round}"), "x").await?.acked() }).await?;
        cluster.converged().await.map_err(|error| noticed("replicas are equal", format!("{error:#}")))?;
        other.compact().await?.success()?;
        other.engine().crash();
        eventually("it is ready again", || other.ready()).await?;
        cluster.whole(3).await?;
        cluster.converged().await.map_err(|error| noticed("replicas are equal", format!("{error:#}")))?;
    }
    cluster.finish().await
}

/// Whoever comes past the routers, or with an old map, does no harm.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_takes_no_write_to_a_slot_of_another() -> anyhow::Result<()> {
    let mut shards = Shards::builder().groups(2).nodes(1);
    if let Ok(bug) = std::env::var(BUG) {
        shards = shards.env(BUG, bug);
    }
    let shards = shards.start().await?;
    let other = shards.admin().slots_of(shards.group_id(2).await?).await?;
    let node = shards.group(1).node(1);
    for key in Shards::keys_in(&other, "k", 5) {
        match node.client().put(&key, "x").await? {
            Put::Refused(why) if why.starts_with("421") => {}
            Put::Acked { revision, .. } => {
                return Err(noticed(
                    "one owner per slot",
                    format!("{key} is put at revision {revision} by another group"),
                ));
            }
            other => bail!("{key}: {other:?}"),
        }
    }
    shards.finish().await
}

/// The leader's wall clock jumps days ahead: what a request came to is remembered all the same, so its repeat is not applied again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wall_clock_days_ahead_makes_nobody_forget() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    let leader = cluster.leader().await?;
    let Some(wall) = WallClock::attach(leader.sidecar(), &cluster.dir())? else { return cluster.finish().await };
    leader.sidecar().kill();
    leader.sidecar().start()?;
    wall.runs(leader.sidecar()).await?;
    cluster.whole(3).await?;
    let client = cluster.node(1).client();
    let first = client.put_with("register", "1", "?timeout=20s", Some("once")).await;
    let Put::Acked { revision, .. } = first else { bail!("the first put: {first:?}") };
    client.put("register", "2").await?.acked()?;
    for days in [2, -2, 10 * 365, 0] {
        wall.set(&format!("{days:+}d"))?;
        eventually("the node whose clock jumps leads", || async {
            if !leader.status().await?.node.leads() {
                let path = format!("/transfer-leader?to={}", leader.name());
                leader.management().post(&path, "application/json", "").await?.success()?;
            }
            ensure!(leader.status().await?.node.leads(), "it does not");
            Ok(())
        })
        .await?;
        // Longer than the process takes to see the jump, with entries that are stamped.
        let begin = Instant::now();
        while begin.elapsed() < JUMP_SEEN {
            client.put("other", days.to_string()).await?.acked()?;
        }
        let repeated = client.put_with("register", "1", "?timeout=20s", Some("once")).await;
        let now = client.get("register").await?.success()?.text()?;
        let is_same = matches!(repeated, Put::Acked { revision: again, .. } if again == revision);
        if !is_same || now != "2" {
            let what =
                format!("with a wall clock {days} days off the repeat gave {repeated:?}, and the register has {now}");
            return Err(noticed("every put is applied exactly once", what));
        }
    }
    cluster.finish().await
}

/// The clock in the state of a node, in milliseconds.
async fn clock_of(node: &Node) -> anyhow::Result<u64> {
    Ok(node.group_peer()?.describe().await?.0.clock_ms)
}

/// Nothing is written for a while, then the leader dies: the next one counts what was led meanwhile, and no more than has passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_leader_goes_on_with_the_clock() -> anyhow::Result<()> {
    let cluster = builder().start().await?;
    let leader = cluster.leader().await?;
    eventually("the group has its clock", || async {
        let (described, _) = leader.group_peer()?.describe().await?;
        ensure!(described.cluster_version >= 2, "version {}", described.cluster_version);
        Ok(())
    })
    .await?;
    leader.client().put("a", "1").await?.acked()?;
    let (begin, before) = (Instant::now(), clock_of(&leader).await?);
    // The subject is time that passes.
    tokio::time::sleep(IDLE).await;
    leader.kill();
    let next = cluster.leader_other_than(&leader).await?;
    eventually("the next leader writes", || async { next.client().put("b", "1").await?.acked() }).await?;
    let passed = Duration::from_millis(clock_of(&next).await?.saturating_sub(before));
    let real = begin.elapsed();
    figure("the group's clock after an idle time and a leader's death", format!("{passed:.2?} of {real:.2?}"));
    if passed + UNLED < IDLE || passed > real + STAMP {
        let what = format!("{passed:.2?} passed by it in {real:.2?}, of which {IDLE:.1?} were led");
        return Err(noticed("the group's clock counts led time", what));
    }
    leader.start()?;
    cluster.whole(3).await?;
    cluster.finish().await
}

/// Runs a scenario with a bug, which must be noticed by the check that is meant to.
async fn caught(bug: &str, scenario: &str, check: &str) -> anyhow::Result<()> {
    let Some(programs) = planted_programs()? else { return Ok(()) };
    let start = Instant::now();
    let child = tokio::process::Command::new(std::env::current_exe()?)
        .args([scenario, "--exact", "--nocapture", "--test-threads", "1"])
        .env(BIN_DIR, programs)
        .env(BUG, bug)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = tokio::time::timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.with_context(|| format!("{bug}: the scenario does not end"))??;
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if let Some(skipped) = [NO_FUSE, NO_FAKETIME].into_iter().find(|skipped| said.contains(skipped)) {
        println!("SKIPPED: {bug}: {skipped}");
        return Ok(());
    }
    ensure!(said.contains("running 1 test"), "there is no scenario {scenario}: {said}");
    ensure!(!output.status.success(), "{bug} was NOT caught by {scenario}:\n{said}");
    let line = said.lines().find(|line| line.starts_with("NOTICED by "));
    let line = line.with_context(|| format!("{bug}: {scenario} failed, but not by a check:\n{said}"))?;
    ensure!(line.starts_with(&format!("NOTICED by {check}")), "{bug} was caught by another check: {line}");
    figure(&format!("planted bug {bug}"), format!("caught in {:.1?} by {check}", start.elapsed()));
    // What a scenario that fails keeps for a reader is of no use here.
    for kept in said.lines().filter_map(|line| line.split_once("are kept in ")) {
        let _ = std::fs::remove_dir_all(kept.1);
    }
    Ok(())
}

macro_rules! caught {
    ($($test:ident: $bug:literal by $check:literal in $scenario:ident;)*) => {$(
        #[tokio::test]
        async fn $test() -> anyhow::Result<()> {
            caught($bug, concat!("planted::", stringify!($scenario)), $check).await
        }
    )*};
}

caught! {
    caught_local_reads: "local-reads" by "the linearizability checker"
        in a_read_at_a_node_that_was_left_behind_is_not_old;
    caught_stale_lease: "stale-lease" by "the linearizability checker" in a_read_at_a_leader_that_was_replaced_is_not_old;
    caught_restart_waits_short: "restart-waits-short" by "the linearizability checker"
        in a_promise_outlives_the_process_that_made_it;
    caught_ack_before_fsync: "ack-before-fsync" by "acknowledged writes are there after a power loss"
        in the_last_acknowledged_put_outlives_the_power;
    caught_purge_too_early: "purge-too-early" by "acknowledged writes are there after a power loss"
        in a_purged_log_and_no_power_leave_everything;
    caught_vote_not_persisted: "vote-not-persisted" by "terms never go back" in a_vote_outlives_a_restart;
    caught_apply_twice: "apply-twice" by "every put is applied exactly once" in batches_that_are_sent_again_are_applied_once;
    caught_position_apart: "position-apart" by "replicas are equal" in replicas_are_equal_after_crashes_of_their_engines;
    caught_skipped_fence: "skipped-fence" by "one owner per slot" in a_group_takes_no_write_to_a_slot_of_another;
    caught_wall_clock: "wall-clock" by "every put is applied exactly once" in a_wall_clock_days_ahead_makes_nobody_forget;
    caught_clock_forgets: "clock-forgets" by "the group's clock counts led time" in a_new_leader_goes_on_with_the_clock;
}
