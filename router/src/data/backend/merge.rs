//! [`Merge`]: one page out of the pages of several groups.

use std::collections::VecDeque;

use bytes::Bytes;
use raftkv_backend::{Entry, ListRequest, Page};
use raftkv_kv::SlotSet;

use crate::data::group::GroupPage;

/// Room for groups that have more than their share of a page, so that most pages need one question to each.
const SLACK_ENTRIES: usize = 8;
/// The same in bytes.
const SLACK_BYTES: usize = 64 * 1024;

/// What has come from one group.
#[derive(Debug)]
struct Feed {
    /// Not taken yet, in key order.
    entries: VecDeque<Entry>,
    /// Where its next page starts; `None` = it has no more.
    next: Option<Bytes>,
    /// The slots it served in all of its pages.
    served: SlotSet,
}

impl Feed {
    /// The lowest key that it may still have.
    fn lowest(&self) -> Option<&[u8]> {
        self.entries.front().map(|entry| entry.key.as_bytes()).or(self.next.as_deref())
    }
}

/// Merges the keys of several groups in their order. Pure: who asks the groups is told what to ask, and tells what came.
///
/// A key that comes from two groups, because it moved between the two questions, is taken once, with its higher revision.
/// A key that came from none, because it moved the other way, shows in [`served`](Self::served): then the page is not whole.
#[derive(Debug)]
pub(super) struct Merge {
    feeds: Vec<Feed>,
    page: Vec<Entry>,
    bytes: usize,
    limit: usize,
    max_bytes: usize,
    /// For each question but the first, by the same limits.
    share: ListRequest,
    is_full: bool,
}

impl Merge {
    /// For so many groups.
    pub(super) fn new(request: &ListRequest, groups: usize) -> Self {
        let feed = || Feed { entries: VecDeque::new(), next: Some(request.start.clone()), served: SlotSet::all() };
        Self {
            feeds: (0..groups).map(|_| feed()).collect(),
            page: Vec::new(),
            bytes: 0,
            limit: request.limit,
            max_bytes: request.max_bytes,
            share: ListRequest {
                limit: share(request.limit, groups, SLACK_ENTRIES),
                max_bytes: share(request.max_bytes, groups, SLACK_BYTES),
                ..request.clone()
            },
            is_full: false,
        }
    }

    /// What to ask of which groups before it can go on; nothing = the page is done.
    pub(super) fn wanted(&mut self) -> Vec<(usize, ListRequest)> {
        self.take();
        if self.is_full {
            return Vec::new();
        }
        let empty = |(at, feed): (usize, &Feed)| {
            let start = feed.next.clone().filter(|_| feed.entries.is_empty())?;
            Some((at, ListRequest { start, ..self.share.clone() }))
        };
        self.feeds.iter().enumerate().filter_map(empty).collect()
    }

    /// A page of one group.
    pub(super) fn came(&mut self, at: usize, page: GroupPage) {
        let feed = &mut self.feeds[at];
        // A page that does not get on would be asked for again for ever.
        let gets_on = !page.entries.is_empty() || page.next > feed.next;
        feed.next = page.next.filter(|_| gets_on);
        feed.entries = page.entries.into();
        feed.served = feed.served.intersection(&page.served);
    }

    /// The slots whose keys the page has, if they have any in its range.
    pub(super) fn served(&self) -> SlotSet {
        self.feeds.iter().fold(SlotSet::new(), |all, feed| all.union(&feed.served))
    }

    /// The page.
    pub(super) fn page(self) -> Page {
        let next = self.feeds.iter().filter_map(Feed::lowest).min().map(Bytes::copy_from_slice);
        Page { next: next.filter(|_| self.is_full), entries: self.page }
    }

    /// Takes entries as long as no group can have one with a lower key, and the page has room.
    fn take(&mut self) {
        while !self.is_full {
            let is_open = |feed: &Feed| feed.entries.is_empty() && feed.next.is_some();
            if self.feeds.iter().any(is_open) {
                return;
            }
            let Some(lowest) = self.feeds.iter().filter_map(|feed| Some(feed.entries.front()?.key.clone())).min()
            else {
                return;
            };
            let heads = self.feeds.iter().filter_map(|feed| feed.entries.front()).filter(|entry| entry.key == lowest);
            let Some(best) = heads.max_by_key(|entry| entry.revision) else { return };
            let size = lowest.as_bytes().len() + best.value.as_ref().map_or(0, |value| value.as_msgpack().len());
            let fits = self.page.len() < self.limit && self.bytes + size <= self.max_bytes;
            if !fits && !self.page.is_empty() {
                self.is_full = true;
                return;
            }
            self.bytes += size;
            self.page.push(best.clone());
            for feed in &mut self.feeds {
                if feed.entries.front().is_some_and(|entry| entry.key == lowest) {
                    feed.entries.pop_front();
                }
            }
            // Not one more question for a page that has all it may have; whether there is more, its next page says.
            self.is_full = self.page.len() >= self.limit && self.feeds.iter().any(|feed| feed.lowest().is_some());
        }
    }
}

