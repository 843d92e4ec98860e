//! [`FileData`]: bytes of a file, as seen by processes and as left by a power loss.

use std::collections::{BTreeMap, VecDeque};

use rand::RngExt;
use rand::rngs::StdRng;

use super::content::{Content, PAGE};

/// Unit of an atomic disk write.
pub(super) const SECTOR: u64 = 512;

/// A change of a file, not yet durable.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: u64, bytes: Vec<u8> },
    Resize(u64),
    Reserve { offset: u64, len: u64 },
}

/// Live bytes, durable bytes, and the pending changes between both states.
#[derive(Debug, Clone, Default)]
pub(super) struct FileData {
    live: Content,
    durable: Content,
    /// Numbered changes, in order.
    pending: VecDeque<(u64, Change)>,
    /// End of the last write.
    written_to: u64,
}

impl FileData {
    /// Content as seen by processes.
    pub(super) fn live(&self) -> &Content {
        &self.live
    }

    /// Whether a write request at `offset` may be a continuation of the previous request: the kernel splits a process's writes at pages.
    pub(super) fn may_go_on(&self, offset: u64) -> bool {
        offset != 0 && offset == self.written_to && offset.is_multiple_of(PAGE)
    }

    pub(super) fn write(&mut self, number: u64, offset: u64, bytes: &[u8]) {
        self.written_to = offset + bytes.len() as u64;
        self.live.write(offset, bytes);
        self.pending.push_back((number, Change::Write { offset, bytes: bytes.to_vec() }));
    }

    pub(super) fn resize(&mut self, number: u64, len: u64) {
        if len != self.live.len() {
            self.live.resize(len);
            self.pending.push_back((number, Change::Resize(len)));
        }
    }

    pub(super) fn reserve(&mut self, number: u64, offset: u64, len: u64) {
        self.live.reserve(offset, len);
        self.pending.push_back((number, Change::Reserve { offset, len }));
    }

    /// Completes an fsync that began after change `upto`.
    pub(super) fn sync(&mut self, upto: u64) {
        while self.pending.front().is_some_and(|(number, _)| *number <= upto) {
            match self.pending.pop_front() {
                Some((_, Change::Write { offset, bytes })) => self.durable.write(offset, &bytes),
                Some((_, Change::Resize(len))) => self.durable.resize(len),
                Some((_, Change::Reserve { offset, len })) => self.durable.reserve(offset, len),
                None => return,
            }
        }
    }

    /// Fails an fsync that began after change `upto`: the kernel now treats the pages as clean, so no later fsync
    /// writes them. Processes still see the bytes in memory.
    pub(super) fn fail_sync(&mut self, upto: u64) {
        for (number, change) in &mut self.pending {
            if *number <= upto
                && let Change::Write { offset, bytes } = change
            {
                // The length is part of the journal, not of the pages.
                *change = Change::Write { offset: *offset + bytes.len() as u64, bytes: Vec::new() };
            }
        }
    }

    /// Discards all changes that are not durable. Returns the number of lost changes.
    pub(super) fn drop_volatile(&mut self) -> usize {
        let lost = self.pending.len();
        self.pending.clear();
        self.live = self.durable.clone();
        lost
    }

