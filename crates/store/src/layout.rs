//! Which keys the one keyspace holds.
//!
//! The first byte of a key is its class. The first two classes belong to this node; the others are the replicated
//! state, and a snapshot is the meta record followed by them in key order.
//!
//! | tag  | key after the tag                  | record                                              |
//! |------|------------------------------------|-----------------------------------------------------|
//! | 0x00 |                                    | the meta record: position, counters, clock          |
//! | 0x01 | batch number                       | chain link: only the last batch's may exist         |
//! | 0x10 | session id                         | session                                             |
//! | 0x11 | session id, sequence               | the batch's encoded answer                          |
//! | 0x14 |                                    | ownership of slots; only in a sharded store         |
//! | 0x15 | move id, number                    | what changed during an export, in order             |
//! | 0x16 | name                               | system key: version and document                    |
//! | 0x20 | slot, client's key                 | outcome kept for an `Idempotency-Key`               |
//! | 0x21 | expiry time, slot, client's key    | index of 0x20, empty: written by cluster version 1  |
//! | 0x22 | slot, deadline, client's key       | index of 0x20 by the slot's time, empty             |
//! | 0x30 | expiry time, key                   | index of 0x40, empty: written by cluster version 1  |
//! | 0x31 | slot, deadline, key                | index of 0x40 by the slot's time, empty             |
//! | 0x40 | key                                | value with its revisions and expiry time            |
//!
//! All numbers in keys are big-endian, so that byte order is numeric order.

use fjall::Slice;
use raftkv_kv::slot_of;

/// The meta record, outside every scanned range: it is overwritten by every batch.
pub(super) const META: u8 = 0x00;
/// Chain links, local to the node.
pub(super) const LINK: u8 = 0x01;
/// The first class of the replicated state.
pub(super) const STATE: u8 = 0x10;
/// Sessions.
pub(super) const SESSION: u8 = 0x10;
/// Answers of batches.
pub(super) const ANSWER: u8 = 0x11;
/// What the group owns; one record.
pub(super) const OWNERSHIP: u8 = 0x14;
/// Changes recorded for a move.
pub(super) const CHANGE: u8 = 0x15;
/// Documents of routers.
pub(super) const SYSTEM: u8 = 0x16;
/// Outcomes kept for an `Idempotency-Key`.
pub(super) const IDEMPOTENCY: u8 = 0x20;
/// [`IDEMPOTENCY`] by expiry time.
pub(super) const IDEMPOTENCY_EXPIRY: u8 = 0x21;
/// [`IDEMPOTENCY`] by slot and deadline.
pub(super) const OUTCOME_DUE: u8 = 0x22;
/// Values that expire, by time.
pub(super) const VALUE_EXPIRY: u8 = 0x30;
/// Values that expire, by slot and deadline.
pub(super) const VALUE_DUE: u8 = 0x31;
/// Values.
pub(super) const DATA: u8 = 0x40;

/// The meta record's key.
pub(super) const META_KEY: [u8; 1] = [META];
/// The ownership record's key.
pub(super) const OWNERSHIP_KEY: [u8; 1] = [OWNERSHIP];

/// The longest key that is looked for. The tables take no longer one, and end the process where they are asked for it; what is stored is
/// shorter.
pub(super) const MAX_SOUGHT_BYTES: usize = u16::MAX as usize;

/// Length of a tag and a number.
const NUMBERED: usize = 9;
/// Length of a tag, a slot and a number.
const DUE: usize = 11;

/// Key of a class that is told apart by one number.
pub(super) fn numbered(tag: u8, number: u64) -> [u8; NUMBERED] {
    let mut key = [tag; NUMBERED];
    key[1..].copy_from_slice(&number.to_be_bytes());
    key
}

/// The number behind the tag; `None` when the key is too short to have one.
pub(super) fn number_of(key: &[u8]) -> Option<u64> {
    key.get(1..NUMBERED)?.try_into().ok().map(u64::from_be_bytes)
}

/// Key of a batch's answer.
pub(super) fn answer(session: u64, sequence: u64) -> [u8; 17] {
    paired(ANSWER, session, sequence)
}

/// Key of a change recorded for a move.
pub(super) fn change(move_id: u64, number: u64) -> [u8; 17] {
    paired(CHANGE, move_id, number)
}

/// Key of a system key.
pub(super) fn system(name: &[u8]) -> Slice {
    tagged(&[SYSTEM], name)
}

/// The slot that the record under a key of a value, or of a kept outcome, is in.
pub(super) fn slot_of_record(key: &[u8]) -> Option<u16> {
    match key.split_first()? {
        (&DATA, key) => Some(slot_of(key)),
        (&IDEMPOTENCY, rest) => rest.first_chunk().map(|slot| u16::from_be_bytes(*slot)),
        _ => None,
    }
}

/// The first key after this one.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

fn paired(tag: u8, first: u64, second: u64) -> [u8; 17] {
    let mut key = [tag; 17];
    key[1..9].copy_from_slice(&first.to_be_bytes());
    key[9..].copy_from_slice(&second.to_be_bytes());
    key
}

/// Session and sequence of an answer's key.
pub(super) fn answer_of(key: &[u8]) -> Option<(u64, u64)> {
    let sequence = key.get(9..17)?.try_into().ok().map(u64::from_be_bytes)?;
    (key.len() == 17).then_some((number_of(key)?, sequence))
}

/// Key of a value.
pub(super) fn data(key: &[u8]) -> Slice {
    tagged(&[DATA], key)
}

