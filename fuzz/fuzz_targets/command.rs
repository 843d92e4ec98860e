//! What is replicated: proposals, answers, pages of a move, ownership.
//!
//! What is decoded comes back from its encoding, and is encoded in one way only. (It need not be the input: MsgPack can say
//! a number in several ways, and only we write it in the shortest.) System commands are also applied.
#![no_main]

use libfuzzer_sys::fuzz_target;
use raftkv_fuzz::memory::bounded;
use raftkv_kv::{
    AdmissionError, Answer, Effect, GroupFacts, ImportPage, MAX_CLOCK_MS, MAX_REVISION, Ownership, Proposal,
    ProposalRef, STRICT_VERSION, SystemCommand, admit, check_applicable,
};

/// A sequence may announce more than it has: the decoder then reserves up to 1 MiB.
const RESERVED: usize = 2 * 1024 * 1024;
/// Bytes in memory for one byte of the input: the smallest operation has 14 bytes, and is a few hundred in memory.
const FACTOR: usize = 64;

macro_rules! comes_back {
    ($type:ident, $bytes:expr) => {{
        let decoded = bounded($bytes.len(), RESERVED, FACTOR, || $type::decode($bytes)).ok();
        if let Some(message) = &decoded {
            let encoded = message.encode();
            let again = $type::decode(&encoded).expect("what was encoded is decoded");
            assert_eq!(&again, message, "another message comes back");
            assert_eq!(again.encode(), encoded, "one message is encoded in two ways");
            assert!($type::decode(&encoded[..encoded.len() - 1]).is_err(), "a part is taken for a whole");
        }
        decoded
    }};
}

/// Every group takes every command, whenever it comes, and stays one that can be stored.
fn apply(ownership: &Ownership, command: &SystemCommand) {
    for version in [2, STRICT_VERSION] {
        let facts = GroupFacts { revision: 7, clock_ms: 8, keys: 0, outcomes: 0, version };
        let mut next = ownership.clone();
        match next.apply(command.clone(), &facts) {
            Err(_) => assert_eq!(&next, ownership, "what is refused changes nothing"),
            Ok(Effect::Raise { revision, clock_ms }) if version == STRICT_VERSION => {
                assert!(revision <= MAX_REVISION && clock_ms <= MAX_CLOCK_MS);
            }
            Ok(_) => {}
        }
        assert_eq!(Ownership::decode(&next.encode()).expect("the ownership is decoded"), next);
        assert!(next.served().iter().all(|slot| next.serves(slot)));
    }
}

fuzz_target!(|bytes: &[u8]| {
    let proposal = comes_back!(Proposal, bytes);
    let borrowed = bounded(bytes.len(), RESERVED, FACTOR, || ProposalRef::decode(bytes)).ok();
    let (borrowed, owned) = (borrowed.map(|it| it.encode()), proposal.as_ref().map(Proposal::encode));
    assert_eq!(borrowed, owned, "a borrowed proposal is another one");
    // Only what is decoded is admitted, and what is admitted is applied.
    match bounded(bytes.len(), 2 * RESERVED, 2 * FACTOR, || admit(bytes)) {
        Ok(ProposalRef::Batch(batch)) => assert!(check_applicable(&batch.ops).is_ok()),
        Ok(_) => assert!(owned.is_some()),
        Err(AdmissionError::Undecodable(_)) => assert!(owned.is_none()),
        Err(_) => {}
    }
    comes_back!(Answer, bytes);
    comes_back!(ImportPage, bytes);
    let ownership = comes_back!(Ownership, bytes);
    if let Some(Proposal::System(command)) = proposal {
        let mut adopted = Ownership::default();
        let facts = GroupFacts { revision: 1, clock_ms: 2, keys: 3, outcomes: 4, version: 1 };
        adopted.apply(SystemCommand::Adopt { store: 5, group: 6, keep: true }, &facts).expect("a group is adopted");
        apply(&Ownership::default(), &command);
        apply(&adopted, &command);
        if let SystemCommand::Import { records, .. } = &command {
            comes_back!(ImportPage, records);
        }
    }
    if let Some(ownership) = ownership {
        for command in [SystemCommand::Purge { limit: 1 }, SystemCommand::Fence { id: ownership.last_move }] {
            apply(&ownership, &command);
        }
    }
});
