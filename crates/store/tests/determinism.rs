//! The same entries give the same state, however they come.

use proptest::collection::vec;
use proptest::prelude::*;
use raftkv_kv::{
    Batch, ImportPage, ImportRecord, Op, Precondition, Proposal, SlotSet, SlotTime, SystemCommand, slot_of,
};
use raftkv_store::{ApplyEntry, StateLimits};

use crate::support::{Harness, Taken, all_of, delete, once, payload, set_until, when};

const TIGHT: StateLimits =
    StateLimits { session_ms: 40, sessions: 3, answers_per_session: 3, idempotency_ms: 30, idempotency: 3, sweep: 2 };

fn op() -> impl Strategy<Value = Op> {
    let precondition = prop_oneof![
        4 => Just(None),
        1 => Just(Some(Precondition::Absent)),
        1 => Just(Some(Precondition::Present)),
        1 => (0..30u64).prop_map(|revision| Some(Precondition::Revision(revision))),
    ];
    let idempotency = proptest::option::weighted(0.3, (0..5u8, 0..2u64, 0..40u64));
    (0..6u8, any::<u8>(), 0..5u8, 0..300u64, precondition, idempotency).prop_map(
        |(key, value, kind, expires, precondition, idempotency)| {
            let name = format!("k{key}");
            let mut op = match kind {
                0 => delete(&name),
                1 => set_until(&name, &value.to_string(), 1_000 + expires),
                _ => set_until(&name, &value.to_string(), 0),
            };
            if let Some(precondition) = precondition {
                op = when(op, precondition);
            }
            match idempotency {
                Some((client, fingerprint, keep)) => once(op, &format!("i{client}"), fingerprint, keep),
                None => op,
            }
        },
    )
}

/// Commands of a few moves, in no order: most are refused, some are not.
fn system() -> impl Strategy<Value = SystemCommand> {
    use SystemCommand as Command;
    let slots = |mask: u8| -> SlotSet {
        (0..6u8).filter(|key| mask & (1 << key) != 0).map(|key| slot_of(format!("k{key}").as_bytes())).collect()
    };
    (0..15u8, 1..9u64, any::<u8>()).prop_map(move |(kind, id, mask)| {
        let (slots, version) = (slots(mask), 1 + u32::from(mask & 1));
        match kind {
            0 => Command::Adopt { store: 1, group: 1, keep: true },
            1 => Command::Claim { id, slots },
            2 => Command::Disown { id, slots },
            3 => Command::BeginImport { id, slots, version },
            4 | 5 => {
                let key = (0..6u8).map(|key| format!("k{key}")).find(|key| slots.contains(slot_of(key.as_bytes())));
                let value = |key: String| ImportRecord::Value {
                    key: key.into(),
                    revision: 1_000 + id,
                    create_revision: id,
                    expires_at_ms: if mask > 127 { 1_100 } else { 0 },
                    value: vec![mask & 0x7f].into(),
                };
                let records = ImportPage { records: key.map(value).into_iter().collect() }.encode();
                Command::Import { id, page: u64::from(kind - 4), cursor: vec![mask].into(), records }
            }
            6 => Command::CommitImport {
                id,
                pages: u64::from(mask % 3),
                revision: 50,
                clock_ms: 1_050,
                times: if mask > 127 { vec![SlotTime { slots, time_ms: 990 + u64::from(mask) }] } else { Vec::new() },
            },
            7 => Command::AbortImport { id },
            8 => Command::BeginExport { id, slots, version },
            9 => Command::Fence { id },
            10 => Command::AbortExport { id },
            11 => Command::Release { id },
            12 => Command::Purge { limit: u32::from(mask % 8) },
            13 => Command::RaiseVersion { from: 1 + u32::from(mask & 1), to: 2 + u32::from(mask & 1) },
            _ => Command::PutKey { key: vec![mask % 2 + 1].into(), expected_version: id - 1, value: vec![mask].into() },
        }
    })
}

fn proposal() -> impl Strategy<Value = Proposal> {
    prop_oneof![
        2 => system().prop_map(Proposal::System),
        1 => Just(Proposal::OpenSession),
        5 => (1..40u64, 1..6u64, 0..4u64, vec(op(), 0..5)).prop_map(
            |(session, sequence, acknowledged_below, ops)| Proposal::Batch(Batch {
                session,
                sequence,
                acknowledged_below,
                ops,
            })
        ),
    ]
}

/// A log: most batches are of a session that some entry has opened.
fn log() -> impl Strategy<Value = Vec<ApplyEntry>> {
    vec((proposal(), 0..12u64, any::<u8>()), 1..60).prop_map(|items| {
        let mut opened = Vec::new();
        let mut clock_ms = 1_000;
        let mut entries = Vec::new();
        for (index, (mut proposal, step, pick)) in items.into_iter().enumerate() {
            clock_ms += step;
            match &mut proposal {
                Proposal::OpenSession => opened.push(index as u64 + 1),
                Proposal::Batch(batch) if !opened.is_empty() => {
                    batch.session = opened[usize::from(pick) % opened.len()];
                }
                Proposal::Batch(_) | Proposal::System(_) => {}
            }
            // The wall goes back now and then; it decides nothing once the version has risen.
            let wall_ms = if pick < 16 { 0 } else { clock_ms };
            let entry = payload(index as u64, wall_ms, &proposal);
            entries.push(ApplyEntry { group_clock_ms: clock_ms, ..entry });
        }
        entries
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn grouping_restarts_snapshots_and_flushes_do_not_show(
        entries in log(),
        cuts in vec(1..9usize, 60),
        restart in 0..60usize,
        memtable_bytes in 1..4_000usize,
    ) {
        // Flushes all the time.
        let one_by_one = Harness::flushing(TIGHT, 1);
        // Now and then.
        let flushing = Harness::flushing(TIGHT, memtable_bytes);
        let mut answers = Vec::new();
        for entry in entries.clone() {
            let answer = one_by_one.store.apply_blocking(vec![entry.clone()]).unwrap().answers;
            prop_assert_eq!(&answer, &flushing.store.apply_blocking(vec![entry]).unwrap().answers);
            answers.extend(answer);
        }

        let mut grouped = Harness::with(TIGHT);
        let mut rest = entries.as_slice();
        let mut other_answers = Vec::new();
        for (i, cut) in cuts.into_iter().enumerate() {
            let (group, later) = rest.split_at(cut.min(rest.len()));
            rest = later;
            other_answers.extend(grouped.store.apply_blocking(group.to_vec()).unwrap().answers);
            if i == restart {
                grouped.reopen(TIGHT);
            }
            if i == restart / 2 {
                Taken::of(&grouped.store).install(&grouped.store);
            }
        }

        prop_assert_eq!(answers, other_answers);
        prop_assert_eq!(one_by_one.store.state_hash(), grouped.store.state_hash());
        prop_assert_eq!(one_by_one.store.state_hash(), flushing.store.state_hash());
        prop_assert_eq!(all_of(&one_by_one.store).unwrap(), all_of(&grouped.store).unwrap());
        prop_assert_eq!(Taken::of(&one_by_one.store), Taken::of(&grouped.store));
        one_by_one.store.verify().unwrap();
        flushing.store.verify().unwrap();
        grouped.store.verify().unwrap();
    }
}

#[test]
fn a_different_state_has_a_different_hash() {
    let hash = |value: &str| {
        let mut h = Harness::new();
        h.op(set_until("k", value, 0));
        h.store.state_hash()
    };
    assert_eq!(hash("1"), hash("1"));
    assert_ne!(hash("1"), hash("2"));
}
