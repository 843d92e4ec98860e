//! [`slots_of_range`]: which slots the keys of a range can be in.

use raftkv_kv::{SlotSet, slot_of};

/// All slots, but for a range whose keys all begin with the same hash tag, as `{user1}.` does: those are in one slot.
pub(super) fn slots_of_range(start: &[u8], end: Option<&[u8]>) -> SlotSet {
    let prefix = common_prefix(start, end);
    match has_tag(prefix) {
        // What follows the tag does not matter.
        true => SlotSet::range(slot_of(prefix), slot_of(prefix)),
        false => SlotSet::all(),
    }
}

/// What all keys from `start` on, below `end`, begin with.
fn common_prefix<'a>(start: &'a [u8], end: Option<&[u8]>) -> &'a [u8] {
    let Some(end) = end else { return &[] };
    let same = start.iter().zip(end).take_while(|(a, b)| a == b).count();
    // Keys below `ab` that are not below `aa…` begin with `aa`, when nothing stands between the two.
    let last = end.len() == same + 1 && start.get(same).is_some_and(|byte| byte.checked_add(1) == end.last().copied());
    &start[..same + usize::from(last)]
}

/// Whether a whole hash tag stands in `prefix`, so that it is that of every key with this prefix.
fn has_tag(prefix: &[u8]) -> bool {
    let Some(open) = prefix.iter().position(|&byte| byte == b'{') else { return false };
    let close = prefix[open + 1..].iter().position(|&byte| byte == b'}');
    close.is_some_and(|close| close > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_that_all_keys_share_decides() {
        let one = |key: &[u8]| SlotSet::range(slot_of(key), slot_of(key));
        assert_eq!(slots_of_range(b"{user1}.", Some(b"{user1}/")), one(b"{user1}.name"), "a prefix");
        assert_eq!(slots_of_range(b"{user1}.m", Some(b"{user1}/")), one(b"{user1}.name"), "its second page");
        assert_eq!(slots_of_range(b"a{x}b", Some(b"a{x}d")), one(b"a{x}c"));
        for (start, end) in [(&b"{user1}."[..], None), (b"{user1", Some(&b"{user2"[..])), (b"{}a", Some(b"{}b"))] {
            assert_eq!(slots_of_range(start, end), SlotSet::all(), "{start:?}");
        }
    }

    proptest! {
        #[test]
        fn every_key_of_a_range_is_in_one_of_its_slots(
            start in "[a{}x]{0,5}", end in "[a{}xy]{0,5}", rest in "[a{}x]{0,3}"
        ) {
            let (start, end) = (start.into_bytes(), end.into_bytes());
            let slots = slots_of_range(&start, Some(&end));
            for key in [[&start[..], rest.as_bytes()].concat(), [&end[..end.len().saturating_sub(1)], rest.as_bytes()].concat()] {
                if key >= start && key < end && !key.is_empty() {
                    prop_assert!(slots.contains(slot_of(&key)), "{key:?}");
                }
            }
        }
    }
}
