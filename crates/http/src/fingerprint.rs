//! [`fingerprint`]: tells whether two requests with one `Idempotency-Key` are the same request.

use raftkv_kv::{Command, Precondition};

/// A hash of what a request does, kept beside its outcome for as long as that is kept.
///
/// FNV-1a with 64 bits over: one byte for the kind of command (1 set, 2 delete); the key and, for a set, the value's
/// MsgPack bytes, each after its length as 8 bytes, least significant first; the expiry as 8 bytes; one byte for the
/// precondition (0 none, 1 absent, 2 present, 3 revision) and the revision as 8 bytes. It must never change: records
/// outlive versions. It guards against mistakes, not against a client that attacks itself.
pub(crate) fn fingerprint(command: &Command, precondition: Option<Precondition>) -> u64 {
    let mut hash = Fnv1a::new();
    match command {
        Command::Set { key, value, expires_at_ms } => {
            hash.write(&[1]);
            hash.write_sized(key.as_bytes());
            hash.write_sized(value.as_msgpack());
            hash.write(&expires_at_ms.to_le_bytes());
        }
        Command::Delete { key } => {
            hash.write(&[2]);
            hash.write_sized(key.as_bytes());
        }
    }
    match precondition {
        None => hash.write(&[0]),
        Some(Precondition::Absent) => hash.write(&[1]),
        Some(Precondition::Present) => hash.write(&[2]),
        Some(Precondition::Revision(revision)) => {
            hash.write(&[3]);
            hash.write(&revision.to_le_bytes());
        }
    }
    hash.0
}

/// FNV-1a, 64 bits: <http://www.isthe.com/chongo/tech/comp/fnv/>.
pub(crate) struct Fnv1a(pub(crate) u64);

impl Fnv1a {
    pub(crate) fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    }

    pub(crate) fn write_sized(&mut self, bytes: &[u8]) {
        self.write(&(bytes.len() as u64).to_le_bytes());
        self.write(bytes);
    }
}

#[cfg(test)]
mod tests {
    use raftkv_kv::{Key, Value};

    use super::*;

    fn set(key: &'static str, value: &'static [u8]) -> Command {
        Command::Set { key: Key::from_stored(key), value: Value::from_stored(value), expires_at_ms: 0 }
    }

    #[test]
    fn the_hash_is_fnv_1a() {
        let hash = |bytes: &[u8]| {
            let mut hash = Fnv1a::new();
            hash.write(bytes);
            hash.0
        };
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn whatever_differs_shows() {
        let all = [
            fingerprint(&set("a", b"\xa1b"), None),
            fingerprint(&set("a", b"\xa1c"), None),
            fingerprint(&set("b", b"\xa1b"), None),
            fingerprint(&set("a", b"\xa1b"), Some(Precondition::Absent)),
            fingerprint(&set("a", b"\xa1b"), Some(Precondition::Present)),
            fingerprint(&set("a", b"\xa1b"), Some(Precondition::Revision(1))),
            fingerprint(&set("a", b"\xa1b"), Some(Precondition::Revision(2))),
            fingerprint(&Command::Delete { key: Key::from_stored("a") }, None),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn it_is_the_same_in_every_version() {
        assert_eq!(fingerprint(&set("greeting", b"\xa5hello"), None), FROZEN);
    }

    /// Computed by another program from the description above.
    const FROZEN: u64 = 0x52be_e5ef_55d5_62e8;
}
