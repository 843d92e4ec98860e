//! Which slots go from which group to which, so that every group owns its share. Pure.
//!
//! A group's exact share is its weight's part of all slots. Its target is that share rounded down or up, chosen so that
//! the targets add up and as few slots as possible move: who holds more than its share rounded down anyway is rounded up
//! first. The targets depend on nothing that a part of the plan changes, so a plan that is made anew after each of its
//! moves goes on where it was.

use raftkv_kv::SlotSet;

use crate::control::document::records::GroupId;

/// A group as a plan sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// Which.
    pub group: GroupId,
    /// Its part relative to the others; 0 = it gives all away.
    pub weight: u32,
    /// What it owns.
    pub slots: SlotSet,
}

/// Slots that should go from one group to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMove {
    /// Their owner.
    pub from: GroupId,
    /// Their owner to be.
    pub to: GroupId,
    /// Which.
    pub slots: SlotSet,
}

/// How many slots each of `shares` should own, in their order. All 0 when no group has a weight.
pub fn targets(shares: &[Share]) -> Vec<usize> {
    let total = shares.iter().map(|share| share.slots.len() as u64).sum::<u64>();
    let weights = shares.iter().map(|share| u64::from(share.weight)).sum::<u64>();
    if weights == 0 {
        return vec![0; shares.len()];
    }
    let exact = |share: &Share| total * u64::from(share.weight);
    let mut targets: Vec<usize> = shares.iter().map(|share| (exact(share) / weights) as usize).collect();
    let missing = total as usize - targets.iter().sum::<usize>();
    let mut rounded: Vec<usize> = (0..shares.len()).filter(|at| !exact(&shares[*at]).is_multiple_of(weights)).collect();
    rounded.sort_by_key(|&at| {
        let share = &shares[at];
        let holds_more = share.slots.len() > targets[at];
        (!holds_more, std::cmp::Reverse(exact(share) % weights), share.group)
    });
    for at in rounded.into_iter().take(missing) {
        targets[at] += 1;
    }
    targets
}

/// The fewest slots whose moves give every group its target. Nothing when no group has a weight.
pub fn balance(shares: &[Share]) -> Vec<PlannedMove> {
    if shares.iter().all(|share| share.weight == 0) {
        return Vec::new();
    }
    let targets = targets(shares);
    let mut owned: Vec<SlotSet> = shares.iter().map(|share| share.slots.clone()).collect();
    let mut plan = Vec::new();
    loop {
        // Largest surplus to largest need: few pairs, each of them long.
        let surplus = |at: usize| owned[at].len().saturating_sub(targets[at]);
        let need = |at: usize| targets[at].saturating_sub(owned[at].len());
        let all = 0..shares.len();
        let giver = all.clone().max_by_key(|&at| (surplus(at), std::cmp::Reverse(shares[at].group)));
        let taker = all.max_by_key(|&at| (need(at), std::cmp::Reverse(shares[at].group)));
        let (Some(giver), Some(taker)) = (giver, taker) else { return plan };
        let count = surplus(giver).min(need(taker));
        if count == 0 {
            return plan;
        }
        let slots = pick(&owned[giver], &owned[taker], count);
        owned[giver] = owned[giver].difference(&slots);
        owned[taker] = owned[taker].union(&slots);
        plan.push(PlannedMove { from: shares[giver].group, to: shares[taker].group, slots });
    }
}

/// The moves that bring `slots` to `to`, from whoever owns them.
pub fn explicit(shares: &[Share], slots: &SlotSet, to: GroupId) -> Vec<PlannedMove> {
    let others = shares.iter().filter(|share| share.group != to);
    let moves = others.map(|share| PlannedMove { from: share.group, to, slots: share.slots.intersection(slots) });
    moves.filter(|planned| !planned.slots.is_empty()).collect()
}

/// `count` slots of `giver` that leave both with the fewest ranges.
fn pick(giver: &SlotSet, taker: &SlotSet, count: usize) -> SlotSet {
    let last = giver.difference(&giver.first(giver.len() - count));
    let candidates = [last, giver.first(count), smallest_ranges(giver, count)];
    let ranges = |slots: &SlotSet| giver.difference(slots).ranges().len() + taker.union(slots).ranges().len();
    candidates.into_iter().min_by_key(ranges).unwrap_or_default()
}

