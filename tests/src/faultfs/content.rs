//! [`Content`]: the bytes of a file, sparse, cheap to copy.

use std::collections::BTreeMap;
use std::sync::Arc;

/// Page size, and unit of allocated space in `stat`.
pub(super) const PAGE: u64 = 4096;

type Page = [u8; PAGE as usize];

/// The bytes of a file. Unwritten pages take no memory and read as zeros. Clones share pages until a write (copy-on-write).
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pages: BTreeMap<u64, Arc<Page>>,
    len: u64,
    /// Pages before this page number are allocated, written or not.
    reserved: u64,
    /// Written pages from `reserved` on.
    beyond: u64,
}

impl Content {
    /// Length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Number of allocated pages.
    pub(super) fn pages(&self) -> u64 {
        self.reserved + self.beyond
    }

    /// Number of pages that a write to this range would allocate.
    pub(super) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let first = (offset / PAGE).max(self.reserved);
        let end = (offset + len).div_ceil(PAGE);
        end.saturating_sub(first) - self.pages.range(first..end.max(first)).count() as u64
    }

    /// The bytes of a range, up to the end of the file.
    pub(super) fn read(&self, offset: u64, size: u64) -> Vec<u8> {
        let end = self.len.min(offset.saturating_add(size));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        let mut at = offset;
        while at < end {
            let within = (at % PAGE) as usize;
            let part = (PAGE - at % PAGE).min(end - at) as usize;
            if let Some(page) = self.pages.get(&(at / PAGE)) {
                let to = (at - offset) as usize;
                bytes[to..to + part].copy_from_slice(&page[within..within + part]);
            }
            at += part as u64;
        }
        bytes
    }

    /// Writes, and extends the file if necessary.
    pub(super) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.put(offset, bytes);
        self.len = self.len.max(offset + bytes.len() as u64);
    }

    /// Writes without extending the file: bytes beyond the end become visible only if the file grows later, and
    /// [`trim`](Self::trim) removes them.
    pub(super) fn put(&mut self, offset: u64, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            let position = offset + at as u64;
            let within = (position % PAGE) as usize;
            let part = (PAGE as usize - within).min(bytes.len() - at);
            let number = position / PAGE;
            let page = self.pages.entry(number).or_insert_with(|| {
                self.beyond += u64::from(number >= self.reserved);
                Arc::new([0; PAGE as usize])
            });
            Arc::make_mut(page)[within..within + part].copy_from_slice(&bytes[at..at + part]);
            at += part;
        }
    }

    /// Sets the length; new bytes read as zeros.
    pub(super) fn resize(&mut self, len: u64) {
        let shorter = len < self.len;
        self.len = len;
        if shorter {
            self.reserved = self.reserved.min(len.div_ceil(PAGE));
            self.trim();
        }
    }

    /// Allocates all pages up to the end of a range.
    pub(super) fn reserve(&mut self, offset: u64, len: u64) {
        self.reserved = self.reserved.max((offset + len).div_ceil(PAGE));
        self.beyond = self.pages.range(self.reserved..).count() as u64;
    }

    /// Removes the bytes beyond the end.
    pub(super) fn trim(&mut self) {
        self.pages.split_off(&self.len.div_ceil(PAGE));
        let within = (self.len % PAGE) as usize;
        if within > 0
            && let Some(page) = self.pages.get_mut(&(self.len / PAGE))
            && page[within..].iter().any(|byte| *byte != 0)
        {
            Arc::make_mut(page)[within..].fill(0);
        }
        self.beyond = self.pages.range(self.reserved..).count() as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_back_and_holes_are_zeros() {
        let mut content = Content::default();
        content.write(PAGE - 2, b"abcd");
        assert_eq!(content.len(), PAGE + 2);
        assert_eq!(content.read(PAGE - 3, 100), b"\0abcd");
        assert_eq!(content.read(PAGE + 2, 100), b"");
        assert_eq!(content.read(PAGE + 20, 100), b"");
        assert_eq!(content.pages(), 2);
        assert_eq!(content.pages_missing(0, 3 * PAGE), 1);
    }

    #[test]
    fn what_was_cut_off_never_comes_back() {
        let mut content = Content::default();
        content.write(0, &[7; 3 * PAGE as usize]);
        content.resize(10);
        content.resize(2 * PAGE);
        assert_eq!(content.read(0, 12), [7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0]);
        assert!(content.read(PAGE, PAGE).iter().all(|byte| *byte == 0));
        assert_eq!(content.pages(), 1);
    }

    #[test]
    fn a_copy_does_not_change_with_the_original() {
        let mut content = Content::default();
        content.write(0, b"one");
        let copy = content.clone();
        content.write(0, b"two");
        assert_eq!((copy.read(0, 9), content.read(0, 9)), (b"one".to_vec(), b"two".to_vec()));
    }

    #[test]
    fn reserved_pages_count_whether_written_or_not() {
        let mut content = Content::default();
        content.reserve(0, 10 * PAGE);
        content.resize(10 * PAGE);
        assert_eq!(content.pages(), 10);
        assert_eq!(content.pages_missing(0, 10 * PAGE), 0);
        content.write(0, &[1; PAGE as usize]);
        content.write(11 * PAGE, b"x");
        assert_eq!(content.pages(), 11);
        content.resize(PAGE);
        assert_eq!(content.pages(), 1);
    }
}
