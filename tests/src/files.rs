//! File sizes and log files on disk.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Block size in `stat`, for every file system.
const BLOCK_BYTES: u64 = 512;

/// Bytes allocated on disk below `path`, as counted by `du`. Files removed during the count are left out.
pub fn allocated_bytes(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let own = meta.blocks() * BLOCK_BYTES;
    let Ok(entries) = fs::read_dir(path) else { return own };
    own + entries.flatten().map(|entry| allocated_bytes(&entry.path())).sum::<u64>()
}

/// The last lines of a text file; empty without a file.
pub fn tail(path: &Path, lines: usize) -> String {
    let Ok(file) = File::open(path) else { return String::new() };
    let mut last = VecDeque::new();
    for line in BufReader::new(file).lines().map_while(Result::ok) {
        if last.len() == lines {
            last.pop_front();
        }
        last.push_back(line);
    }
    Vec::from(last).join("\n")
}
