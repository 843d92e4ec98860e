//! Operations where slots have owners: refused where they are not served, noted where a move must know of them.

use raftkv_kv::{OpRef, Outcome, slot_of};
use raftkv_runtime::planted;

use super::Shards;
use crate::machine::Machine;
use crate::txn::Txn;
use crate::{StoreError, layout, record};

impl Shards {
    /// Notes that the record under `key` has changed.
    fn note(&mut self, txn: &mut Txn<'_>, key: &[u8]) {
        let Some((id, number)) = self.ownership.outgoing.as_ref().map(|out| (out.id, out.changes)) else { return };
        let change_key = layout::change(id, number);
        txn.put(change_key, record::seal(&change_key, &[key]), None);
        self.change(|ownership| {
            if let Some(out) = &mut ownership.outgoing {
                out.changes += 1;
            }
        });
    }
}

impl Machine {
    /// Applies an operation, if its slot is served.
    pub(crate) fn owned_op(&mut self, txn: &mut Txn<'_>, op: OpRef<'_>) -> Result<Outcome, StoreError> {
        let ownership = self.shards.ownership();
        if !ownership.is_sharded() {
            return self.op(txn, op);
        }
        let slot = slot_of(op.command.key());
        if !ownership.serves(slot) && !planted!(SkippedFence) {
            return Ok(Outcome::WrongGroup);
        }
        if !ownership.exports(slot) {
            return self.op(txn, op);
        }
        let outcome = self.op(txn, op)?;
        let is_value_changed = matches!(outcome, Outcome::Set { .. } | Outcome::Deleted { existed: true, .. });
        if is_value_changed {
            self.shards.note(txn, &layout::data(op.command.key()));
        }
        let is_kept = !matches!(outcome, Outcome::Replayed(_) | Outcome::IdempotencyMismatch | Outcome::OutcomesFull);
        if let Some(idempotency) = op.idempotency.filter(|_| is_kept) {
            self.shards.note(txn, &layout::idempotency(slot, idempotency.key));
        }
        Ok(outcome)
    }
}
