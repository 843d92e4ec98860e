//! [`Machine`]: what an entry of the log does to the state.
//!
//! Deterministic: a function of the entries so far, never of a local clock, of chance, or of how entries were grouped
//! into requests. All replicas therefore hold the same state at the same position, which
//! [`Store::state_hash`](super::Store::state_hash) makes visible.

use bytes::Bytes;
use raftkv_kv::{
    Answer, BatchRef, CodecError, CommandRef, MAX_CLOCK_MS, MAX_REVISION, OpRef, Outcome, Precondition, ProposalRef,
    SLOT_TIME_VERSION, STRICT_VERSION, check_applicable, slot_of,
};
use raftkv_link::proposer::{AppliedHere, Shortcut};
use raftkv_proto::GROUP_CLOCK_VERSION;
use raftkv_runtime::planted;

use super::applier::Loaded;
use super::dues::Dues;
use super::limits::StateLimits;
use super::read::time_of;
use super::record::{self, IdempotencyRecord, SessionRecord, Stored, Trace};
use super::sessions::Sessions;
use super::shards::Shards;
use super::txn::Txn;
use super::{ApplyEntry, EntryKind, StoreError, layout};

/// Why an entry could not be applied. Other replicas may have applied it: the process must end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// A newer version wrote it, or it is not of ours at all.
    #[error("entry {index} cannot be decoded: {source}")]
    Undecodable { index: u64, source: CodecError },
    /// The state could not be read.
    #[error("entry {index}: {source}")]
    Storage { index: u64, source: StoreError },
}

/// A log has fewer entries than this many bits can count.
const SESSION_INDEX_BITS: u32 = 48;

/// The rules, and what they remember between entries. Everything here can be built anew from the store.
pub(super) struct Machine {
    limits: StateLimits,
    sessions: Sessions,
    /// Which slots are served, and the moves under way.
    pub(super) shards: Shards,
    /// No value that is indexed by time expires before this time. A hint that spares scans: it never decides anything.
    value_due_ms: u64,
    /// No kept outcome that is indexed by time expires before this time. A hint as well.
    idempotency_due_ms: u64,
    /// Of values that are indexed by slot.
    pub(super) value_dues: Dues,
    /// Of kept outcomes that are indexed by slot.
    pub(super) outcome_dues: Dues,
    shortcut: Option<Shortcut>,
    /// Batches that this very process has handed over, applied and not visible yet.
    own: Vec<AppliedHere>,
}

impl Machine {
    pub(super) fn new(limits: StateLimits, loaded: Loaded, shortcut: Option<Shortcut>) -> Self {
        let Loaded { sessions, shards, outcomes: outcome_dues, values: value_dues } = loaded;
        let (value_due_ms, idempotency_due_ms) = (0, 0);
        Self {
            limits,
            sessions,
            shards,
            value_due_ms,
            idempotency_due_ms,
            value_dues,
            outcome_dues,
            shortcut,
            own: Vec::new(),
        }
    }

    /// The time by which what is in a slot ends.
    pub(super) fn time_of(&self, txn: &Txn<'_>, slot: u16) -> u64 {
        time_of(&txn.meta, self.shards.ownership(), slot)
    }

    /// When the first thing in the state ends by the clock, as far as is known without reading: not later than it does, but it may be
    /// earlier, where a scan was spared. 0 = nothing ends.
    pub(super) fn next_deadline_ms(&self) -> u64 {
        let session = self.sessions.oldest().map(|(_, used_ms)| used_ms.saturating_add(self.limits.session_ms));
        let by_slot = self.value_dues.first().into_iter().chain(self.outcome_dues.first()).map(|(due_ms, _)| due_ms);
        let by_time = [session.unwrap_or(u64::MAX), self.value_due_ms, self.idempotency_due_ms];
        match by_slot.chain(by_time).min().unwrap_or(u64::MAX) {
            u64::MAX => 0,
            due_ms => due_ms.max(1),
        }
    }

    /// What was applied is visible: tells those of this process who have handed it over what became of it.
    pub(super) fn tell_own(&mut self) {
        if let Some(shortcut) = &self.shortcut {
            self.own.drain(..).for_each(|applied| shortcut.answer(applied));
        }
    }

