//! Random operations, compared with a map.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raftkv_sidecar::wal::{Ballot, Entry, Position, ReadLimit, Wal, WalOptions};
use tempfile::TempDir;

use super::support::*;

#[derive(Debug, Clone)]
enum Step {
    Append {
        sizes: Vec<usize>,
        new_term: bool,
    },
    Vote,
    /// How many entries to keep beyond the first.
    Truncate(u64),
    /// How many entries to purge; may be more than there are.
    Purge(u64),
    Commit,
    Flush,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (prop::collection::vec(0_usize..400, 1..5), prop::bool::weighted(0.2))
            .prop_map(|(sizes, new_term)| Step::Append { sizes, new_term }),
        1 => Just(Step::Vote),
        1 => (0_u64..20).prop_map(Step::Truncate),
        1 => (0_u64..15).prop_map(Step::Purge),
        1 => Just(Step::Commit),
        1 => Just(Step::Flush),
        2 => Just(Step::Reopen),
    ]
}

#[derive(Debug, Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<Position>,
    vote: Option<Ballot>,
    committed: Option<Position>,
    term: u64,
}

impl Model {
    fn last(&self) -> Option<Position> {
        self.entries.values().next_back().map(|entry| entry.position).or(self.purged)
    }

    fn next(&self) -> u64 {
        self.last().map_or(0, |last| last.index + 1)
    }

    fn first(&self) -> u64 {
        self.purged.map_or(0, |purged| purged.index + 1)
    }
}

fn apply(step: &Step, model: &mut Model, wal: &Wal) {
    match step {
        Step::Append { sizes, new_term } => {
            model.term += u64::from(*new_term);
            let entries: Vec<_> =
                (model.next()..).zip(sizes).map(|(index, size)| entry(model.term, index, *size)).collect();
            model.entries.extend(entries.iter().map(|entry| (entry.position.index, entry.clone())));
            wal.append(entries, None).unwrap();
        }
        Step::Vote => {
            model.term += 1;
            model.vote = Some(ballot(model.term));
            wal.save_vote(ballot(model.term), None).unwrap();
        }
        Step::Truncate(keep) => {
            model.entries.split_off(&(model.first() + keep));
            let after = if *keep == 0 { model.purged } else { model.last() };
            wal.truncate_after(after, None).unwrap();
        }
        Step::Purge(count) => {
            let index = model.first() + count;
            let upto = model.entries.get(&index).map_or(position(model.term, index), |entry| entry.position);
            model.entries = model.entries.split_off(&(index + 1));
            model.purged = Some(upto);
            wal.purge(upto, None).unwrap();
        }
        Step::Commit => {
            model.committed = model.last();
            wal.save_committed(model.committed).unwrap();
        }
        Step::Flush => durably(|done| wal.save_vote(*model.vote.get_or_insert(ballot(0)), done)),
        Step::Reopen => {}
    }
}

fn compare(model: &Model, wal: &Wal) {
    let found = dump(wal);
    assert_eq!(found.vote, model.vote);
    assert_eq!(found.committed, model.committed);
    assert_eq!(found.bounds.purged, model.purged);
    assert_eq!(found.bounds.last, model.last());
    assert!(found.entries.iter().eq(model.entries.values()));
    let middle = (model.first() + model.next()) / 2;
    let limit = ReadLimit { entries: 3, bytes: 500 };
    let part = wal.read(middle..model.next(), limit).load().unwrap();
    assert!(part.iter().eq(model.entries.range(middle..).map(|(_, entry)| entry).take(part.len())));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_log_is_what_the_operations_made_it(
        steps in prop::collection::vec(step(), 1..60),
        segment_bytes in 600_u64..5000,
        cache_bytes in prop_oneof![Just(0_usize), 0_usize..5000],
    ) {
        let dir = TempDir::new().unwrap();
        let open = || Wal::open(WalOptions { cache_bytes, ..options(dir.path(), segment_bytes) }).unwrap();
        let mut model = Model::default();
        let mut wal = open();
        for step in &steps {
            if matches!(step, Step::Reopen) {
                drop(wal);
                wal = open();
                assert_eq!(wal.recovery().torn, None);
                assert_eq!(*wal.durable().borrow(), model.next());
            }
            apply(step, &mut model, &wal);
            compare(&model, &wal);
        }
        drop(wal);
        compare(&model, &open());
    }
}
