//! [`Admission`]: checks proposals of routers before forwarding.
//!
//! Every replica applies a log entry, permanently, and an undecodable entry stops all replicas. So payloads are
//! validated here, before replication, with the same function as in the leader's sidecar.

use raftkv_http::IDEMPOTENCY_KEEP;
use raftkv_kv::{CommandRef, MAX_IDEMPOTENCY_KEEP_MS, ProposalRef, admit};
use raftkv_proto::consensus::{Refused, RefusedReason};

use crate::disk_guard::DiskGuard;

// Every retention time requested by HTTP ports is admitted.
const _: () = assert!(IDEMPOTENCY_KEEP.as_millis() <= MAX_IDEMPOTENCY_KEEP_MS as u128);

/// Identity of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchNumber {
    pub(super) session: u64,
    pub(super) sequence: u64,
}

/// Decides by the payload and the free disk space.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    disk: DiskGuard,
}

impl Admission {
    pub(super) fn new(disk: DiskGuard) -> Self {
        Self { disk }
    }

    /// Returns the identity of a batch, `None` for other proposals. `Err` = definitely not proposed, with the reason.
    pub(super) fn check(&self, payload: &[u8]) -> Result<Option<BatchNumber>, Refused> {
        let refused = |reason: RefusedReason, message: String| Refused { reason: reason.into(), message };
        let proposal = admit(payload).map_err(|error| {
            let reason = if error.is_too_large() { RefusedReason::TooLarge } else { RefusedReason::NotAdmitted };
            refused(reason, error.to_string())
        })?;
        let batch = match proposal {
            ProposalRef::Batch(batch) => batch,
            ProposalRef::OpenSession | ProposalRef::System(_) => return Ok(None),
        };
        let takes_space = || batch.ops.iter().any(|op| matches!(op.command, CommandRef::Set { .. }));
        self.disk
            .admit(|| if takes_space() { payload.len() } else { 0 })
            .map_err(|full| refused(RefusedReason::DiskFull, full.to_string()))?;
        Ok(Some(BatchNumber { session: batch.session, sequence: batch.sequence }))
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use raftkv_kv::{Batch, Command, Idempotency, Key, MAX_IDEMPOTENCY_KEY_BYTES, Op, Proposal, SystemCommand, Value};

    use super::*;

    fn payload(ops: Vec<Op>) -> Bytes {
        Proposal::Batch(Batch { session: 1, sequence: 1, acknowledged_below: 0, ops }).encode()
    }

    fn set(key: Vec<u8>) -> Op {
        Command::Set { key: Key::from_stored(key), value: Value::from_stored(&b"\xc0"[..]), expires_at_ms: 0 }.into()
    }

    fn reason(admission: &Admission, payload: &[u8]) -> Option<RefusedReason> {
        admission.check(payload).err().map(|refused| refused.reason())
    }

    #[test]
    fn what_no_replica_could_apply_is_never_proposed() {
        let dir = tempfile::tempdir().expect("directory");
        let admission = Admission::new(DiskGuard::new(dir.path(), Some(0)).expect("space is known"));
        assert_eq!(reason(&admission, &payload(vec![set(b"k".to_vec())])), None);
        assert_eq!(reason(&admission, &Proposal::OpenSession.encode()), None);
        let mut newer = Proposal::OpenSession.encode().to_vec();
        newer[0] += 1;
        for bad in [&b""[..], b"\x01", &newer] {
            assert_eq!(reason(&admission, bad), Some(RefusedReason::NotAdmitted), "{bad:?}");
        }
        for key in [Vec::new(), vec![0, 1], vec![b'k'; 65_530]] {
            assert_eq!(reason(&admission, &payload(vec![set(key)])), Some(RefusedReason::NotAdmitted));
        }
        let mut once = set(b"k".to_vec());
        once.idempotency =
            Some(Idempotency { key: vec![1; MAX_IDEMPOTENCY_KEY_BYTES + 1].into(), fingerprint: 1, keep_ms: 1 });
        assert_eq!(reason(&admission, &payload(vec![once])), Some(RefusedReason::TooLarge));
        let mut once = set(b"k".to_vec());
        once.idempotency =
            Some(Idempotency { key: vec![1].into(), fingerprint: 1, keep_ms: MAX_IDEMPOTENCY_KEEP_MS + 1 });
        assert_eq!(reason(&admission, &payload(vec![once])), Some(RefusedReason::NotAdmitted), "for longer than a day");
        let mut bad = set(b"k".to_vec());
        if let Command::Set { value, .. } = &mut bad.command {
            *value = Value::from_stored(&b"\xc1"[..]);
        }
        assert_eq!(reason(&admission, &payload(vec![bad])), Some(RefusedReason::NotAdmitted), "no MsgPack");
    }

    #[test]
    fn on_a_full_disk_only_deletes_and_system_commands_pass() {
        let dir = tempfile::tempdir().expect("directory");
        let admission = Admission::new(DiskGuard::new(dir.path(), Some(u64::MAX)).expect("space is known"));
        let delete = Op::from(Command::Delete { key: Key::from_stored(&b"k"[..]) });
        assert_eq!(reason(&admission, &payload(vec![delete.clone()])), None);
        assert_eq!(reason(&admission, &Proposal::System(SystemCommand::Purge { limit: 1 }).encode()), None);
        let raise = Proposal::System(SystemCommand::RaiseVersion { from: 1, to: 2 });
        assert_eq!(reason(&admission, &raise.encode()), Some(RefusedReason::NotAdmitted), "members may not decode it");
        let mixed = payload(vec![delete, set(b"k".to_vec())]);
        assert_eq!(reason(&admission, &mixed), Some(RefusedReason::DiskFull));
    }
}