/// A group's part of a page, and some more.
fn share(all: usize, groups: usize, slack: usize) -> usize {
    match groups {
        0 | 1 => all,
        _ => (all / groups * 5 / 4).saturating_add(slack).min(all),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use raftkv_kv::{Key, Value, slot_of};

    use super::*;

    /// A group, as a sorted list of keys with their revisions.
    type Keys = BTreeMap<Vec<u8>, u64>;

    fn value(key: &[u8]) -> Value {
        Value::from_stored(vec![0xc0; key.len() * 3])
    }

    fn list(keys: &Keys, request: &ListRequest, served: &SlotSet) -> GroupPage {
        let mut entries: Vec<Entry> = Vec::new();
        let (mut bytes, mut next) = (0, None);
        for (key, &revision) in keys.range(request.start.to_vec()..) {
            bytes += key.len() + value(key).as_msgpack().len();
            if !entries.is_empty() && (entries.len() >= request.limit || bytes > request.max_bytes) {
                next = Some(Bytes::copy_from_slice(key));
                break;
            }
            let key = Key::from_stored(key.clone());
            let value = Some(value(key.as_bytes()));
            entries.push(Entry { key, value, revision, create_revision: 1, expires_at_ms: 0 });
        }
        GroupPage { entries, next, store_revision: 9, served: served.clone() }
    }

    fn run(groups: &[Keys], request: &ListRequest) -> (Page, SlotSet) {
        let mut merge = Merge::new(request, groups.len());
        for _ in 0..10_000 {
            let wanted = merge.wanted();
            if wanted.is_empty() {
                let served = merge.served();
                return (merge.page(), served);
            }
            for (at, part) in wanted {
                merge.came(at, list(&groups[at], &part, &SlotSet::all()));
            }
        }
        panic!("does not end");
    }

    fn keys() -> impl Strategy<Value = Vec<Keys>> {
        let group = proptest::collection::btree_map(proptest::collection::vec(1u8..5, 1..4), 1u64..50, 0..40);
        proptest::collection::vec(group, 1..5)
    }

    proptest! {
        #[test]
        fn pages_together_hold_every_key_once_in_order_with_its_highest_revision(
            groups in keys(), limit in 1usize..20, max_bytes in 1usize..200
        ) {
            let mut expected = Keys::new();
            for (key, &revision) in groups.iter().flatten() {
                let best = expected.entry(key.clone()).or_default();
                *best = revision.max(*best);
            }
            let mut start = Bytes::from_static(&[1]);
            let mut seen: Vec<(Vec<u8>, u64)> = Vec::new();
            loop {
                let request = ListRequest { start, end: None, limit, max_bytes, keys_only: false };
                let (page, served) = run(&groups, &request);
                prop_assert_eq!(served, SlotSet::all());
                prop_assert!(page.entries.len() <= limit);
                let bytes: usize = page.entries.iter().map(|entry| entry.key.as_bytes().len() * 4).sum();
                prop_assert!(bytes <= max_bytes || page.entries.len() == 1);
                prop_assert!(page.next.is_none() || !page.entries.is_empty(), "pages get on");
                seen.extend(page.entries.iter().map(|entry| (entry.key.as_bytes().to_vec(), entry.revision)));
                match page.next {
                    Some(next) => start = next,
                    None => break,
                }
            }
            prop_assert_eq!(seen, expected.into_iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_slot_that_a_group_did_not_serve_in_one_of_its_pages_is_missing() {
        let request =
            ListRequest { start: Bytes::from_static(b"a"), end: None, limit: 10, max_bytes: 1000, keys_only: true };
        let mut merge = Merge::new(&request, 2);
        let moved = SlotSet::range(slot_of(b"x"), slot_of(b"x"));
        let (all, rest) = (SlotSet::all(), moved.complement());
        let page = |next: Option<&'static [u8]>, served: &SlotSet| GroupPage {
            entries: Vec::new(),
            next: next.map(Bytes::from_static),
            store_revision: 0,
            served: served.clone(),
        };
        assert_eq!(merge.wanted().len(), 2);
        merge.came(0, page(Some(b"m"), &all));
        merge.came(1, page(None, &SlotSet::new()));
        assert_eq!(merge.served(), all);
        let wanted = merge.wanted();
        assert_eq!((wanted.len(), wanted[0].0, &wanted[0].1.start[..]), (1, 0, &b"m"[..]));
        merge.came(0, page(None, &rest));
        assert!(merge.wanted().is_empty());
        assert_eq!(merge.served(), rest);
    }

    #[test]
    fn a_group_whose_page_does_not_get_on_is_not_asked_for_ever() {
        let request =
            ListRequest { start: Bytes::from_static(b"a"), end: None, limit: 10, max_bytes: 1000, keys_only: true };
        let mut merge = Merge::new(&request, 1);
        assert_eq!(merge.wanted().len(), 1);
        let page = GroupPage {
            entries: Vec::new(),
            next: Some(Bytes::from_static(b"a")),
            store_revision: 0,
            served: SlotSet::all(),
        };
        merge.came(0, page);
        assert!(merge.wanted().is_empty());
    }
}
