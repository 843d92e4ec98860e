//! [`admit`]: checks a payload before the leader appends a log entry; [`check_applicable`]: the subset of checks
//! repeated by every member on apply.
//!
//! Every member applies a log entry, permanently, so an inapplicable payload must be found before replication. If an
//! older version has appended such an entry anyway, all members reject the entry in the same way.

use crate::{
    CodecError, CommandRef, ImportPage, ImportRecord, Key, KeyError, Limits, MAX_CLOCK_MS, MAX_IMPORT_KEY_BYTES,
    MAX_REVISION, OpRef, Outcome, ProposalRef, Refusal, SystemCommand, Value, ValueError, check_document,
};

/// The cluster version with three stricter rules: all members reject an inapplicable payload in the same way; revisions
/// and clocks are bounded; and a keyed write is refused if keeping the outcome would require early deletion of another
/// outcome. Lower cluster versions behave as version 0.1.0, so a group of old and new processes keeps equal state.
pub const STRICT_VERSION: u32 = 3;

/// Maximum operations in one batch, far above the batch sizes of engines and routers: the apply thread applies a batch
/// without interruption.
pub const MAX_BATCH_OPS: usize = 100_000;
/// Maximum length of an admitted `Idempotency-Key` in bytes: four times the limit of the HTTP port
/// ([`Limits::max_idempotency_key_bytes`](crate::Limits)), to leave room for the position in a batch.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 1_024;
/// Maximum admitted retention time of an idempotency outcome in milliseconds: 24 hours, the value used by every HTTP
/// port. A group refuses new keyed writes while the table of outcomes is full, so the limit bounds the time a client
/// can fill the table. On apply, members accept longer times, capped by the state machine: an older version may have
/// admitted the entry.
pub const MAX_IDEMPOTENCY_KEEP_MS: u64 = 24 * 60 * 60 * 1_000;

/// The reason a payload is not proposed.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// No process of this version can decode the payload.
    #[error("not a proposal: {0}")]
    Undecodable(#[from] CodecError),
    /// More than [`MAX_BATCH_OPS`] operations.
    #[error("the batch has {ops} operations; the limit is {MAX_BATCH_OPS}")]
    TooManyOps {
        /// Number of operations.
        ops: usize,
    },
    /// The key cannot be stored.
    #[error("operation {at}: {source}")]
    Key {
        /// Index of the operation, from 0.
        at: usize,
        /// The error of the key.
        source: KeyError,
    },
    /// Longer than [`MAX_IDEMPOTENCY_KEY_BYTES`], or on apply than [`MAX_IMPORT_KEY_BYTES`].
    #[error("operation {at}: the idempotency key has {bytes} bytes; the limit is {limit}")]
    IdempotencyKey {
        /// Index of the operation, from 0.
        at: usize,
        /// Actual length.
        bytes: usize,
        /// Maximum length.
        limit: usize,
    },
    /// Longer than [`MAX_IDEMPOTENCY_KEEP_MS`].
    #[error("operation {at}: the outcome is to be kept for {keep_ms} ms; the limit is {MAX_IDEMPOTENCY_KEEP_MS}")]
    IdempotencyKeep {
        /// Index of the operation, from 0.
        at: usize,
        /// Requested retention time.
        keep_ms: u64,
    },
    /// The value is malformed.
    #[error("operation {at}: {source}")]
    Value {
        /// Index of the operation, from 0.
        at: usize,
        /// The error of the value.
        source: ValueError,
    },
    /// A sender cannot know whether all members can decode the command.
    #[error("the cluster version is raised by the leader of the group only")]
    RaisesVersion,
    /// A system command invalid in every state of a group.
    #[error("{0}")]
    System(#[from] Refusal),
}

impl AdmissionError {
    /// Whether the payload has too many operations or a too long idempotency key. `false` for other size errors.
    pub fn is_too_large(&self) -> bool {
        matches!(self, Self::TooManyOps { .. } | Self::IdempotencyKey { .. })
    }
}

/// Decodes a payload to propose for another process, and performs all checks not requiring the state of the group.
///
/// Scans every value, which takes about as long as copying the payload.
///
/// # Errors
/// The reason to reject the payload; nothing has changed.
pub fn admit(payload: &[u8]) -> Result<ProposalRef<'_>, AdmissionError> {
    let proposal = ProposalRef::decode(payload)?;
    match &proposal {
        ProposalRef::OpenSession => {}
        ProposalRef::System(SystemCommand::RaiseVersion { .. }) => return Err(AdmissionError::RaisesVersion),
        ProposalRef::System(command) => check_system(command)?,
        ProposalRef::Batch(batch) => {
            check_ops(&batch.ops, MAX_IDEMPOTENCY_KEY_BYTES)?;
            let limits = Limits::default();
            for (at, op) in batch.ops.iter().enumerate() {
                if let Some(idempotency) = &op.idempotency
                    && idempotency.keep_ms > MAX_IDEMPOTENCY_KEEP_MS
                {
                    return Err(AdmissionError::IdempotencyKeep { at, keep_ms: idempotency.keep_ms });
                }
                if let CommandRef::Set { value, .. } = op.command {
                    Value::check(value, limits.max_value_depth)
                        .map_err(|source| AdmissionError::Value { at, source })?;
                }
            }
        }
    }
    Ok(proposal)
}

