//! Encoding of replicated data: round trips, random bytes, and backward compatibility.

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use raftkv_kv::{
    AdmissionError, Answer, Batch, BatchRef, CodecError, Command, CommandRef, Ended, FORMAT_VERSION, FencePoint,
    Idempotency, ImportPage, ImportRecord, Incoming, Key, MAX_CLOCK_MS, MAX_IDEMPOTENCY_KEEP_MS,
    MAX_IDEMPOTENCY_KEY_BYTES, MAX_IMPORT_KEY_BYTES, Op, OpRef, Outcome, Outgoing, Ownership, Precondition, Proposal,
    ProposalRef, PurgeState, Refusal, SLOTS, SlotSet, SlotTimes, SystemAnswer, SystemCommand, Value, admit,
    check_applicable, slot_of,
};

fn any_bytes(max: usize) -> impl Strategy<Value = Bytes> {
    prop::collection::vec(any::<u8>(), 1..max).prop_map(Bytes::from)
}

fn any_command() -> impl Strategy<Value = Command> {
    prop_oneof![
        (any_bytes(300), any_bytes(70_000), any::<u64>()).prop_map(|(key, value, expires_at_ms)| Command::Set {
            key: Key::from_stored(key),
            value: Value::from_stored(value),
            expires_at_ms,
        }),
        any_bytes(300).prop_map(|key| Command::Delete { key: Key::from_stored(key) }),
    ]
}

fn any_op() -> impl Strategy<Value = Op> {
    let precondition = prop_oneof![
        Just(Precondition::Absent),
        Just(Precondition::Present),
        any::<u64>().prop_map(Precondition::Revision),
    ];
    let idempotency = (any_bytes(255), any::<u64>(), any::<u64>())
        .prop_map(|(key, fingerprint, keep_ms)| Idempotency { key, fingerprint, keep_ms });
    (any_command(), prop::option::of(precondition), prop::option::of(idempotency))
        .prop_map(|(command, precondition, idempotency)| Op { command, precondition, idempotency })
}

fn any_proposal() -> impl Strategy<Value = Proposal> {
    let batch = (any::<u64>(), any::<u64>(), any::<u64>(), prop::collection::vec(any_op(), 0..8)).prop_map(
        |(session, sequence, acknowledged_below, ops)| {
            Proposal::Batch(Batch { session, sequence, acknowledged_below, ops })
        },
    );
    prop_oneof![1 => Just(Proposal::OpenSession), 9 => batch]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    let plain = prop_oneof![
        (any::<u64>(), any::<bool>()).prop_map(|(revision, created)| Outcome::Set { revision, created }),
        (any::<u64>(), any::<bool>()).prop_map(|(revision, existed)| Outcome::Deleted { revision, existed }),
        any::<u64>().prop_map(|current| Outcome::PreconditionFailed { current }),
        Just(Outcome::IdempotencyMismatch),
        Just(Outcome::WrongGroup),
    ];
    (plain, any::<bool>()).prop_map(
        |(outcome, replayed)| {
            if replayed { Outcome::Replayed(Box::new(outcome)) } else { outcome }
        },
    )
}

fn any_answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        any::<u64>().prop_map(|session| Answer::SessionOpened { session }),
        prop::collection::vec(any_outcome(), 0..20).prop_map(Answer::Applied),
        Just(Answer::SessionExpired),
        Just(Answer::Stale),
    ]
}