    /// Applies the next entry and adds its encoded answers: one per payload, an empty one where there is none.
    pub(super) fn apply(
        &mut self,
        txn: &mut Txn<'_>,
        entry: ApplyEntry,
        answers: &mut Vec<Bytes>,
    ) -> Result<(), Fault> {
        let index = entry.index;
        let fault = |source| Fault::Storage { index, source };
        let stamp_ms = match txn.meta.version < GROUP_CLOCK_VERSION || planted!(WallClock) {
            true => entry.clock_ms,
            false => entry.group_clock_ms,
        };
        let latest_ms = if is_strict(txn) { MAX_CLOCK_MS } else { u64::MAX };
        txn.meta.clock_ms = txn.meta.clock_ms.max(stamp_ms.min(latest_ms));
        self.sweep(txn).map_err(fault)?;
        match entry.kind {
            EntryKind::Blank => answers.push(Bytes::new()),
            EntryKind::Membership(membership) => {
                txn.meta.position.membership = membership;
                answers.push(Bytes::new());
            }
            EntryKind::Payload(payload) => answers.push(self.proposal(txn, &payload, index, 0)?),
            EntryKind::Payloads(payloads) if payloads.is_empty() => answers.push(Bytes::new()),
            EntryKind::Payloads(payloads) => {
                for (number, payload) in payloads.iter().enumerate() {
                    answers.push(self.proposal(txn, payload, index, number as u64)?);
                }
            }
        }
        txn.meta.position.next_index = index + 1;
        txn.meta.position.log_id = entry.log_id;
        Ok(())
    }

    /// Applies payload `number` of entry `index`.
    fn proposal(&mut self, txn: &mut Txn<'_>, payload: &[u8], index: u64, number: u64) -> Result<Bytes, Fault> {
        let fault = |source| Fault::Storage { index, source };
        let proposal = match ProposalRef::decode(payload) {
            // What no version knows was never applied by anybody. What another version wrote may have been.
            Err(source) if is_strict(txn) && !source.is_of_another_version() => return Ok(rejected(&source)),
            decoded => decoded.map_err(|source| Fault::Undecodable { index, source })?,
        };
        match proposal {
            ProposalRef::OpenSession => Ok(self.open_session(txn, index, number)),
            ProposalRef::Batch(batch) => self.batch(txn, batch, index).map_err(fault),
            ProposalRef::System(command) => self.system(txn, command).map_err(fault),
        }
    }

    /// Ids are log indexes with the payload's number in the upper bits, so none is ever used twice; plus one, so none is 0.
    fn open_session(&mut self, txn: &mut Txn<'_>, index: u64, number: u64) -> Bytes {
        let session = (number << SESSION_INDEX_BITS) + index + 1;
        while self.sessions.len() >= self.limits.sessions.max(1) {
            let Some((oldest, _)) = self.sessions.oldest() else { break };
            self.close_session(txn, oldest);
        }
        let key = layout::numbered(layout::SESSION, session);
        let record = SessionRecord { acknowledged_below: 0, used_ms: txn.meta.clock_ms };
        let trace = txn.put(key, record.seal(&key), None);
        self.sessions.insert(session, record, trace);
        txn.meta.sessions += 1;
        Answer::SessionOpened { session }.encode()
    }

    fn close_session(&mut self, txn: &mut Txn<'_>, id: u64) {
        if let Some(session) = self.sessions.remove(id) {
            txn.remove(layout::numbered(layout::SESSION, id), session.trace);
            for (sequence, trace) in session.answers {
                txn.remove(layout::answer(id, sequence), trace);
            }
            txn.meta.sessions -= 1;
        }
    }

