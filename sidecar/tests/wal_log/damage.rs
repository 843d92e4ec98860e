//! What was durable and is not what was written is an error that names the file, and nothing is changed or served.

use std::fs;

use raftkv_sidecar::wal::{ReadLimit, Wal, WalError};

use super::support::*;

fn fails(dir: &std::path::Path, what: &str) -> WalError {
    match Wal::open(options(dir, SAMPLE_SEGMENT)) {
        Ok(wal) => panic!("{what}: opened, and says {:?}", dump(&wal)),
        Err(error) => error,
    }
}

#[test]
fn every_flipped_bit_is_refused() {
    let sample = Sample::new();
    for (number, path) in segments(sample.dir.path()).iter().enumerate() {
        let used = sample.ends.iter().rev().find(|end| end.segment == number).unwrap().offset;
        let file = open_file(path);
        let bytes = fs::read(path).unwrap();
        for bit in 0..used * 8 {
            let (byte, mask) = (bit / 8, 1_u8 << (bit % 8));
            let flipped = bytes[byte as usize] ^ mask;
            std::os::unix::fs::FileExt::write_all_at(&file, &[flipped], byte).unwrap();
            let error = fails(sample.dir.path(), &format!("segment {number}, bit {bit}"));
            assert!(error.is_damage(), "segment {number}, bit {bit}: {error}");
            std::os::unix::fs::FileExt::write_all_at(&file, &[bytes[byte as usize]], byte).unwrap();
        }
        assert!(fs::read(path).unwrap() == bytes, "a refused start changes nothing");
    }
    let wal = Wal::open(options(sample.dir.path(), SAMPLE_SEGMENT)).unwrap();
    assert_eq!(dump(&wal), sample.ends.last().unwrap().dump);
}

#[test]
fn an_older_segment_cut_short_is_refused() {
    let sample = Sample::new();
    for number in 0..2 {
        let used = sample.ends.iter().rev().find(|end| end.segment == number).unwrap().offset;
        for cut in 0..used {
            let dir = copy(sample.dir.path());
            open_file(&segments(dir.path())[number]).set_len(cut).unwrap();
            let error = fails(dir.path(), &format!("segment {number} cut at {cut}"));
            assert!(error.is_damage(), "{error}");
        }
    }
}

#[test]
fn an_error_names_the_file_and_says_what_to_do() {
    let sample = Sample::new();
    let path = sample.last_segment();
    overwrite(&path, 60, b"?");
    let error = fails(sample.dir.path(), "damaged").to_string();
    assert!(error.contains(path.to_str().unwrap()), "{error}");
    assert!(error.contains("byte 40") && error.contains("wipe its data directory"), "{error}");
}

#[test]
fn missing_and_misplaced_segments_are_refused() {
    let sample = Sample::new();
    for missing in 0..2 {
        let dir = copy(sample.dir.path());
        fs::remove_file(&segments(dir.path())[missing]).unwrap();
        assert!(fails(dir.path(), "missing segment").is_damage());
    }
    let dir = copy(sample.dir.path());
    for path in segments(dir.path()) {
        fs::remove_file(path).unwrap();
    }
    assert!(fails(dir.path(), "no segment").is_damage());

    let dir = copy(sample.dir.path());
    let paths = segments(dir.path());
    fs::copy(&paths[1], &paths[2]).unwrap();
    assert!(fails(dir.path(), "a segment under another's name").is_damage());

    let dir = copy(sample.dir.path());
    let other = Sample::new();
    fs::copy(other.last_segment(), &segments(dir.path())[2]).unwrap();
    let error = fails(dir.path(), "another log's segment");
    assert!(error.to_string().contains("another log"), "{error}");
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let sample = Sample::new();
    let path = sample.last_segment();
    let mut header = fs::read(&path).unwrap()[..40].to_vec();
    header[8] = 2;
    let crc = crc32c::crc32c(&header[..32]);
    header[32..36].copy_from_slice(&crc.to_le_bytes());
    overwrite(&path, 0, &header);
    match fails(sample.dir.path(), "version 2") {
        WalError::UnsupportedVersion { file, found, known } => {
            assert_eq!((file, found, known), (path, 2, 1))
        }
        error => panic!("{error}"),
    }
}

#[test]
fn damage_under_a_running_log_is_not_served() {
    let sample = Sample::new();
    let wal = Wal::open(options(sample.dir.path(), SAMPLE_SEGMENT)).unwrap();
    let path = sample.last_segment();
    let bytes = fs::read(&path).unwrap();
    let last = sample.last_frame();
    let mut refused = 0;
    for byte in last.clone() {
        overwrite(&path, byte, &[bytes[byte as usize] ^ 0x10]);
        match wal.read(10..11, ReadLimit::NONE).load() {
            // The frame's own fields and the record of the committed position are not read here.
            Ok(entries) => assert_eq!(entries, [entry(2, 10, 33)]),
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                refused += 1;
            }
        }
        overwrite(&path, byte, &[bytes[byte as usize]]);
    }
    assert_eq!(refused, 44 + 8 + 33, "every byte of the entry's record counts");
}