    /// Lets some sectors and some length changes survive. Each sector has the durable content, or the content after any
    /// write to the sector: a later write never survives without the earlier writes to the same sector, because both
    /// share a page in memory. Returns the number of writes that did not survive completely.
    pub(super) fn tear(&mut self, rng: &mut StdRng) -> usize {
        // Probability that the kernel wrote a sector on its own.
        let eagerness = rng.random_range(0.0..=1.0);
        let metadata = self.cutoff(rng);
        let mut sectors: BTreeMap<u64, u64> = BTreeMap::new();
        let mut torn = 0;
        let pending = std::mem::take(&mut self.pending);
        for (number, change) in &pending {
            match change {
                Change::Resize(len) if *number <= metadata => self.durable.resize(*len),
                // A truncated file gets new blocks: if the truncation is lost, all later writes are lost too.
                Change::Resize(len) if *len < self.durable.len() => break,
                Change::Resize(_) => {}
                Change::Reserve { offset, len } if *number <= metadata => self.durable.reserve(*offset, *len),
                Change::Reserve { .. } => {}
                Change::Write { offset, bytes } => {
                    let end = offset + bytes.len() as u64;
                    let mut at = *offset;
                    let mut whole = true;
                    while at < end {
                        let next = ((at / SECTOR + 1) * SECTOR).min(end);
                        let cutoff = *sectors.entry(at / SECTOR).or_insert_with(|| {
                            let written = rng.random_bool(eagerness);
                            if written {
                                rng.random_range(*number..=pending.back().map_or(*number, |l| l.0))
                            } else {
                                0
                            }
                        });
                        if *number <= cutoff {
                            self.durable.put(at, &bytes[(at - offset) as usize..(next - offset) as usize]);
                        } else {
                            whole = false;
                        }
                        at = next;
                    }
                    if *number <= metadata && end > self.durable.len() {
                        self.durable.write(end, &[]);
                    }
                    torn += usize::from(!whole);
                }
            }
        }
        self.durable.trim();
        self.live = self.durable.clone();
        torn
    }

    /// The last change number up to which length changes survive.
    fn cutoff(&self, rng: &mut StdRng) -> u64 {
        match self.pending.len() {
            0 => 0,
            len => match rng.random_range(0..=len) {
                0 => 0,
                survivors => self.pending[survivors - 1].0,
            },
        }
    }

    /// Allocated bytes.
    pub(super) fn allocated(&self) -> u64 {
        self.live.pages() * PAGE
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn text(file: &FileData) -> Vec<u8> {
        file.live().read(0, u64::MAX)
    }

    #[test]
    fn a_sync_covers_what_came_before_it_and_nothing_after() {
        let mut file = FileData::default();
        file.write(1, 0, b"before");
        file.write(2, 6, b" after");
        file.sync(1);
        assert_eq!(text(&file), b"before after");
        assert_eq!(file.drop_volatile(), 1);
        assert_eq!(text(&file), b"before");
    }

    #[test]
    fn a_failed_sync_loses_the_pages_and_a_second_one_does_not_bring_them_back() {
        let mut file = FileData::default();
        file.write(1, 0, b"first");
        file.sync(1);
        file.write(2, 0, b"other and longer");
        file.fail_sync(2);
        assert_eq!(text(&file), b"other and longer", "memory still has it");
        file.sync(2);
        file.drop_volatile();
        assert_eq!(text(&file), b"first\0\0\0\0\0\0\0\0\0\0\0");
    }

    #[test]
    fn a_torn_sector_is_one_of_its_versions() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut file = FileData::default();
            file.write(1, 0, b"AAAA");
            file.sync(1);
            file.write(2, 0, b"BB");
            file.write(3, 2, b"CC");
            file.tear(&mut StdRng::seed_from_u64(seed));
            seen.insert(text(&file));
        }
        // Never AACC: both writes share a page.
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [b"AAAA".to_vec(), b"BBAA".to_vec(), b"BBCC".to_vec()]);
    }

    #[test]
    fn a_file_cut_and_written_anew_is_old_or_new_and_no_mixture() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut file = FileData::default();
            file.write(1, 0, b"old old");
            file.sync(1);
            file.resize(2, 0);
            file.write(3, 0, b"new");
            file.tear(&mut StdRng::seed_from_u64(seed));
            seen.insert(text(&file));
        }
        let expected = [b"".to_vec(), b"\0\0\0".to_vec(), b"new".to_vec(), b"old old".to_vec()];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn sectors_of_one_write_survive_one_by_one() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..500 {
            let mut file = FileData::default();
            file.write(1, 0, &[0; 3 * SECTOR as usize]);
            file.sync(1);
            file.write(2, 0, &[1; 3 * SECTOR as usize]);
            file.tear(&mut StdRng::seed_from_u64(seed));
            let bytes = text(&file);
            assert!(bytes.chunks(SECTOR as usize).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
            seen.insert([bytes[0], bytes[SECTOR as usize], bytes[2 * SECTOR as usize]]);
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }
}