    fn batch(&mut self, txn: &mut Txn<'_>, batch: BatchRef<'_>, index: u64) -> Result<Bytes, StoreError> {
        if is_strict(txn)
            && let Err(error) = check_applicable(&batch.ops)
        {
            return Ok(rejected(&error));
        }
        let clock_ms = txn.meta.clock_ms;
        let (id, sequence) = (batch.session, batch.sequence);
        match self.sessions.get(id) {
            Some(session) if !self.is_expired(session.record.used_ms, clock_ms) => {}
            _ => return Ok(Answer::SessionExpired.encode()),
        }
        let Some(session) = self.sessions.touch(id, clock_ms) else {
            return Ok(Answer::SessionExpired.encode());
        };

        session.record.acknowledged_below = session.record.acknowledged_below.max(batch.acknowledged_below);
        while let Some(oldest) = session.answers.first_entry()
            && *oldest.key() < session.record.acknowledged_below
        {
            let (sequence, trace) = oldest.remove_entry();
            txn.remove(layout::answer(id, sequence), trace);
        }
        let is_stale = sequence < session.record.acknowledged_below;
        let is_repeat = session.answers.contains_key(&sequence) && !planted!(ApplyTwice);
        if !is_stale
            && !is_repeat
            && session.answers.len() >= self.limits.answers_per_session
            && let Some((dropped, trace)) = session.answers.pop_first()
        {
            txn.remove(layout::answer(id, dropped), trace);
            session.record.acknowledged_below = dropped.saturating_add(1);
        }
        let key = layout::numbered(layout::SESSION, id);
        session.trace = txn.put(key, session.record.seal(&key), Some(session.trace));

        // Asked again: dropping an answer may have raised the mark above this very batch.
        if is_stale || sequence < session.record.acknowledged_below {
            return Ok(Answer::Stale.encode());
        }
        let key = layout::answer(id, sequence);
        if is_repeat {
            let record = txn.get(&key)?.ok_or_else(|| {
                StoreError::Inconsistent(format!("the answer of batch {sequence} of session {id} is missing"))
            })?;
            return Ok(record::answer_of(&record));
        }

        let ops = batch.ops.len();
        // Each takes one at most.
        if is_strict(txn) && MAX_REVISION.saturating_sub(txn.meta.revision) < ops as u64 {
            return Ok(rejected(&format!("the group has no revisions left: the highest is {MAX_REVISION}")));
        }
        txn.reserve(ops);
        let mut outcomes = Vec::with_capacity(ops);
        for op in batch.ops {
            outcomes.push(self.owned_op(txn, op)?);
        }
        let answer = Answer::Applied(outcomes).encode();
        let trace = txn.put(key, record::seal(&key, &[&answer]), None);
        if let Some(session) = self.sessions.touch(id, clock_ms) {
            session.answers.insert(sequence, trace);
        }
        if self.shortcut.as_ref().is_some_and(|shortcut| shortcut.is_for(id)) {
            self.own.push(AppliedHere { session: id, sequence, index, answer: answer.clone() });
        }
        Ok(answer)
    }

    /// Applies an operation on a slot that is served.
    pub(super) fn op(&mut self, txn: &mut Txn<'_>, op: OpRef<'_>) -> Result<Outcome, StoreError> {
        let Some(idempotency) = op.idempotency else {
            return self.command(txn, op.command, op.precondition);
        };
        let slot = slot_of(op.command.key());
        let (key, time_ms) = (layout::idempotency(slot, idempotency.key), self.time_of(txn, slot));
        if let Some(record) = txn.get(&key)? {
            let kept = IdempotencyRecord::parse(&key, &record)?;
            if kept.expires_at_ms > time_ms {
                return Ok(if kept.fingerprint == idempotency.fingerprint {
                    Outcome::Replayed(Box::new(kept.outcome))
                } else {
                    Outcome::IdempotencyMismatch
                });
            }
            // Expired and not swept yet.
            remove_outcome(txn, key.clone(), &record)?;
        }
        if is_strict(txn) && txn.meta.idempotency >= self.limits.idempotency {
            return Ok(Outcome::OutcomesFull);
        }
        let outcome = self.command(txn, op.command, op.precondition)?;
        let expires_at_ms = time_ms.saturating_add(idempotency.keep_ms.min(self.limits.idempotency_ms));
        let fingerprint = idempotency.fingerprint;
        let record = IdempotencyRecord { fingerprint, expires_at_ms, outcome: outcome.clone() };
        self.put_outcome(txn, slot, key, &record);
        Ok(outcome)
    }

    /// Stores an outcome where none is, with its place in an index of deadlines.
    pub(super) fn put_outcome(&mut self, txn: &mut Txn<'_>, slot: u16, key: fjall::Slice, record: &IdempotencyRecord) {
        let at_ms = record.expires_at_ms;
        if txn.meta.version < SLOT_TIME_VERSION {
            txn.put_index(layout::expiry(layout::IDEMPOTENCY_EXPIRY, at_ms, &key));
            self.idempotency_due_ms = self.idempotency_due_ms.min(at_ms);
        } else {
            txn.put_index(layout::due(layout::OUTCOME_DUE, slot, at_ms, &key));
            self.outcome_dues.note(slot, at_ms, self.shards.ownership());
        }
        let sealed = record.seal(&key);
        txn.put(key, sealed, None);
        txn.meta.idempotency += 1;
    }

