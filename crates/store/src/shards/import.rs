//! Writing what another group has exported.

use raftkv_kv::ImportRecord;

use crate::machine::{Machine, NewValue, remove_outcome, remove_value};
use crate::record::IdempotencyRecord;
use crate::txn::Txn;
use crate::{StoreError, layout};

impl Machine {
    /// Writes records that were found sound. What is there under the same key is from an earlier page.
    pub(super) fn import(&mut self, txn: &mut Txn<'_>, records: Vec<ImportRecord>) -> Result<(), StoreError> {
        for record in records {
            match record {
                ImportRecord::Value { key, revision, create_revision, expires_at_ms, value } => {
                    let key = layout::data(&key);
                    let old = txn.value(&key)?;
                    let new = NewValue { revision, create_revision, expires_at_ms, value: &value };
                    self.put_value(txn, key, new, old)?;
                }
                ImportRecord::Absent { key } => {
                    let key = layout::data(&key);
                    if let Some(stored) = txn.value(&key)? {
                        remove_value(txn, key, stored)?;
                    }
                }
                ImportRecord::Idempotency { slot, key, fingerprint, expires_at_ms, outcome } => {
                    let key = layout::idempotency(slot, &key);
                    if let Some(old) = txn.get(&key)? {
                        remove_outcome(txn, key.clone(), &old)?;
                    }
                    self.put_outcome(txn, slot, key, &IdempotencyRecord { fingerprint, expires_at_ms, outcome });
                }
            }
        }
        Ok(())
    }
}
