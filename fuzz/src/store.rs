//! Snapshots as they are received: frames, and the records in them.

#[path = "../../crates/store/src/frame.rs"]
mod frame;
#[path = "../../crates/store/src/layout.rs"]
mod layout;
#[path = "../../crates/store/src/meta.rs"]
mod meta;
#[path = "../../crates/store/src/record.rs"]
mod record;
#[path = "../../crates/store/src/types.rs"]
mod types;

use frame::{FrameReader, FrameWriter};
use meta::Meta;
use record::{DataRecord, IdempotencyRecord, SessionRecord, SystemRecord};
use types::Position;

/// The errors that decoding has, of all that the store has.
#[derive(Debug)]
pub enum StoreError {
    /// Stored bytes are damaged.
    Corrupt(String),
    /// Written by another version.
    Unsupported(String),
}

/// Bytes before a frame's block.
const HEADER: usize = 12;

/// A frame around any block, with the checksum that belongs to it.
pub fn around_block(raw_len: u32, block: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER + block.len());
    frame.extend_from_slice(&raw_len.to_le_bytes());
    frame.extend_from_slice(&(block.len() as u32).to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&frame), block);
    frame.extend_from_slice(&crc.to_le_bytes());
    frame.extend_from_slice(block);
    frame
}

/// A frame around any bytes where records should be. Whatever can be taken for a record gets its checksum.
pub fn around_records(raw: &[u8]) -> Vec<u8> {
    let mut raw = raw.to_vec();
    let mut at = 0;
    while let Some(lengths) = raw.get(at..at + 8) {
        let key_len = u32::from_le_bytes([lengths[0], lengths[1], lengths[2], lengths[3]]) as usize;
        let record_len = u32::from_le_bytes([lengths[4], lengths[5], lengths[6], lengths[7]]) as usize;
        let key = at + 8..(at + 8).saturating_add(key_len);
        let record = key.end..key.end.saturating_add(record_len);
        if record.end > raw.len() {
            break;
        }
        if record_len >= 4 {
            let crc = crc32c::crc32c_append(crc32c::crc32c(&raw[key]), &raw[record.start + 4..record.end]);
            raw[record.start..record.start + 4].copy_from_slice(&crc.to_le_bytes());
        }
        at = record.end;
    }
    around_block(raw.len() as u32, &lz4_flex::block::compress(&raw))
}

/// Receives a frame, as the engine does. What is taken comes back from a frame of our own; says how many records there were.
pub fn receive(frame: &[u8]) -> Option<usize> {
    let mut reader = FrameReader::open(frame).ok()?;
    let raw = reader.raw().to_vec();
    let mut writer = FrameWriter::default();
    let mut bytes = 0;
    let mut records = 0;
    loop {
        match reader.next_record() {
            Ok(Some((key, record))) => {
                bytes += 8 + key.len() + record.len();
                records += 1;
                writer.push(key, record);
                parse(key, record);
            }
            Ok(None) => break,
            Err(_) => return None,
        }
    }
    assert_eq!(bytes, raw.len(), "bytes of a frame belong to no record");
    if let Some(written) = writer.take() {
        let again = FrameReader::open(&written).expect("a frame of ours is read");
        assert_eq!(again.raw(), raw, "other records come back");
        assert_eq!(writer.crc32c, crc32c::crc32c(&raw));
    }
    Some(records)
}

/// Reads a record by its class, as receiving a snapshot does. What is read comes back from a record of our own.
fn parse(key: &[u8], record: &[u8]) {
    if key == layout::META_KEY {
        if let Ok(meta) = Meta::open(record) {
            assert_eq!(Meta::open(&meta.seal()).expect("a meta record of ours is read"), meta);
            meta.state_hash();
        }
        return;
    }
    if record::check(key, record).is_err() {
        return;
    }
    layout::slot_of_record(key);
    layout::answer_of(key);
    match key.first() {
        Some(&layout::DATA) => {
            if let Ok(data) = DataRecord::parse(key, record.into()) {
                let (revision, created, expires) = (data.revision, data.create_revision, data.expires_at_ms);
                let len = data.value_len();
                let value = data.into_value();
                assert_eq!(len, value.len());
                let sealed = DataRecord::seal(key, revision, created, expires, &value);
                assert_eq!(&*sealed, record, "another record comes back");
            }
        }
        Some(&layout::SESSION) => {
            if let Ok(session) = SessionRecord::parse(key, record) {
                assert_eq!(SessionRecord::parse(key, &session.seal(key)).expect("a session of ours is read"), session);
            }
        }
        Some(&layout::IDEMPOTENCY) => {
            if let Ok(kept) = IdempotencyRecord::parse(key, record) {
                let sealed = kept.seal(key);
                assert_eq!(IdempotencyRecord::parse(key, &sealed).expect("an outcome of ours is read"), kept);
                let expiry = IdempotencyRecord::expiry_of(key, &sealed);
                assert_eq!(expiry.expect("it has an expiry"), kept.expires_at_ms);
            }
        }
        Some(&layout::SYSTEM) => {
            if let Ok(document) = SystemRecord::parse(key, record) {
                let sealed = SystemRecord::seal(key, document.version, &document.value);
                assert_eq!(&*sealed, record, "another document comes back");
            }
        }
        Some(&layout::OWNERSHIP) => {
            let body = record::check(key, record).expect("it was checked");
            if let Ok(ownership) = raftkv_kv::Ownership::decode(body) {
                assert_eq!(raftkv_kv::Ownership::decode(&ownership.encode()).expect("it is read again"), ownership);
            }
        }
        _ => {}
    }
}