    /// Stores a value in place of `old`, with its place in an index of deadlines.
    pub(super) fn put_value(
        &mut self,
        txn: &mut Txn<'_>,
        key: fjall::Slice,
        new: NewValue<'_>,
        old: Option<Stored>,
    ) -> Result<(), StoreError> {
        let NewValue { revision, create_revision, expires_at_ms, value } = new;
        let old_expiry = old.map_or(0, |old| old.expires_at_ms);
        if old_expiry != expires_at_ms {
            if old_expiry != 0 {
                remove_deadline(txn, VALUES, old_expiry, &key)?;
            }
            if expires_at_ms != 0 && txn.meta.version < SLOT_TIME_VERSION {
                txn.put_index(layout::expiry(layout::VALUE_EXPIRY, expires_at_ms, &key));
                self.value_due_ms = self.value_due_ms.min(expires_at_ms);
            } else if expires_at_ms != 0 {
                let slot = slot_of(&key[1..]);
                txn.put_index(layout::due(layout::VALUE_DUE, slot, expires_at_ms, &key));
                self.value_dues.note(slot, expires_at_ms, self.shards.ownership());
            }
        }
        if old.is_none() {
            txn.meta.keys += 1;
        }
        txn.put_value(key, revision, create_revision, expires_at_ms, value, old.map(|old| old.trace));
        Ok(())
    }

    fn command(
        &mut self,
        txn: &mut Txn<'_>,
        command: CommandRef<'_>,
        precondition: Option<Precondition>,
    ) -> Result<Outcome, StoreError> {
        let key = layout::data(command.key());
        let stored = txn.value(&key)?;
        // Most have no end: the slot is worked out for those that have one.
        let is_live =
            |stored: &Stored| stored.expires_at_ms == 0 || stored.is_live(self.time_of(txn, slot_of(command.key())));
        let live = stored.filter(is_live);
        let current = live.map_or(0, |stored| stored.revision);
        let holds = match precondition {
            None => true,
            Some(Precondition::Absent) => live.is_none(),
            Some(Precondition::Present) => live.is_some(),
            Some(Precondition::Revision(revision)) => live.is_some() && revision == current,
        };
        if !holds {
            return Ok(Outcome::PreconditionFailed { current });
        }
        match command {
            CommandRef::Set { value, expires_at_ms, .. } => {
                let revision = next_revision(txn);
                let created = live.is_none();
                let create_revision = live.map_or(revision, |stored| stored.create_revision);
                self.put_value(txn, key, NewValue { revision, create_revision, expires_at_ms, value }, stored)?;
                Ok(Outcome::Set { revision, created })
            }
            CommandRef::Delete { .. } => match live {
                // An expired one is left to the sweep: for everybody it is gone already.
                None => Ok(Outcome::Deleted { revision: 0, existed: false }),
                Some(stored) => {
                    let revision = next_revision(txn);
                    remove_value(txn, key, stored)?;
                    Ok(Outcome::Deleted { revision, existed: true })
                }
            },
        }
    }

    /// Removes some of what has expired. Part of every entry, so it happens at the same point on every replica.
    fn sweep(&mut self, txn: &mut Txn<'_>) -> Result<(), StoreError> {
        let clock_ms = txn.meta.clock_ms;
        for _ in 0..self.limits.sweep {
            match self.sessions.oldest() {
                Some((id, used_ms)) if self.is_expired(used_ms, clock_ms) => self.close_session(txn, id),
                _ => break,
            }
        }
        if self.value_due_ms <= clock_ms {
            self.sweep_values(txn, clock_ms)?;
        }
        let surplus = self.surplus(txn);
        if self.idempotency_due_ms <= clock_ms || surplus > 0 {
            self.sweep_idempotency(txn, clock_ms, surplus as usize)?;
        }
        self.sweep_slots(txn, clock_ms)
    }