/// `count` slots of `set`, its shortest ranges first, the last of them from its end.
fn smallest_ranges(set: &SlotSet, count: usize) -> SlotSet {
    let mut ranges = set.ranges().to_vec();
    ranges.sort_by_key(|(first, last)| last - first);
    let mut picked = SlotSet::new();
    for (first, last) in ranges {
        let missing = count - picked.len();
        if missing == 0 {
            break;
        }
        let len = usize::from(last - first) + 1;
        // Fits a slot number: it is at most `len`.
        let first = if len > missing { last - (missing as u16 - 1) } else { first };
        picked = picked.union(&SlotSet::range(first, last));
    }
    picked
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raftkv_kv::SLOTS;

    use super::*;

    /// Some groups that own all slots, in runs of random lengths.
    fn shares() -> impl Strategy<Value = Vec<Share>> {
        (1usize..8)
            .prop_flat_map(|groups| {
                let runs = proptest::collection::vec((0..groups, 1u16..4_000), 1..30);
                (proptest::collection::vec(0u32..5, groups), runs)
            })
            .prop_map(|(weights, runs)| {
                let mut shares: Vec<Share> =
                    (1..).zip(weights).map(|(group, weight)| Share { group, weight, slots: SlotSet::new() }).collect();
                let mut next = 0;
                for (at, len) in runs.into_iter().chain([(0, SLOTS)]) {
                    if next < SLOTS {
                        let last = (next + (len - 1)).min(SLOTS - 1);
                        shares[at].slots = shares[at].slots.union(&SlotSet::range(next, last));
                        next = last + 1;
                    }
                }
                shares
            })
    }

    fn apply(shares: &mut [Share], planned: &PlannedMove) {
        for share in shares {
            if share.group == planned.from {
                assert!(share.slots.contains_all(&planned.slots), "it gives what it has");
                share.slots = share.slots.difference(&planned.slots);
            } else if share.group == planned.to {
                share.slots = share.slots.union(&planned.slots);
            }
        }
    }

    fn moved(plan: &[PlannedMove]) -> usize {
        plan.iter().map(|planned| planned.slots.len()).sum()
    }

    /// The fewest slots that must move so that every group has its share rounded down or up: from every group that has
    /// more than rounded up, all of that; and rounding up as many as possible of those who hold enough for it.
    fn fewest(shares: &[Share]) -> usize {
        let weights: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
        let exact = |share: &Share| u64::from(SLOTS) * u64::from(share.weight);
        let down = |share: &Share| (exact(share) / weights) as usize;
        let above: usize = shares.iter().map(|share| share.slots.len().saturating_sub(down(share))).sum();
        let extras = usize::from(SLOTS) - shares.iter().map(down).sum::<usize>();
        let keep = shares.iter().filter(|share| exact(share) % weights > 0 && share.slots.len() > down(share)).count();
        above - keep.min(extras)
    }

    proptest! {
        #[test]
        fn a_plan_balances_with_the_fewest_slots(shares in shares()) {
            let plan = balance(&shares);
            let weights: u64 = shares.iter().map(|share| u64::from(share.weight)).sum();
            if weights == 0 {
                prop_assert!(plan.is_empty());
                return Ok(());
            }
            prop_assert_eq!(moved(&plan), fewest(&shares));
            let mut after = shares.clone();
            plan.iter().for_each(|planned| apply(&mut after, planned));
            for share in &after {
                let exact = u64::from(SLOTS) as f64 * f64::from(share.weight) / weights as f64;
                prop_assert!((share.slots.len() as f64 - exact).abs() < 1.0, "{} of {}", share.slots.len(), exact);
            }
            prop_assert!(balance(&after).is_empty(), "what is balanced stays as it is");
            let ends: std::collections::BTreeSet<_> = plan.iter().map(|planned| planned.from).collect();
            prop_assert!(plan.iter().all(|planned| !ends.contains(&planned.to)), "who gives does not take");
            prop_assert!(plan.len() < shares.len(), "at most one move less than groups: {}", plan.len());
        }

        /// A coordinator makes the plan anew after each move, of which each has a bounded size.
        #[test]
        fn a_plan_made_anew_after_each_part_moves_no_more(shares in shares(), most in 500usize..3_000) {
            prop_assume!(shares.iter().any(|share| share.weight > 0));
            let (mut state, mut sum) = (shares.clone(), 0);
            while let Some(mut planned) = balance(&state).into_iter().next() {
                planned.slots = planned.slots.first(most);
                sum += planned.slots.len();
                apply(&mut state, &planned);
            }
            prop_assert_eq!(sum, fewest(&shares));
        }

        #[test]
        fn explicit_moves_bring_exactly_what_was_asked(shares in shares(), first in 0..SLOTS, len in 0u16..5_000) {
            let slots = SlotSet::range(first, first.saturating_add(len));
            let to = shares[0].group;
            let mut after = shares.clone();
            let plan = explicit(&shares, &slots, to);
            plan.iter().for_each(|planned| apply(&mut after, planned));
            prop_assert!(after[0].slots.contains_all(&slots));
            prop_assert_eq!(moved(&plan), slots.difference(&shares[0].slots).len());
        }
    }

    fn group(group: GroupId, weight: u32, slots: &str) -> Share {
        Share { group, weight, slots: slots.parse().unwrap() }
    }

    #[test]
    fn a_new_group_gets_long_ranges_from_every_other() {
        let plan = balance(&[group(1, 1, "0-8191"), group(2, 1, "8192-16383"), group(3, 1, "")]);
        assert_eq!(moved(&plan), 5_461);
        assert!(plan.iter().all(|planned| planned.to == 3 && planned.slots.ranges().len() == 1), "{plan:?}");
    }

    #[test]
    fn a_weight_of_nothing_gives_all_away() {
        let plan = balance(&[group(1, 0, "0-8191"), group(2, 1, "8192-16383")]);
        assert_eq!(plan, [PlannedMove { from: 1, to: 2, slots: SlotSet::range(0, 8191) }]);
    }

    #[test]
    fn a_group_gets_back_what_lies_beside_its_own() {
        let plan = balance(&[group(1, 1, "0-4095"), group(2, 1, "4096-16383")]);
        assert_eq!(plan, [PlannedMove { from: 2, to: 1, slots: SlotSet::range(4096, 8191) }]);
    }
}