/// Key of the outcome of an `Idempotency-Key` used in `slot`.
pub(super) fn idempotency(slot: u16, key: &[u8]) -> Slice {
    let [high, low] = slot.to_be_bytes();
    tagged(&[IDEMPOTENCY, high, low], key)
}

/// Key in an expiry index of the record under `key`, whose own tag is dropped.
pub(super) fn expiry(tag: u8, at_ms: u64, key: &[u8]) -> Slice {
    tagged(&numbered(tag, at_ms), &key[1..])
}

/// The key of the record that a key of an expiry index stands for.
pub(super) fn expiring(tag: u8, index_key: &[u8]) -> Slice {
    tagged(&[tag], &index_key[NUMBERED..])
}

/// Where a slot begins in an index by slot.
pub(super) fn due_slot(tag: u8, slot: u16) -> [u8; 3] {
    let [high, low] = slot.to_be_bytes();
    [tag, high, low]
}

/// Key in an index by slot and deadline of the record under `key`, which is of that slot.
pub(super) fn due(tag: u8, slot: u16, at_ms: u64, key: &[u8]) -> Slice {
    let mut head = [0u8; DUE];
    head[..3].copy_from_slice(&due_slot(tag, slot));
    head[3..].copy_from_slice(&at_ms.to_be_bytes());
    // An outcome's key names the slot, too.
    let rest = if key.first() == Some(&IDEMPOTENCY) { 3 } else { 1 };
    tagged(&head, key.get(rest..).unwrap_or_default())
}

/// Slot and deadline of a key of such an index.
pub(super) fn due_of(index_key: &[u8]) -> Option<(u16, u64)> {
    let slot = u16::from_be_bytes(index_key.get(1..3)?.try_into().ok()?);
    let at_ms = u64::from_be_bytes(index_key.get(3..DUE)?.try_into().ok()?);
    Some((slot, at_ms))
}

/// The key of the record that a key of such an index stands for.
pub(super) fn of_due(index_key: &[u8]) -> Slice {
    let rest = index_key.get(DUE..).unwrap_or_default();
    match index_key.get(..3) {
        Some(&[OUTCOME_DUE, high, low]) => tagged(&[IDEMPOTENCY, high, low], rest),
        _ => tagged(&[DATA], rest),
    }
}

/// Where the keys of a range begin or end, for a bound that anybody may have named: cut to what may be looked for, which is between the same
/// stored keys.
pub(super) fn bound(key: Slice) -> Slice {
    match key.get(..MAX_SOUGHT_BYTES) {
        Some(cut) => Slice::from(cut),
        None => key,
    }
}

fn tagged(head: &[u8], tail: &[u8]) -> Slice {
    // Most keys fit: one copy on the stack instead of an allocation.
    let mut buffer = [0u8; 256];
    let len = head.len() + tail.len();
    if let Some(target) = buffer.get_mut(..len) {
        target[..head.len()].copy_from_slice(head);
        target[head.len()..].copy_from_slice(tail);
        Slice::from(&*target)
    } else {
        Slice::from([head, tail].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_than_any_key_is_between_the_same_keys() {
        let longest = data(&vec![b'k'; raftkv_kv::MAX_IMPORT_KEY_BYTES]);
        for length in [0, 1, MAX_SOUGHT_BYTES - 1, MAX_SOUGHT_BYTES, MAX_SOUGHT_BYTES + 1, 1 << 20] {
            let key = data(&vec![b'k'; length]);
            let cut = bound(key.clone());
            assert!(cut.len() <= MAX_SOUGHT_BYTES);
            assert_eq!(cut.cmp(&longest), key.cmp(&longest), "{length}");
        }
        assert!(longest.len() < MAX_SOUGHT_BYTES);
    }

    #[test]
    fn an_expiry_key_leads_back_to_its_record() {
        let record = idempotency(0x1234, b"once");
        let index = expiry(IDEMPOTENCY_EXPIRY, 77, &record);
        assert_eq!(number_of(&index), Some(77));
        assert_eq!(&*expiring(IDEMPOTENCY, &index), &*record);
    }

    #[test]
    fn a_key_in_an_index_by_slot_leads_back_to_its_record() {
        let kept = idempotency(0x1234, b"once");
        let index = due(OUTCOME_DUE, 0x1234, 77, &kept);
        assert_eq!((due_of(&index), &*of_due(&index)), (Some((0x1234, 77)), &*kept));
        let value = data(b"{a}b");
        let index = due(VALUE_DUE, slot_of(b"a"), 78, &value);
        assert_eq!((due_of(&index), &*of_due(&index)), (Some((slot_of(b"a"), 78)), &*value));
        assert!(index.starts_with(&due_slot(VALUE_DUE, slot_of(b"a"))));
        assert_eq!(due_of(&[VALUE_DUE, 1, 2]), None);
    }

    #[test]
    fn what_belongs_to_a_slot_says_so() {
        assert_eq!(slot_of_record(&data(b"{a}b")), Some(slot_of(b"a")));
        assert_eq!(slot_of_record(&idempotency(0x1234, b"{a}b")), Some(0x1234));
        assert_eq!(slot_of_record(&system(b"{a}b")), None);
        assert_eq!(slot_of_record(&[IDEMPOTENCY, 1]), None);
    }

    #[test]
    fn long_keys_are_not_cut() {
        let long = vec![7u8; 4096];
        assert_eq!(&data(&long)[1..], &long[..]);
    }

    #[test]
    fn answers_sort_by_session_then_sequence() {
        assert!(answer(1, u64::MAX) < answer(2, 0));
        assert_eq!(answer_of(&answer(3, 9)), Some((3, 9)));
        assert_eq!(answer_of(&numbered(SESSION, 3)), None);
    }
}
