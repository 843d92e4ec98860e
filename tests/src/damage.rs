//! Simulated damage to files by disks and crashes.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

/// All regular files below a directory, sorted by path.
pub fn files_below(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("list {}", dir.display()))? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => found.extend(files_below(&entry.path())?),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found.sort();
    Ok(found)
}

/// Flips a bit.
pub fn flip_bit(file: &Path, offset: u64, bit: u8) -> anyhow::Result<()> {
    let mut open = open(file)?;
    let mut byte = [0];
    open.seek(SeekFrom::Start(offset))?;
    open.read_exact(&mut byte)?;
    byte[0] ^= 1 << (bit % 8);
    open.seek(SeekFrom::Start(offset))?;
    Ok(open.write_all(&byte)?)
}

/// Overwrites a part of a file.
pub fn overwrite(file: &Path, offset: u64, bytes: &[u8]) -> anyhow::Result<()> {
    let mut open = open(file)?;
    open.seek(SeekFrom::Start(offset))?;
    Ok(open.write_all(bytes)?)
}

/// Cuts a file short.
pub fn truncate(file: &Path, len: u64) -> anyhow::Result<()> {
    Ok(open(file)?.set_len(len)?)
}

/// Offset after the last nonzero byte: the end of the records in a preallocated file.
pub fn end_of_records(file: &Path) -> anyhow::Result<u64> {
    let bytes = fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    ensure!(end > 0, "{} holds nothing", file.display());
    Ok(end as u64)
}

fn open(file: &Path) -> anyhow::Result<File> {
    File::options().read(true).write(true).open(file).with_context(|| format!("open {}", file.display()))
}