    /// Removes some of what has ended by the time of its slot: from the lowest slot on, in each slot what ended first; and outcomes that
    /// are too many. Only in slots that are served.
    fn sweep_slots(&mut self, txn: &mut Txn<'_>, clock_ms: u64) -> Result<(), StoreError> {
        for is_of_values in [true, false] {
            let dues = if is_of_values { &self.value_dues } else { &self.outcome_dues };
            let (tag, slots) = (dues.tag(), dues.slots_at(clock_ms));
            let mut left = self.limits.sweep;
            for slot in slots {
                let time_ms = self.time_of(txn, slot);
                // One more than may be removed: it says when the next one ends.
                let keys = txn.due_keys(tag, slot, left + 1)?;
                let mut first = None;
                for index_key in keys {
                    let (_, at_ms) = layout::due_of(&index_key).ok_or_else(|| dangling(&index_key))?;
                    if at_ms > time_ms || left == 0 {
                        first = Some(at_ms);
                        break;
                    }
                    left -= 1;
                    remove_due(txn, &index_key, at_ms)?;
                }
                let dues = if is_of_values { &mut self.value_dues } else { &mut self.outcome_dues };
                dues.settle(slot, first, self.shards.ownership());
                if left == 0 {
                    break;
                }
            }
        }
        // Those that are indexed by time went first; they are older.
        while self.surplus(txn) > 0 {
            let Some((_, slot)) = self.outcome_dues.first() else { break };
            let keys = txn.due_keys(layout::OUTCOME_DUE, slot, 2)?;
            let deadline = |key: &fjall::Slice| layout::due_of(key).map(|(_, at_ms)| at_ms);
            let known = self.outcome_dues.first();
            self.outcome_dues.settle(slot, keys.first().and_then(deadline), self.shards.ownership());
            // Where less was known than there is, another slot may come first.
            if self.outcome_dues.first() != known {
                continue;
            }
            let Some((index_key, at_ms)) = keys.first().and_then(|key| Some((key, deadline(key)?))) else { break };
            remove_due(txn, index_key, at_ms)?;
            self.outcome_dues.settle(slot, keys.get(1).and_then(deadline), self.shards.ownership());
        }
        Ok(())
    }

    fn sweep_values(&mut self, txn: &mut Txn<'_>, clock_ms: u64) -> Result<(), StoreError> {
        let tag = layout::VALUE_EXPIRY;
        // One more than is removed: it says when the next sweep is due.
        let keys = txn.index_keys(tag, self.value_due_ms, u64::MAX, self.limits.sweep + 1)?;
        self.value_due_ms = u64::MAX;
        for (count, index_key) in keys.into_iter().enumerate() {
            let at_ms = layout::number_of(&index_key).unwrap_or_default();
            if at_ms > clock_ms || count == self.limits.sweep {
                self.value_due_ms = at_ms;
                break;
            }
            let key = layout::expiring(layout::DATA, &index_key);
            let stored = txn.value(&key)?.filter(|stored| stored.expires_at_ms == at_ms);
            let stored = stored.ok_or_else(|| dangling(&index_key))?;
            if at_ms > self.time_of(txn, slot_of(&key[1..])) {
                // Its slot's time stands behind, or still.
                self.value_due_ms = self.value_due_ms.min(at_ms);
                continue;
            }
            remove_value(txn, key, stored)?;
        }
        Ok(())
    }

    fn sweep_idempotency(&mut self, txn: &mut Txn<'_>, clock_ms: u64, surplus: usize) -> Result<(), StoreError> {
        let tag = layout::IDEMPOTENCY_EXPIRY;
        // The surplus is bounded by what the entry before has added.
        let most = self.limits.sweep.max(surplus);
        let keys = txn.index_keys(tag, self.idempotency_due_ms, u64::MAX, most + 1)?;
        self.idempotency_due_ms = u64::MAX;
        for (count, index_key) in keys.into_iter().enumerate() {
            let at_ms = layout::number_of(&index_key).unwrap_or_default();
            let goes = count < surplus || (at_ms <= clock_ms && count < most);
            if !goes {
                self.idempotency_due_ms = at_ms;
                break;
            }
            let key = layout::expiring(layout::IDEMPOTENCY, &index_key);
            let record = txn.get(&key)?.ok_or_else(|| dangling(&index_key))?;
            let slot = layout::slot_of_record(&key).ok_or_else(|| dangling(&index_key))?;
            if count >= surplus && at_ms > self.time_of(txn, slot) {
                self.idempotency_due_ms = self.idempotency_due_ms.min(at_ms);
                continue;
            }
            if remove_outcome(txn, key, &record)? != at_ms {
                return Err(dangling(&index_key));
            }
        }
        Ok(())
    }

