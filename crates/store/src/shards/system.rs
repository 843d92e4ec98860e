//! System commands.

use bytes::Bytes;
use raftkv_kv::{
    Answer, Effect, PutKey, Refusal, SystemAnswer, SystemCommand, UPGRADE_KEY, UpgradePolicy, put_key, raise_version,
};
use raftkv_proto::SPOKEN;

use super::facts_of;
use crate::machine::Machine;
use crate::record::{SystemRecord, Trace};
use crate::txn::Txn;
use crate::{StoreError, layout};

impl Machine {
    /// Does what the command says, or refuses it without a trace; returns the encoded answer.
    pub(crate) fn system(&mut self, txn: &mut Txn<'_>, command: SystemCommand) -> Result<Bytes, StoreError> {
        #[cfg(feature = "failpoints")]
        pass(&command);
        let shifts = shifts_time(&command);
        let answer = match self.shards.decide(command, &txn.meta) {
            Err(refusal) => SystemAnswer::Refused(refusal),
            Ok(Effect::Done) => SystemAnswer::Done,
            Ok(Effect::Fenced { at, times }) => {
                SystemAnswer::Fenced { changes: at.changes, revision: at.revision, clock_ms: at.clock_ms, times }
            }
            Ok(Effect::Raise { revision, clock_ms }) => {
                txn.meta.revision = txn.meta.revision.max(revision);
                txn.meta.clock_ms = txn.meta.clock_ms.max(clock_ms);
                SystemAnswer::Done
            }
            Ok(Effect::Import { records, next_page }) => {
                self.import(txn, records)?;
                SystemAnswer::Imported { next_page }
            }
            Ok(Effect::PutKey { key, expected_version, value }) => put(txn, &key, expected_version, &value)?,
            Ok(Effect::RaiseVersion { from, to }) => self.raise(txn, from, to)?,
            Ok(Effect::Purge { limit }) => self.purge(txn, limit)?,
        };
        if shifts {
            self.value_dues.requeue(self.shards.ownership());
            self.outcome_dues.requeue(self.shards.ownership());
        }
        Ok(Answer::System(answer).encode())
    }

    fn raise(&self, txn: &mut Txn<'_>, from: u32, to: u32) -> Result<SystemAnswer, StoreError> {
        let key = layout::system(UPGRADE_KEY);
        let policy = match txn.get(&key)? {
            Some(record) => UpgradePolicy::decode(&SystemRecord::parse(&key, &record)?.value),
            None => UpgradePolicy::default(),
        };
        let rises = match raise_version(from, to, &facts_of(&txn.meta), policy) {
            Err(refusal) => return Ok(refusal.into()),
            Ok(rises) => rises,
        };
        // A target was told what version its pages come from, and what was imported is indexed by that.
        let ownership = self.shards.ownership();
        let outgoing = ownership.outgoing.as_ref().map(|active| active.id);
        let moving = outgoing.or(ownership.incoming.as_ref().map(|active| active.id));
        if let Some(id) = moving.filter(|_| rises) {
            return Ok(Refusal::Busy { id }.into());
        }
        if !SPOKEN.contains(to) {
            // What follows is not for this program, and to go on without it would make another state of it.
            return Err(StoreError::Unsupported(format!(
                "the cluster version is raised to {to}; this program speaks {SPOKEN}. Run a newer version of RaftKV"
            )));
        }
        if rises {
            tracing::info!(from, to, "the cluster version is raised: older versions of RaftKV cannot join or go on");
        }
        txn.meta.version = to;
        Ok(SystemAnswer::Done)
    }
}

/// Whether a command may change which slots are served, or what their time is.
fn shifts_time(command: &SystemCommand) -> bool {
    use SystemCommand as Command;
    match command {
        Command::Adopt { .. }
        | Command::Claim { .. }
        | Command::Disown { .. }
        | Command::CommitImport { .. }
        | Command::Fence { .. }
        | Command::AbortExport { .. }
        | Command::Release { .. } => true,
        Command::PutKey { .. }
        | Command::BeginImport { .. }
        | Command::Import { .. }
        | Command::AbortImport { .. }
        | Command::BeginExport { .. }
        | Command::Purge { .. }
        | Command::RaiseVersion { .. } => false,
    }
}

/// A step of a move is about to be applied.
#[cfg(feature = "failpoints")]
fn pass(command: &SystemCommand) {
    raftkv_runtime::failpoints::pass_by(match command {
        SystemCommand::BeginImport { .. } => "engine::shards::begin_import",
        SystemCommand::Import { .. } => "engine::shards::import",
        SystemCommand::CommitImport { .. } => "engine::shards::commit_import",
        SystemCommand::BeginExport { .. } => "engine::shards::begin_export",
        SystemCommand::Fence { .. } => "engine::shards::fence",
        SystemCommand::Release { .. } => "engine::shards::release",
        SystemCommand::Purge { .. } => "engine::shards::purge",
        _ => return,
    });
}

fn put(txn: &mut Txn<'_>, name: &[u8], expected_version: u64, value: &[u8]) -> Result<SystemAnswer, StoreError> {
    let key = layout::system(name);
    let stored = match txn.get(&key)? {
        Some(record) => Some((SystemRecord::parse(&key, &record)?, Trace::of(&record))),
        None => None,
    };
    let now = stored.as_ref().map(|(record, _)| (record.version, &*record.value));
    Ok(match put_key(name, expected_version, value, now) {
        Err(refusal) => refusal.into(),
        Ok(PutKey::Repeated { version }) => SystemAnswer::KeyPut { version },
        Ok(PutKey::Write { version }) => {
            let record = SystemRecord::seal(&key, version, value);
            txn.put(key, record, stored.map(|(_, trace)| trace));
            SystemAnswer::KeyPut { version }
        }
    })
}
