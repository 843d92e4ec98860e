//! Slots: the mapping of keys to partitions of the key space.

/// Number of slots, as in Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// Returns the slot of a key: CRC16 (XMODEM) of the key, or of the hash tag, modulo [`SLOTS`].
///
/// The hash tag is the text between the first `{` and the next `}`, if not empty, so `{user1}.name` and `{user1}.cart`
/// share a slot. Source: the Redis Cluster specification, "Key distribution model".
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOTS
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|&b| b == b'{')?;
    let rest = &key[open + 1..];
    let close = rest.iter().position(|&b| b == b'}')?;
    (close > 0).then(|| &rest[..close])
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut i = 0;
    while i < 256 {
        let mut crc = (i as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[i] = crc;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_vector_of_the_redis_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(slot_of(b"foo"), 12182);
    }

    #[test]
    fn a_hash_tag_decides_alone() {
        assert_eq!(slot_of(b"{user1}.name"), slot_of(b"{user1}.cart"));
        assert_eq!(slot_of(b"{user1}.name"), slot_of(b"user1"));
        assert_eq!(slot_of(b"foo{bar}{zap}"), slot_of(b"bar"));
        assert_eq!(slot_of(b"foo{{bar}}zap"), slot_of(b"{bar"));
        assert_ne!(slot_of(b"foo{}{bar}"), slot_of(b"bar"), "an empty tag counts as none");
    }
}