/// Decides, from [`STRICT_VERSION`] on, whether a decoded batch is applied. Accepts every payload accepted by
/// [`admit`].
///
/// # Errors
/// The reason the batch cannot be stored.
pub fn check_applicable(ops: &[OpRef<'_>]) -> Result<(), AdmissionError> {
    check_ops(ops, MAX_IMPORT_KEY_BYTES)
}

fn check_ops(ops: &[OpRef<'_>], longest_idempotency_key: usize) -> Result<(), AdmissionError> {
    if ops.len() > MAX_BATCH_OPS {
        return Err(AdmissionError::TooManyOps { ops: ops.len() });
    }
    for (at, op) in ops.iter().enumerate() {
        Key::check_len(op.command.key(), MAX_IMPORT_KEY_BYTES).map_err(|source| AdmissionError::Key { at, source })?;
        let bytes = op.idempotency.as_ref().map_or(0, |idempotency| idempotency.key.len());
        if bytes > longest_idempotency_key {
            return Err(AdmissionError::IdempotencyKey { at, bytes, limit: longest_idempotency_key });
        }
    }
    Ok(())
}

/// Rejects a system command invalid in every state and cluster version.
fn check_system(command: &SystemCommand) -> Result<(), Refusal> {
    match command {
        SystemCommand::PutKey { key, value, .. } => check_document(key, value),
        SystemCommand::CommitImport { revision, clock_ms, times, .. } => {
            check_point(*revision, times.iter().map(|time| time.time_ms).fold(*clock_ms, u64::max))
        }
        SystemCommand::Import { records, .. } => {
            let page = ImportPage::decode(records).map_err(|error| Refusal::Malformed(error.to_string()))?;
            page.records.iter().try_for_each(check_record)
        }
        _ => Ok(()),
    }
}

/// Rejects a revision or a time above the bounds.
pub(crate) fn check_point(revision: u64, time_ms: u64) -> Result<(), Refusal> {
    for (what, found, most) in [("revision", revision, MAX_REVISION), ("time in milliseconds", time_ms, MAX_CLOCK_MS)] {
        if found > most {
            return Err(Refusal::Malformed(format!("the {what} is {found}; the highest is {most}")));
        }
    }
    Ok(())
}

/// Rejects a record, of a key or of an outcome, with a revision above the bound.
pub(crate) fn check_record(record: &ImportRecord) -> Result<(), Refusal> {
    let revision = match record {
        ImportRecord::Value { revision, .. } => *revision,
        ImportRecord::Idempotency { outcome, .. } => match outcome {
            Outcome::Set { revision, .. } | Outcome::Deleted { revision, .. } => *revision,
            Outcome::PreconditionFailed { current } => *current,
            Outcome::IdempotencyMismatch | Outcome::WrongGroup | Outcome::Replayed(_) | Outcome::OutcomesFull => 0,
        },
        ImportRecord::Absent { .. } => 0,
    };
    check_point(revision, 0)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{Batch, Command, Idempotency, Op, Proposal, SlotSet, SlotTime};

    fn batch(ops: Vec<Op>) -> Bytes {
        Proposal::Batch(Batch { session: 1, sequence: 1, acknowledged_below: 0, ops }).encode()
    }

    fn set(key: &[u8], value: &[u8]) -> Op {
        let (key, value) = (Key::from_stored(key.to_vec()), Value::from_stored(value.to_vec()));
        Command::Set { key, value, expires_at_ms: 0 }.into()
    }

    fn keyed(bytes: usize) -> Op {
        kept(bytes, MAX_IDEMPOTENCY_KEEP_MS)
    }

    fn kept(bytes: usize, keep_ms: u64) -> Op {
        let idempotency = Idempotency { key: vec![1; bytes].into(), fingerprint: 1, keep_ms };
        Op { idempotency: Some(idempotency), ..set(b"k", b"\xc0") }
    }

    fn system(command: SystemCommand) -> Bytes {
        Proposal::System(command).encode()
    }

    #[test]
    fn what_can_be_applied_is_admitted() {
        let longest = vec![b'k'; MAX_IMPORT_KEY_BYTES];
        for good in [
            Proposal::OpenSession.encode(),
            batch(vec![]),
            batch(vec![set(b"k", b"\xc0"), set(&longest, b"\xa1v"), keyed(MAX_IDEMPOTENCY_KEY_BYTES)]),
            batch(vec![Command::Delete { key: Key::from_stored(&b"k"[..]) }.into()]),
            system(SystemCommand::Purge { limit: 1 }),
        ] {
            admit(&good).expect("admitted");
        }
    }

    #[test]
    fn what_no_member_could_apply_or_read_is_not() {
        let mut newer = Proposal::OpenSession.encode().to_vec();
        newer[0] += 1;
        for bad in [&b""[..], b"\x01", b"\x01\xc1", &newer] {
            assert!(matches!(admit(bad), Err(AdmissionError::Undecodable(_))), "{bad:?}");
        }
        for key in [Vec::new(), vec![0, 1], vec![b'k'; MAX_IMPORT_KEY_BYTES + 1]] {
            let bad = batch(vec![set(b"k", b"\xc0"), set(&key, b"\xc0")]);
            assert!(matches!(admit(&bad), Err(AdmissionError::Key { at: 1, .. })), "{} bytes", key.len());
        }
        for value in [&b""[..], b"\xc1", b"\xd9\x05ab", b"\xc0\xc0", b"\xa2\xff\xff", &[0x91; 200]] {
            let bad = batch(vec![set(b"k", value)]);
            assert!(matches!(admit(&bad), Err(AdmissionError::Value { at: 0, .. })), "{value:?}");
        }
        let bad = admit(&batch(vec![keyed(MAX_IDEMPOTENCY_KEY_BYTES + 1)])).map(drop).unwrap_err();
        assert!(bad.is_too_large(), "{bad}");
        for keep_ms in [MAX_IDEMPOTENCY_KEEP_MS + 1, u64::MAX] {
            let bad = admit(&batch(vec![keyed(1), kept(1, keep_ms)])).map(drop).unwrap_err();
            assert!(matches!(bad, AdmissionError::IdempotencyKeep { at: 1, .. }) && !bad.is_too_large(), "{bad}");
        }
        let raise = system(SystemCommand::RaiseVersion { from: 2, to: 3 });
        assert!(matches!(admit(&raise), Err(AdmissionError::RaisesVersion)), "members may not decode it");
    }

    #[test]
    fn a_point_that_no_group_comes_to_is_not_admitted() {
        let commit = |revision, clock_ms, time_ms| {
            let times = vec![SlotTime { slots: SlotSet::range(0, 1), time_ms }];
            system(SystemCommand::CommitImport { id: 1, pages: 0, revision, clock_ms, times })
        };
        admit(&commit(MAX_REVISION, MAX_CLOCK_MS, MAX_CLOCK_MS)).expect("the highest");
        for (revision, clock_ms, time_ms) in
            [(MAX_REVISION + 1, 0, 0), (u64::MAX, 0, 0), (0, MAX_CLOCK_MS + 1, 0), (0, 0, u64::MAX)]
        {
            let error = admit(&commit(revision, clock_ms, time_ms)).map(drop).unwrap_err();
            assert!(matches!(error, AdmissionError::System(Refusal::Malformed(_))), "{error}");
        }
        let import = |records| system(SystemCommand::Import { id: 1, page: 0, cursor: Bytes::new(), records });
        let page = |revision| {
            let (key, value) = (Bytes::from_static(b"k"), Bytes::from_static(b"\xc0"));
            let record = ImportRecord::Value { key, revision, create_revision: 1, expires_at_ms: 0, value };
            import(ImportPage { records: vec![record] }.encode())
        };
        admit(&page(MAX_REVISION)).expect("the highest");
        for bad in [page(MAX_REVISION + 1), import(Bytes::from_static(b"\x01 no page"))] {
            let error = admit(&bad).map(drop).unwrap_err();
            assert!(matches!(error, AdmissionError::System(Refusal::Malformed(_))), "{error}");
        }
    }

    #[test]
    fn what_is_applied_is_wider_than_what_is_admitted_and_bounded_as_well() {
        let ops = |op: &Op| check_applicable(&[OpRef::from(op)]);
        ops(&keyed(MAX_IDEMPOTENCY_KEY_BYTES + 1)).expect("older programs have let it in");
        ops(&set(b"k", b"\xc1")).expect("values are as they are");
        ops(&kept(1, u64::MAX)).expect("the state machine keeps it for as long as it keeps any");
        assert!(ops(&keyed(MAX_IMPORT_KEY_BYTES + 1)).is_err());
        assert!(ops(&set(&[b'k'; MAX_IMPORT_KEY_BYTES + 1], b"\xc0")).is_err() && ops(&set(b"", b"\xc0")).is_err());
    }
}