proptest! {
    #[test]
    fn a_proposal_comes_back(proposal in any_proposal()) {
        prop_assert_eq!(Proposal::decode(&proposal.encode()).unwrap(), proposal);
    }

    /// Both types read and write the same bytes.
    #[test]
    fn a_borrowed_proposal_says_what_an_owned_one_does(proposal in any_proposal()) {
        let bytes = proposal.encode();
        let borrowed = ProposalRef::decode(&bytes).unwrap();
        prop_assert_eq!(borrowed.encode(), bytes.clone());
        if let Proposal::Batch(Batch { session, sequence, acknowledged_below, ops }) = &proposal {
            let (session, sequence, acknowledged_below) = (*session, *sequence, *acknowledged_below);
            let ops = ops.iter().map(OpRef::from).collect();
            let made = ProposalRef::Batch(BatchRef { session, sequence, acknowledged_below, ops });
            prop_assert_eq!(&made, &borrowed);
        }
    }

    #[test]
    fn an_answer_comes_back(answer in any_answer()) {
        prop_assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        let _ = Proposal::decode(&bytes);
        let _ = Answer::decode(&bytes);
        let versioned = [&[FORMAT_VERSION][..], &bytes].concat();
        prop_assert_eq!(Proposal::decode(&versioned).is_ok(), ProposalRef::decode(&versioned).is_ok());
        let _ = Answer::decode(&versioned);
    }

    #[test]
    fn a_damaged_proposal_never_panics(proposal in any_proposal(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = proposal.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        prop_assert_eq!(Proposal::decode(&bytes).is_ok(), ProposalRef::decode(&bytes).is_ok());
        prop_assert!(Proposal::decode(&bytes[..at]).is_err(), "a prefix is no proposal");
    }

    #[test]
    fn a_slot_is_below_the_number_of_slots_and_its_tag_decides(tag in "[a-z]{1,8}", key in any_bytes(64)) {
        prop_assert!(slot_of(&key) < SLOTS);
        let tagged = [b"{", tag.as_bytes(), b"}", &key[..]].concat();
        prop_assert_eq!(slot_of(&tagged), slot_of(tag.as_bytes()));
    }
}

#[test]
fn an_unknown_version_is_refused_loudly() {
    let mut bytes = Proposal::OpenSession.encode().to_vec();
    bytes[0] = FORMAT_VERSION + 1;
    let error = Proposal::decode(&bytes).unwrap_err();
    assert!(matches!(error, CodecError::UnknownVersion { found } if found == FORMAT_VERSION + 1), "{error}");
    assert!(matches!(Proposal::decode(&[]), Err(CodecError::Empty)));
}

/// Covers a complete value, the start of a value, and invalid MsgPack.
#[test]
fn bytes_after_a_message_are_refused() {
    for message in [Answer::Stale, Answer::Applied(vec![Outcome::WrongGroup]), Answer::SessionOpened { session: 300 }] {
        for first in 0..=u8::MAX {
            for rest in [&[][..], &[0], &[0x91]] {
                let bytes = [&message.encode()[..], &[first], rest].concat();
                let refused = Answer::decode(&bytes).unwrap_err();
                let extra = 1 + rest.len();
                assert!(
                    matches!(refused, CodecError::TrailingBytes { extra: found } if found == extra),
                    "{first:x} {rest:x?}: {refused}"
                );
            }
        }
    }
}

#[test]
fn answers_nested_without_end_do_not_exhaust_the_stack() {
    let step = [&[0x81, 0xa8][..], b"Replayed"].concat();
    let bytes = [vec![FORMAT_VERSION, 0x81, 0xa7], b"Applied\x91".to_vec(), step.repeat(100_000)].concat();
    assert!(matches!(Answer::decode(&bytes), Err(CodecError::Malformed(_))));
}

/// Written from the strict cluster version on, never below.
#[test]
fn what_the_strict_version_adds_comes_back_and_is_never_kept() {
    let rejected = Answer::Rejected { reason: "why".to_owned() };
    for answer in [Answer::Applied(vec![Outcome::OutcomesFull]), rejected] {
        assert_eq!(Answer::decode(&answer.encode()).unwrap(), answer);
    }
    let replayed = Answer::Applied(vec![Outcome::Replayed(Box::new(Outcome::OutcomesFull))]).encode();
    assert!(matches!(Answer::decode(&replayed), Err(CodecError::Malformed(_))));
}

/// A value of any type, as written by clients.
fn any_value() -> impl Strategy<Value = Vec<u8>> {
    use rmpv::Value as Tree;
    let leaf = prop_oneof![
        Just(Tree::Nil),
        any::<bool>().prop_map(Tree::from),
        any::<u64>().prop_map(Tree::from),
        any::<i64>().prop_map(Tree::from),
        any::<f64>().prop_map(Tree::from),
        ".{0,40}".prop_map(Tree::from),
        prop::collection::vec(any::<u8>(), 0..300).prop_map(Tree::Binary),
    ];
    let tree = leaf.prop_recursive(4, 32, 8, |inner| {
        let named = (".{0,8}".prop_map(Tree::from), inner.clone());
        prop_oneof![
            prop::collection::vec(inner, 0..8).prop_map(Tree::Array),
            prop::collection::vec(named, 0..8).prop_map(Tree::Map),
        ]
    });
    tree.prop_map(|tree| {
        let mut bytes = Vec::new();
        rmpv::encode::write_value(&mut bytes, &tree).unwrap();
        bytes
    })
}

/// An operation applied by every member.
fn sound_op() -> impl Strategy<Value = Op> {
    let key = (1..=u8::MAX, prop::collection::vec(any::<u8>(), 0..300)).prop_map(|(first, rest)| {
        let key = [&[first][..], &rest].concat();
        Key::from_stored(key)
    });
    let command = prop_oneof![
        3 => (key.clone(), any_value(), any::<u64>()).prop_map(|(key, value, expires_at_ms)| {
            Command::Set { key, value: Value::from_stored(value), expires_at_ms }
        }),
        1 => key.prop_map(|key| Command::Delete { key }),
    ];
    let idempotency = (any_bytes(MAX_IDEMPOTENCY_KEY_BYTES), any::<u64>(), 0..=MAX_IDEMPOTENCY_KEEP_MS)
        .prop_map(|(key, fingerprint, keep_ms)| Idempotency { key, fingerprint, keep_ms });
    (command, prop::option::of(idempotency)).prop_map(|(command, idempotency)| Op {
        command,
        precondition: None,
        idempotency,
    })
}

/// A defect making an operation inapplicable for some member or unreadable.
#[derive(Debug, Clone)]
enum Flaw {
    Key(Vec<u8>),
    Value(Vec<u8>),
    IdempotencyKey(usize),
    Keep(u64),
}

fn any_flaw() -> impl Strategy<Value = Flaw> {
    let key = prop_oneof![
        Just(Vec::new()),
        any_bytes(9).prop_map(|rest| [&[0][..], &rest].concat()),
        (1..9_usize).prop_map(|more| vec![b'k'; MAX_IMPORT_KEY_BYTES + more]),
    ];
    let value = prop_oneof![
        any_value().prop_map(|mut value| {
            value.pop();
            value
        }),
        (any_value(), any_bytes(4)).prop_map(|(value, more)| [&value[..], &more].concat()),
        Just(b"\xc1".to_vec()),
        Just(b"\xa2\xff\xff".to_vec()),
        Just(b"\xd4\x01\x00".to_vec()),
        (129..200_usize).prop_map(|depth| [vec![0x91; depth], vec![0xc0]].concat()),
    ];
    prop_oneof![
        key.prop_map(Flaw::Key),
        value.prop_map(Flaw::Value),
        (1..9_usize).prop_map(|more| Flaw::IdempotencyKey(MAX_IDEMPOTENCY_KEY_BYTES + more)),
        (MAX_IDEMPOTENCY_KEEP_MS + 1..=u64::MAX).prop_map(Flaw::Keep),
    ]
}

fn flawed(op: Op, flaw: Flaw) -> Op {
    let set = |key: &[u8], value: &[u8]| Command::Set {
        key: Key::from_stored(key.to_vec()),
        value: Value::from_stored(value.to_vec()),
        expires_at_ms: 0,
    };
    let kept = |bytes: usize, keep_ms| Some(Idempotency { key: vec![7; bytes].into(), fingerprint: 1, keep_ms });
    match flaw {
        Flaw::Key(key) => Op { command: set(&key, b"\xc0"), ..op },
        Flaw::Value(value) => Op { command: set(b"k", &value), ..op },
        Flaw::IdempotencyKey(bytes) => Op { idempotency: kept(bytes, 1), ..op },
        Flaw::Keep(keep_ms) => Op { idempotency: kept(1, keep_ms), ..op },
    }
}

fn in_a_batch(ops: Vec<Op>) -> Bytes {
    Proposal::Batch(Batch { session: 1, sequence: 1, acknowledged_below: 0, ops }).encode()
}

/// Checks an admitted proposal by independent rules.
fn is_sound(admitted: &ProposalRef<'_>) -> Result<(), TestCaseError> {
    match admitted {
        ProposalRef::OpenSession => {}
        ProposalRef::Batch(batch) => {
            prop_assert!(check_applicable(&batch.ops).is_ok());
            for op in &batch.ops {
                let key = op.command.key();
                prop_assert!((1..=MAX_IMPORT_KEY_BYTES).contains(&key.len()) && key[0] != 0, "{key:?}");
                if let CommandRef::Set { value, .. } = op.command {
                    let mut rest = value;
                    prop_assert!(rmpv::decode::read_value(&mut rest).is_ok() && rest.is_empty(), "{value:?}");
                }
                if let Some(idempotency) = &op.idempotency {
                    prop_assert!(idempotency.key.len() <= 1_024 && idempotency.keep_ms <= 86_400_000);
                }
            }
        }
        ProposalRef::System(command) => match command {
            SystemCommand::CommitImport { revision, clock_ms, times, .. } => {
                prop_assert!(*revision < 1 << 53 && *clock_ms <= MAX_CLOCK_MS);
                prop_assert!(times.iter().all(|time| time.time_ms <= MAX_CLOCK_MS));
            }
            SystemCommand::Import { records, .. } => prop_assert!(ImportPage::decode(records).is_ok()),
            SystemCommand::RaiseVersion { .. } => prop_assert!(false, "a version is raised by the leader only"),
            _ => {}
        },
    }
    // Members will read the same proposal.
    let again = admitted.encode();
    prop_assert_eq!(&ProposalRef::decode(&again).unwrap(), admitted);
    prop_assert!(admit(&again).is_ok());
    Ok(())
}

proptest! {
    /// Admission accepts exactly the proposals applied by members.
    #[test]
    fn what_is_admitted_is_applied(
        ops in prop::collection::vec(sound_op(), 1..6),
        at in any::<prop::sample::Index>(),
        flaw in any_flaw(),
    ) {
        let bytes = in_a_batch(ops.clone());
        let admitted = admit(&bytes);
        prop_assert!(admitted.is_ok(), "{:?}", admitted.err());
        let admitted = admitted.unwrap();
        prop_assert_eq!(admitted.encode(), bytes.clone());
        is_sound(&admitted)?;

        let version = [&[FORMAT_VERSION + 1][..], &bytes[1..]].concat();
        let is_undecodable = matches!(admit(&version), Err(AdmissionError::Undecodable(_)));
        prop_assert!(is_undecodable);

        let mut ops = ops;
        let at = at.index(ops.len());
        ops[at] = flawed(ops[at].clone(), flaw.clone());
        prop_assert!(admit(&in_a_batch(ops)).is_err(), "{flaw:?} was admitted");
    }

    /// Covers damaged bytes and arbitrary bytes.
    #[test]
    fn admission_never_panics_and_what_it_lets_pass_is_sound(
        (sound, damage) in (
            prop_oneof![
                prop::collection::vec(sound_op(), 0..4).prop_map(in_a_batch),
                prop::sample::select(golden_system_commands())
                    .prop_map(|(_, command)| Proposal::System(command).encode()),
                prop::collection::vec(any::<u8>(), 0..256).prop_map(|bytes| [&[FORMAT_VERSION][..], &bytes].concat().into()),
            ],
            prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        ),
    ) {
        let mut bytes = sound.to_vec();
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(admitted) = admit(&bytes) {
            is_sound(&admitted)?;
        }
    }
}

fn golden_proposals() -> Vec<(&'static str, Proposal)> {
    let key = |text: &'static str| Key::from_stored(text.as_bytes());
    let ops = vec![
        Op::from(Command::Set { key: key("greeting"), value: Value::from_stored(&b"\xa5hello"[..]), expires_at_ms: 0 }),
        Op {
            command: Command::Set {
                key: Key::from_stored(&b"\xff\x00raw"[..]),
                value: Value::from_stored(&b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00"[..]),
                expires_at_ms: 1_700_000_000_000,
            },
            precondition: Some(Precondition::Revision(u64::MAX)),
            idempotency: Some(Idempotency {
                key: Bytes::from_static(b"order-17/0"),
                fingerprint: 0x0123_4567_89ab_cdef,
                keep_ms: 86_400_000,
            }),
        },
        Op {
            command: Command::Delete { key: key("gone") },
            precondition: Some(Precondition::Present),
            idempotency: None,
        },
        Op {
            command: Command::Set { key: key("new"), value: Value::from_stored(&b"\xc0"[..]), expires_at_ms: 0 },
            precondition: Some(Precondition::Absent),
            idempotency: None,
        },
    ];
    let batch = Batch { session: 7, sequence: 300, acknowledged_below: 298, ops };
    vec![("proposal-open-session", Proposal::OpenSession), ("proposal-batch", Proposal::Batch(batch))]
}

fn golden_system_commands() -> Vec<(&'static str, SystemCommand)> {
    let slots: SlotSet = "0-99,5461,16383".parse().unwrap();
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    vec![
        ("put-key", SystemCommand::PutKey { key: bytes("cluster"), expected_version: 3, value: bytes("{}") }),
        ("adopt", SystemCommand::Adopt { store: 0x0123_4567_89ab_cdef, group: 2, keep: true }),
        ("claim", SystemCommand::Claim { id: 4, slots: slots.clone() }),
        ("disown", SystemCommand::Disown { id: 5, slots: slots.clone() }),
        ("begin-import", SystemCommand::BeginImport { id: 6, slots: slots.clone(), version: 1 }),
        ("import", SystemCommand::Import { id: 6, page: 1, cursor: bytes("next"), records: golden_page().encode() }),
        (
            "commit-import",
            SystemCommand::CommitImport {
                id: 6,
                pages: 2,
                revision: 70_000,
                clock_ms: 1_700_000_000_000,
                times: Vec::new(),
            },
        ),
        ("abort-import", SystemCommand::AbortImport { id: 7 }),
        ("begin-export", SystemCommand::BeginExport { id: 6, slots, version: 1 }),
        ("fence", SystemCommand::Fence { id: 6 }),
        ("abort-export", SystemCommand::AbortExport { id: 7 }),
        ("release", SystemCommand::Release { id: 6 }),
        ("purge", SystemCommand::Purge { limit: 1_000 }),
    ]
}

fn golden_page() -> ImportPage {
    let key = Bytes::from_static(b"{tag}key");
    let value = ImportRecord::Value {
        key: key.clone(),
        revision: 9,
        create_revision: 8,
        expires_at_ms: 1_700_000_000_000,
        value: Bytes::from_static(b"\xa5hello"),
    };
    let kept = ImportRecord::Idempotency {
        slot: 16_383,
        key: Bytes::from_static(b"order-17"),
        fingerprint: u64::MAX,
        expires_at_ms: 1_700_000_000_001,
        outcome: Outcome::Deleted { revision: 3, existed: true },
    };
    ImportPage { records: vec![value, ImportRecord::Absent { key }, kept] }
}

fn golden_ownership() -> Ownership {
    let point = FencePoint { changes: 4, revision: 5, clock_ms: 6 };
    let slots = |text: &str| text.parse::<SlotSet>().unwrap();
    Ownership {
        store: 0x0123_4567_89ab_cdef,
        group: 2,
        owned: slots("0-99"),
        last_move: 8,
        outgoing: Some(Outgoing { id: 7, slots: slots("1-2"), fence: Some(point), changes: 4 }),
        incoming: Some(Incoming { id: 8, slots: slots("200"), pages: 3, cursor: Bytes::from_static(b"c") }),
        last_import: Some(Ended { id: 6, committed: true }),
        last_export: Some(Ended { id: 5, committed: false }),
        purge: Some(PurgeState { slots: slots("300-301"), cursor: Bytes::new() }),
        times: SlotTimes::default(),
    }
}

fn golden_refusals() -> Vec<Refusal> {
    vec![
        Refusal::Version { version: 4 },
        Refusal::TooLarge { bytes: 9, limit: 8 },
        Refusal::NotAdopted,
        Refusal::OtherIdentity { store: 1, group: 2 },
        Refusal::NotEmpty { keys: 3 },
        Refusal::NotOwned,
        Refusal::Owned,
        Refusal::PurgePending,
        Refusal::Busy { id: 5 },
        Refusal::Committed,
        Refusal::Aborted,
        Refusal::Unknown,
        Refusal::Step("not fenced".to_owned()),
        Refusal::Page { next_page: 6 },
        Refusal::Malformed("why".to_owned()),
    ]
}

fn golden_system_answers() -> Vec<(String, Answer)> {
    let answers = [
        ("done", SystemAnswer::Done),
        ("key-put", SystemAnswer::KeyPut { version: 4 }),
        ("fenced", SystemAnswer::Fenced { changes: 1, revision: 2, clock_ms: 3, times: Vec::new() }),
        ("imported", SystemAnswer::Imported { next_page: 2 }),
        ("purged", SystemAnswer::Purged { removed: 7, done: true }),
    ];
    let answers = answers.into_iter().map(|(name, answer)| (format!("answer-system-{name}"), answer));
    let refusals = golden_refusals().into_iter().enumerate();
    let refusals = refusals.map(|(at, why)| (format!("answer-system-refused-{at}"), SystemAnswer::Refused(why)));
    answers.chain(refusals).map(|(name, answer)| (name, Answer::System(answer))).collect()
}

fn golden_answers() -> Vec<(&'static str, Answer)> {
    let outcomes = vec![
        Outcome::Set { revision: 1, created: true },
        Outcome::Set { revision: u64::MAX, created: false },
        Outcome::Deleted { revision: 70_000, existed: true },
        Outcome::Deleted { revision: 0, existed: false },
        Outcome::PreconditionFailed { current: 42 },
        Outcome::IdempotencyMismatch,
        Outcome::WrongGroup,
        Outcome::Replayed(Box::new(Outcome::Set { revision: 9, created: true })),
    ];
    vec![
        ("answer-session-opened", Answer::SessionOpened { session: 7 }),
        ("answer-applied", Answer::Applied(outcomes)),
        ("answer-session-expired", Answer::SessionExpired),
        ("answer-stale", Answer::Stale),
    ]
}

/// Returns the fixture, written if missing. Fixtures are never overwritten: a format change gets a new version and a
/// new directory.
fn golden(name: &str, encoded: &[u8]) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1/{name}.bin"));
    if std::env::var_os("RAFTKV_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, encoded).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
}

#[test]
fn version_1_is_frozen() {
    for (name, proposal) in golden_proposals() {
        let bytes = golden(name, &proposal.encode());
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal, "{name} reads differently");
        assert_eq!(proposal.encode(), bytes, "{name} is written differently");
    }
    for (name, command) in golden_system_commands() {
        let (name, proposal) = (format!("proposal-system-{name}"), Proposal::System(command));
        let bytes = golden(&name, &proposal.encode());
        assert_eq!(Proposal::decode(&bytes).unwrap(), proposal, "{name} reads differently");
        assert_eq!(proposal.encode(), bytes, "{name} is written differently");
    }
    let answers = golden_answers().into_iter().map(|(name, answer)| (name.to_owned(), answer));
    for (name, answer) in answers.chain(golden_system_answers()) {
        let bytes = golden(&name, &answer.encode());
        assert_eq!(Answer::decode(&bytes).unwrap(), answer, "{name} reads differently");
        assert_eq!(answer.encode(), bytes, "{name} is written differently");
    }
    let (ownership, page) = (golden_ownership(), golden_page());
    let bytes = golden("ownership", &ownership.encode());
    assert_eq!((Ownership::decode(&bytes).unwrap(), &*ownership.encode()), (ownership.clone(), &*bytes));
    let bytes = golden("import-page", &page.encode());
    assert_eq!((ImportPage::decode(&bytes).unwrap(), &*page.encode()), (page.clone(), &*bytes));
}
