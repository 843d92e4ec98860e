//! The soak: random faults under load, with checks, for a configurable time.
//!
//! A soak runs a series of stores, alternating between two [shapes](Shape). Each store has a series of episodes. In an
//! episode, clients work on unused keys during one to three [faults](Kind), and after the faults the store must accept
//! writes again. Then the clients stop, and the observations are checked: the history of every key is linearizable,
//! counters are exact, lists are complete, revisions increase, replicas are equal, and each key is in exactly one
//! group.
//!
//! | variable | meaning |
//! |---|---|
//! | `RAFTKV_SOAK_MINUTES` | duration in minutes (about 1) |
//! | `RAFTKV_SOAK_FROM` | number of the first store: with the seed, continues an interrupted soak |
//! | `RAFTKV_SOAK_KINDS` | only these kinds of fault, separated by commas |
//! | `RAFTKV_SOAK_REPORT` | file for the summary as JSON |
//! | `RAFTKV_TEST_SEED` | replays the faults of an earlier run in the same order in each store, from the printed seed |

mod chains;
mod check;
mod clock;
mod disks;
mod key_log;
mod kind;
mod members;
mod network;
mod outcome;
mod owners;
mod plan;
mod processes;
mod pulse;
mod registers;
mod sets;
mod slots;
mod stats;
mod store;
mod story;
mod work;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};
use futures::future::try_join_all;

pub use kind::{Kind, Shape};
pub use outcome::{FaultCount, Outcome};
pub use plan::{Episode, Plan, Planned};

use check::Expected;
use pulse::Pulse;
use stats::Stats;
use store::Store;
use story::Story;
use work::Work;

/// Interval of progress reports.
const TELL: Duration = Duration::from_secs(10);
/// Minimum duration of the client load per episode.
const MIN_LOAD: Duration = Duration::from_secs(5);
/// Interval between checks for client errors.
const LOOK: Duration = Duration::from_millis(200);
/// Timeout for all nodes to be ready again, an event without a guaranteed bound.
const WHOLE_PATIENCE: Duration = Duration::from_secs(90);

/// Runs a soak until the end or the first violation. Prints the schedule during the run, then the summary.
pub async fn run() -> anyhow::Result<Outcome> {
    let mut plan = Plan::from_env()?;
    for (kind, why) in &plan.left_out {
        println!("############ LEFT OUT: {kind}: {why} ############");
    }
    println!("soak: {:.0?} with seed {}, {} kinds of fault", plan.total, plan.seed, plan.kinds.len());
    let stats = Arc::new(Stats::new());
    let teller = tokio::spawn(tell(Arc::clone(&stats)));
    let mut soak = Soak { stats: Arc::clone(&stats), stores: plan.before, episodes: 0 };
    let result = soak.stores(&mut plan).await;
    teller.abort();
    let outcome = Outcome::of(&plan, &stats, soak.stores - plan.before, soak.episodes, result.as_ref().err());
    println!("{outcome}");
    outcome.write()?;
    Ok(outcome)
}

struct Soak {
    stats: Arc<Stats>,
    stores: u64,
    episodes: u64,
}

impl Soak {
    async fn stores(&mut self, plan: &mut Plan) -> anyhow::Result<()> {
        while self.stats.start.elapsed() < plan.total {
            let shape = plan.shapes[self.stores as usize % plan.shapes.len()];
            self.stores += 1;
            plan.begin(self.stores);
            let begin = Instant::now();
            let store = Store::start(shape).await.with_context(|| format!("start a {} store", shape.name()))?;
            println!("store {}: {}, ready after {:.1?}", self.stores, shape.name(), begin.elapsed());
            let mut expected = Expected::new();
            while begin.elapsed() < plan.store && self.stats.start.elapsed() < plan.total {
                let episode = plan.episode(shape);
                println!("{:>5.0} s {episode}", self.stats.start.elapsed().as_secs_f64());
                self.episode(&store, &episode, &mut expected).await.with_context(|| episode.to_string())?;
                self.episodes += 1;
            }
            let start = Instant::now();
            check::everything(&store, &expected).await?;
            let misdeeds = store.misdeeds();
            ensure!(misdeeds.is_empty(), "VIOLATION: {}", misdeeds.join("\n"));
            Stats::add(&self.stats.checking_us, start.elapsed().as_micros() as usize);
            store.finish().await?;
        }
        Ok(())
    }

    async fn episode(&self, store: &Store, episode: &Episode, expected: &mut Expected) -> anyhow::Result<()> {
        let prefix = format!("e{}/", episode.number);
        let names: Vec<_> = episode.faults.iter().map(|fault| fault.kind.name()).collect();
        let names = names.join(", ");
        let begin = Instant::now();
        let pulse = Pulse::start(store.resident_keys("pulse/").await?, store.direct());
        let work = Work::start(&prefix, store.clients(), episode.seed, Arc::clone(&self.stats));
        let wrong = async {
            while work.is_healthy() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let result = tokio::select! {
            result = self.faults(store, episode, &pulse, &names, begin) => result,
            error = owners::watch(store, &self.stats) => error,
            () = wrong => Err(anyhow!("a client has seen something wrong")),
        };
        let gap = pulse.end().await;
        self.stats.gap(gap, &names);
        // Client observations come first: a violation seen by clients explains all other errors.
        match tokio::time::timeout(WHOLE_PATIENCE, work.end()).await {
            Ok(seen) => {
                let seen = seen?;
                result?;
                check::episode(store, &prefix, seen, expected, &self.stats).await
            }
            Err(_) => result.and(Err(anyhow!("VIOLATION: clients do not stop within {WHOLE_PATIENCE:?}"))),
        }
    }

    async fn faults(
        &self,
        store: &Store,
        episode: &Episode,
        pulse: &Pulse,
        names: &str,
        begin: Instant,
    ) -> anyhow::Result<()> {
        try_join_all(episode.faults.iter().map(|fault| async {
            self.stats.planned(fault.kind);
            Story::new(store, *fault).happen().await?;
            self.stats.fired(fault.kind);
            anyhow::Ok(())
        }))
        .await?;
        let recovery = pulse.recovered().await?;
        self.stats.recovery(recovery, names);
        store.whole(WHOLE_PATIENCE).await.map_err(|error| anyhow!("VIOLATION: no recovery: {error:#}"))?;
        tokio::time::sleep(MIN_LOAD.saturating_sub(begin.elapsed())).await;
        Ok(())
    }
}

async fn tell(stats: Arc<Stats>) {
    let (mut at, mut before) = (Instant::now(), 0);
    loop {
        tokio::time::sleep(TELL).await;
        let kinds = stats.kinds();
        let fired: u64 = kinds.iter().map(|(_, _, fired)| fired).sum();
        let seen = kinds.iter().filter(|(_, _, fired)| *fired > 0).count();
        let succeeded = Stats::get(&stats.succeeded);
        println!(
            "{:>5.0} s {succeeded} operations, {:.0} a second now; {fired} faults of {seen} kinds",
            stats.start.elapsed().as_secs_f64(),
            (succeeded - before) as f64 / at.elapsed().as_secs_f64()
        );
        (at, before) = (Instant::now(), succeeded);
    }
}
