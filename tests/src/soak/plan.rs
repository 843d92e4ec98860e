//! [`Plan`]: how long a soak is, and which faults come when.

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

/// How many minutes; without it, [`SHORT`].
const MINUTES: &str = "RAFTKV_SOAK_MINUTES";
/// Names of kinds, with commas: no others.
const KINDS: &str = "RAFTKV_SOAK_KINDS";
/// The number of the first store, from 1: stores have nothing in common, so a soak that was ended goes on where it was.
const FROM: &str = "RAFTKV_SOAK_FROM";
/// The soak that every test run has.
const SHORT: Duration = Duration::from_secs(64);
/// A store is replaced by one of the other shape after so long; sooner in a soak that has not the time for four.
const STORE: Duration = Duration::from_secs(5 * 60);
/// From this length on every kind must have fired.
const ALL_KINDS_FROM: Duration = Duration::from_secs(20 * 60);
/// What the seed is used for here; a store's number is added to it.
const SCHEDULE: u64 = 0x50a4;
/// Operations that have to succeed in each second, on average over everything: a fraction of what two busy cores do.
const MIN_OPERATIONS_PER_SECOND: f64 = 200.0;

/// A fault of the schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Planned {
    /// Which.
    pub kind: Kind,
    /// In which group, from 0.
    pub group: usize,
    /// After the beginning of the episode.
    pub after: Duration,
    /// How long it lasts.
    pub hold: Duration,
    /// Source of its other choices.
    pub seed: u64,
}

/// Faults that overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// From 1, over all stores.
    pub number: u64,
    /// Source of its clients' choices.
    pub seed: u64,
    /// In the order in which they begin.
    pub faults: Vec<Planned>,
}

/// The length and the schedule.
#[derive(Debug)]
pub struct Plan {
    /// Where its choices are from.
    pub seed: Seed,
    /// How long it goes on.
    pub total: Duration,
    /// Stores before the first one, of another run of the seed.
    pub before: u64,
    /// How long one store lives.
    pub store: Duration,
    /// The shapes of the stores, in turn.
    pub shapes: Vec<Shape>,
    /// Kinds that are possible here.
    pub kinds: Vec<Kind>,
    /// Kinds that are not, and why.
    pub left_out: Vec<(Kind, String)>,
    rng: StdRng,
    decks: BTreeMap<Shape, Vec<Kind>>,
    episodes: u64,
}

impl Plan {
    /// As the environment says, with the kinds that are possible on this machine.
    pub fn from_env() -> anyhow::Result<Self> {
        let total = match std::env::var(MINUTES) {
            Ok(text) => {
                let minutes: f64 = text.parse().with_context(|| format!("{MINUTES}={text:?} is no number"))?;
                ensure!(minutes > 0.0 && minutes < 100_000.0, "{MINUTES}={text:?} makes no sense");
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

    /// A store begins, the one of this number. Its episodes are the same in every run of the seed, however many the stores
    /// before it had the time for.
    pub fn begin(&mut self, store: u64) {
        self.rng = self.seed.rng(SCHEDULE + store);
        self.decks.clear();
    }

    /// The next episode, in a store of this shape.
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

    /// From a shuffled deck with each kind once.
    fn deal(&mut self, shape: Shape) -> Kind {
        let deck = self.decks.entry(shape).or_default();
        if deck.is_empty() {
            deck.extend(self.kinds.iter().copied().filter(|kind| kind.is_in(shape)));
            deck.shuffle(&mut self.rng);
        }
        deck.pop().unwrap_or_else(|| unreachable!("a shape without kinds is none of `shapes`"))
    }

    /// Operations that must have succeeded after so long.
    pub fn min_operations(&self, elapsed: Duration) -> u64 {
        (elapsed.as_secs_f64() * MIN_OPERATIONS_PER_SECOND) as u64
    }

    /// Whether it is long enough for every kind.
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