    /// Outcomes that are too many, and go before their time.
    fn surplus(&self, txn: &Txn<'_>) -> u64 {
        // What a move brought beyond the limit stays as long as it was promised to.
        if is_strict(txn) { 0 } else { txn.meta.idempotency.saturating_sub(self.limits.idempotency) }
    }

    fn is_expired(&self, used_ms: u64, clock_ms: u64) -> bool {
        used_ms.saturating_add(self.limits.session_ms) < clock_ms
    }
}

/// A value to be stored.
pub(super) struct NewValue<'a> {
    pub(super) revision: u64,
    pub(super) create_revision: u64,
    pub(super) expires_at_ms: u64,
    /// Encoded.
    pub(super) value: &'a [u8],
}

fn is_strict(txn: &Txn<'_>) -> bool {
    txn.meta.version >= STRICT_VERSION
}

/// What cannot be applied changes nothing, on any member.
fn rejected(reason: &impl std::fmt::Display) -> Bytes {
    Answer::Rejected { reason: reason.to_string() }.encode()
}

/// Of a change. Below [`STRICT_VERSION`] it wraps, as in version 0.1.0; from there on a batch was seen to have enough of them.
fn next_revision(txn: &mut Txn<'_>) -> u64 {
    txn.meta.revision = txn.meta.revision.wrapping_add(1);
    txn.meta.revision
}

/// The indexes of deadlines of a class: by slot, and by time as the first cluster version has it.
type Indexes = (u8, u8);
const VALUES: Indexes = (layout::VALUE_DUE, layout::VALUE_EXPIRY);
const OUTCOMES: Indexes = (layout::OUTCOME_DUE, layout::IDEMPOTENCY_EXPIRY);

/// Removes the place of a record in the index that has it: what was stored before the cluster version rose is in the older one.
fn remove_deadline(txn: &mut Txn<'_>, indexes: Indexes, at_ms: u64, key: &[u8]) -> Result<(), StoreError> {
    let (by_slot, by_time) = indexes;
    if txn.meta.version >= SLOT_TIME_VERSION
        && let Some(slot) = layout::slot_of_record(key)
    {
        let index_key = layout::due(by_slot, slot, at_ms, key);
        if txn.get(&index_key)?.is_some() {
            txn.remove_index(index_key);
            return Ok(());
        }
    }
    txn.remove_index(layout::expiry(by_time, at_ms, key));
    Ok(())
}

/// Removes what a key of an index by slot stands for, which ends then.
fn remove_due(txn: &mut Txn<'_>, index_key: &[u8], at_ms: u64) -> Result<(), StoreError> {
    let key = layout::of_due(index_key);
    if key.first() == Some(&layout::DATA) {
        let stored = txn.value(&key)?.filter(|stored| stored.expires_at_ms == at_ms);
        return remove_value(txn, key, stored.ok_or_else(|| dangling(index_key))?);
    }
    let record = txn.get(&key)?.ok_or_else(|| dangling(index_key))?;
    if remove_outcome(txn, key, &record)? == at_ms { Ok(()) } else { Err(dangling(index_key)) }
}

/// Removes a kept outcome and its place in the index; returns when it would have expired.
pub(super) fn remove_outcome(txn: &mut Txn<'_>, key: fjall::Slice, record: &[u8]) -> Result<u64, StoreError> {
    let expires_at_ms = IdempotencyRecord::expiry_of(&key, record)?;
    remove_deadline(txn, OUTCOMES, expires_at_ms, &key)?;
    txn.remove(key, Trace::of(record));
    txn.meta.idempotency -= 1;
    Ok(expires_at_ms)
}

/// Removes a stored value, live or expired, and its place in the index.
pub(super) fn remove_value(txn: &mut Txn<'_>, key: fjall::Slice, stored: Stored) -> Result<(), StoreError> {
    if stored.expires_at_ms != 0 {
        remove_deadline(txn, VALUES, stored.expires_at_ms, &key)?;
    }
    txn.remove(key, stored.trace);
    txn.meta.keys -= 1;
    Ok(())
}

fn dangling(index_key: &[u8]) -> StoreError {
    StoreError::Inconsistent(format!("the expiry index {} points to no such record", index_key.escape_ascii()))
}
