//! [`Plan`]: the length of a soak and the schedule of faults.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::kind::{Kind, Shape};
use crate::faultfs::FaultFs;
use crate::faultfs::NamePromise;
use crate::seed::Seed;
use crate::wall_clock::faketime_library;

/// Duration in minutes; default: [`SHORT`].
const MINUTES: &str = "RAFTKV_SOAK_MINUTES";
/// Names of the allowed kinds, separated by commas.
const KINDS: &str = "RAFTKV_SOAK_KINDS";
/// Number of the first store, from 1: stores are independent, so an interrupted soak can continue.
const FROM: &str = "RAFTKV_SOAK_FROM";
/// Duration of the soak in every test run.
const SHORT: Duration = Duration::from_secs(64);
/// Lifetime of a store; half of the soak in a soak of less than ten minutes.
const STORE: Duration = Duration::from_secs(5 * 60);
/// Minimum duration at which every kind must have fired.
const ALL_KINDS_FROM: Duration = Duration::from_secs(20 * 60);
/// Purpose of the random generator; a store's number is added.
const SCHEDULE: u64 = 0x50a4;
/// Required average rate of successful operations: a fraction of the rate of two busy cores.
const MIN_OPERATIONS_PER_SECOND: f64 = 200.0;

/// A scheduled fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Kind of fault.
    pub kind: Kind,
    /// Group index, from 0.
    pub group: usize,
    /// Delay after the beginning of the episode.
    pub after: Duration,
    /// Duration.
    pub hold: Duration,
    /// Seed of further random choices.
    pub seed: u64,
}

/// Overlapping faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// Episode number, from 1, over all stores.
    pub number: u64,
    /// Seed of the clients' random choices.
    pub seed: u64,
    /// Faults in order of start.
    pub faults: Vec<Planned>,
}

/// Length and schedule of a soak.
#[derive(Debug)]
pub struct Plan {
    /// Seed of the schedule.
    pub seed: Seed,
    /// Total duration.
    pub total: Duration,
    /// Number of stores to skip, which ran in an earlier run of the seed.
    pub before: u64,
    /// Lifetime of a store.
    pub store: Duration,
    /// The shapes of the stores, in turn.
    pub shapes: Vec<Shape>,
    /// Kinds possible on this machine.
    pub kinds: Vec<Kind>,
    /// Kinds not possible on this machine, with the reason.
    pub left_out: Vec<(Kind, String)>,
    rng: StdRng,
    decks: BTreeMap<Shape, Vec<Kind>>,
    episodes: u64,
}

impl Plan {
    /// Reads the plan from the environment, with the kinds possible on this machine.
    pub fn from_env() -> anyhow::Result<Self> {
        let total = match std::env::var(MINUTES) {
            Ok(text) => {
                let minutes: f64 = text.parse().with_context(|| format!("{MINUTES}={text:?} is no number"))?;
                ensure!(minutes > 0.0 && minutes < 100_000.0, "{MINUTES}={text:?} is out of range");
                Duration::from_secs_f64(minutes * 60.0)
            }
            Err(_) => SHORT,
        };
        let before = match std::env::var(FROM) {
            Ok(text) => {
                let first: u64 = text.parse().with_context(|| format!("{FROM}={text:?} is no number"))?;
                first.checked_sub(1).with_context(|| format!("{FROM}: stores are counted from 1"))?
            }
            Err(_) => 0,
        };
        let mut kinds = Kind::ALL.to_vec();
        if let Ok(text) = std::env::var(KINDS) {
            kinds = text
                .split(',')
                .map(|name| Kind::named(name.trim()).with_context(|| format!("{KINDS}: there is no kind {name:?}")))
                .collect::<anyhow::Result<_>>()?;
        }
        let mut left_out = Vec::new();
        let root = tempfile::tempdir()?;
        if FaultFs::mount(root.path(), NamePromise::Directory)?.is_none() {
            let why = "nothing can be mounted with FUSE here";
            left_out.extend(kinds.iter().filter(|kind| kind.is_of_disks()).map(|kind| (*kind, why.to_owned())));
        }
        if faketime_library().is_none() && kinds.contains(&Kind::ClockJump) {
            left_out.push((Kind::ClockJump, "libfaketime is not installed (Debian package: faketime)".to_owned()));
        }
        kinds.retain(|kind| left_out.iter().all(|(out, _)| out != kind));
        let shapes: Vec<_> = [Shape::Plain, Shape::Sharded]
            .into_iter()
            .filter(|shape| kinds.iter().any(|kind| kind.is_in(*shape)))
            .collect();
        ensure!(!shapes.is_empty(), "no kind of fault is left: {left_out:?}");
        let seed = Seed::from_env();
        let store = STORE.min(total / 2);
        Ok(Self {
            seed,
            total,
            before,
            store,
            shapes,
            kinds,
            left_out,
            rng: seed.rng(SCHEDULE),
            decks: BTreeMap::new(),
            episodes: 0,
        })
    }

    /// Begins store number `store`. The store's episodes are the same in every run of the seed, independent of the
    /// earlier stores' episodes.
    pub fn begin(&mut self, store: u64) {
        self.rng = self.seed.rng(SCHEDULE + store);
        self.decks.clear();
    }

    /// The next episode for a store of the given shape.
    pub fn episode(&mut self, shape: Shape) -> Episode {
        self.episodes += 1;
        let count = [1, 2, 2, 2, 3][self.rng.random_range(0..5)];
        let mut faults: Vec<Planned> = Vec::new();
        let mut after = Duration::from_millis(self.rng.random_range(400..900));
        for _ in 0..count {
            let kind = self.deal(shape);
            faults.push(Planned {
                kind,
                group: match shape {
                    Shape::Plain => 0,
                    Shape::Sharded => self.rng.random_range(0..2),
                },
                after,
                hold: Duration::from_millis(self.rng.random_range(800..2_500)),
                seed: self.rng.random(),
            });
            after += Duration::from_millis(self.rng.random_range(100..1_200));
        }
        Episode { number: self.episodes, seed: self.rng.random(), faults }
    }

    /// Draws from a shuffled deck with each kind once.
    fn deal(&mut self, shape: Shape) -> Kind {
        let deck = self.decks.entry(shape).or_default();
        if deck.is_empty() {
            deck.extend(self.kinds.iter().copied().filter(|kind| kind.is_in(shape)));
            deck.shuffle(&mut self.rng);
        }
        deck.pop().unwrap_or_else(|| unreachable!("a shape without kinds is none of `shapes`"))
    }

    /// Required number of successful operations after `elapsed`.
    pub fn min_operations(&self, elapsed: Duration) -> u64 {
        (elapsed.as_secs_f64() * MIN_OPERATIONS_PER_SECOND) as u64
    }

    /// Whether the soak is long enough for all kinds.
    pub fn is_complete(&self) -> bool {
        self.total >= ALL_KINDS_FROM
    }
}

impl fmt::Display for Episode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "episode {}:", self.number)?;
        for fault in &self.faults {
            write!(
                f,
                " {} (group {}, +{} ms, {} ms)",
                fault.kind,
                fault.group + 1,
                fault.after.as_millis(),
                fault.hold.as_millis()
            )?;
        }
        Ok(())
    }
}
