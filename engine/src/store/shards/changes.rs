//! Operations where slots have owners: refused where they are not served, noted where a move must know of them.

use raftkv_kv::{Op, Outcome, slot_of};
use raftkv_runtime::planted;

use super::Shards;
use crate::store::machine::Machine;
use crate::store::txn::Txn;
use crate::store::{StoreError, layout, record};

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
    pub(in crate::store) fn owned_op(&mut self, txn: &mut Txn<'_>, op: Op) -> Result<Outcome, StoreError> {
        let ownership = self.shards.ownership();
        if !ownership.is_sharded() {
            return self.op(txn, op);
        }
        let slot = slot_of(op.command.key().as_bytes());
        if !ownership.serves(slot) && !planted!(SkippedFence) {
            return Ok(Outcome::WrongGroup);
        }
        if !ownership.exports(slot) {
            return self.op(txn, op);
        }
        let key = op.command.key().clone();
        let client_key = op.idempotency.as_ref().map(|idempotency| idempotency.key.clone());
        let outcome = self.op(txn, op)?;
        let is_value_changed = matches!(outcome, Outcome::Set { .. } | Outcome::Deleted { existed: true, .. });
        if is_value_changed {
            self.shards.note(txn, &layout::data(key.as_bytes()));
        }
        let is_kept = !matches!(outcome, Outcome::Replayed(_) | Outcome::IdempotencyMismatch);
        if let Some(client_key) = client_key.filter(|_| is_kept) {
            self.shards.note(txn, &layout::idempotency(slot, &client_key));
        }
        Ok(outcome)
    }
}
