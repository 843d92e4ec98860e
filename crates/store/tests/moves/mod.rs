//! Slots move between two groups while clients go on, every step is repeated, and stores are reopened or replaced by
//! snapshots at any moment: nothing is lost, served twice, or told apart from a single store.

mod group;
mod world;

use proptest::collection::vec;
use proptest::prelude::*;
use raftkv_kv::{Op, Precondition, slot_of};

use group::LIMITS;
use world::World;

use crate::support::{delete, once, set_until, when};

const KEYS: usize = 12;
/// How long an outcome is kept.
const KEEP_MS: u64 = 300;

fn name(key: usize) -> String {
    format!("key{key}")
}

fn slot(key: usize) -> u16 {
    slot_of(name(key).as_bytes())
}

#[derive(Debug, Clone)]
struct Write {
    text: u16,
    delete: bool,
    only_absent: bool,
    expires: bool,
    once: Option<(u8, u64)>,
}

impl Write {
    fn expiry(&self, clock_ms: u64) -> u64 {
        if self.expires { clock_ms + 40 } else { 0 }
    }

    fn op(&self, key: usize, clock_ms: u64) -> Op {
        let name = name(key);
        let mut op =
            if self.delete { delete(&name) } else { set_until(&name, &self.text.to_string(), self.expiry(clock_ms)) };
        if self.only_absent && !self.delete {
            op = when(op, Precondition::Absent);
        }
        match self.once {
            Some((client, fingerprint)) => once(op, &format!("c{client}"), fingerprint, KEEP_MS),
            None => op,
        }
    }
}

#[derive(Debug, Clone)]
enum Action {
    Client { key: usize, write: Write },
    Begin { from: usize, mask: u16 },
    Step,
    Cancel,
    Again,
    Tick(u64),
    Reopen(usize),
    Replace(usize),
}

fn action() -> impl Strategy<Value = Action> {
    let once = proptest::option::weighted(0.3, (0..3u8, 0..2u64));
    let write = (any::<u16>(), prop::bool::weighted(0.2), prop::bool::weighted(0.2), prop::bool::weighted(0.2), once)
        .prop_map(|(text, delete, only_absent, expires, once)| Write {
            text,
            delete,
            only_absent: only_absent && !delete,
            expires,
            once,
        });
    prop_oneof![
        24 => (0..KEYS, write).prop_map(|(key, write)| Action::Client { key, write }),
        4 => (0..2usize, any::<u16>()).prop_map(|(from, mask)| Action::Begin { from, mask }),
        24 => Just(Action::Step),
        1 => Just(Action::Cancel),
        3 => Just(Action::Again),
        3 => (1..20u64).prop_map(Action::Tick),
        1 => (0..2usize).prop_map(Action::Reopen),
        1 => (0..2usize).prop_map(Action::Replace),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 14, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn two_groups_are_as_one_store(actions in vec(action(), 50..250), cuts in vec(1..12usize, 1..8)) {
        let mut world = World::new();
        for action in actions {
            match action {
                Action::Client { key, write } => world.client(key, &write),
                Action::Begin { from, mask } if !world.is_moving() => world.begin(from, mask),
                Action::Begin { .. } => {}
                Action::Step => world.step(),
                Action::Cancel => world.cancel(),
                Action::Again => world.again(),
                Action::Tick(ms) => world.groups.iter_mut().for_each(|group| group.h.clock_ms += ms),
                Action::Reopen(at) => world.groups[at].h.reopen(LIMITS),
                Action::Replace(at) => world.groups[at].replace(),
            }
            for key in 0..KEYS {
                world.serving(key);
            }
        }
        world.check();
        world.finish(&cuts);
    }
}
