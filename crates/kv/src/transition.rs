//! State transitions of [`Ownership`] by [`SystemCommand`]: pure functions with all rules.
//!
//! Each command may arrive repeatedly, late, and from two coordinators at the same time. Two rules make such commands
//! harmless. Move ids rise, and [`Ownership::last_move`] stores the highest id, so a finished move never begins again.
//! The result of the last move in each direction is stored, so commit and abort exclude each other and a repeat gets
//! the same answer as the first command.

use bytes::Bytes;

use crate::admission::{check_point, check_record};
use crate::documents::check_size;
use crate::{
    Ended, FencePoint, ImportPage, ImportRecord, Incoming, MoveId, Outgoing, Ownership, PurgeState, Refusal,
    SLOT_TIME_VERSION, SLOTS, STRICT_VERSION, SlotSet, SlotTime, SystemAnswer, SystemCommand, UpgradePolicy, offset_of,
    slot_of,
};

/// Maximum length of an imported key or `Idempotency-Key` in bytes: the limit of the storage engine.
pub const MAX_IMPORT_KEY_BYTES: usize = 60 * 1024;
/// Maximum length of a system key name in bytes.
pub const MAX_SYSTEM_KEY_BYTES: usize = 255;
/// Maximum size of a system document in bytes: the document fits in one log entry, and every router reads the whole
/// document.
pub const MAX_SYSTEM_VALUE_BYTES: usize = 4 * 1024 * 1024;

/// Facts about the group needed by a transition, beside the ownership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupFacts {
    /// The cluster version.
    pub version: u32,
    /// The revision counter.
    pub revision: u64,
    /// The replicated clock.
    pub clock_ms: u64,
    /// Number of stored keys.
    pub keys: u64,
    /// Number of outcomes kept for `Idempotency-Key`s.
    pub outcomes: u64,
}

impl Default for GroupFacts {
    /// Facts of an empty group at the first cluster version.
    fn default() -> Self {
        Self { version: 1, revision: 0, clock_ms: 0, keys: 0, outcomes: 0 }
    }
}

impl GroupFacts {
    /// Whether revisions and times are bounded.
    fn is_strict(&self) -> bool {
        self.version >= STRICT_VERSION
    }

    fn check_version(&self, fits: bool) -> Result<(), Refusal> {
        if fits { Ok(()) } else { Err(Refusal::ClusterVersion { version: self.version }) }
    }
}

/// Remaining work after the ownership has changed, in the same log entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    Done,
    /// Nothing; the answer is [`SystemAnswer::Fenced`].
    Fenced {
        /// State of the group at the fence.
        at: FencePoint,
        /// Slot times of the move.
        times: Vec<SlotTime>,
    },
    /// Raise revision and clock to at least these values.
    Raise {
        /// Revision of the source.
        revision: u64,
        /// Clock of the source; 0 from the cluster version with slot time on, where a move does not change the clock of
        /// the target.
        clock_ms: u64,
    },
    /// Write the records, all of them valid and in the slots of the move.
    Import {
        /// The records, in write order.
        records: Vec<ImportRecord>,
        /// The next page number, for the answer.
        next_page: u64,
    },
    /// Write a system key, if [`put_key`] allows. The ownership is not affected.
    PutKey {
        /// Name of the key.
        key: Bytes,
        /// Expected version.
        expected_version: u64,
        /// The document.
        value: Bytes,
    },
    /// Raise the cluster version, if [`raise_version`] allows. The ownership is not affected.
    RaiseVersion {
        /// Expected current version.
        from: u32,
        /// The next version.
        to: u32,
    },
    /// Delete part of the data named by [`Ownership::purge`], and change records not needed by any move.
    Purge {
        /// Maximum number of records to examine.
        limit: u32,
    },
}

impl From<Refusal> for SystemAnswer {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Decides about [`SystemCommand::PutKey`]: returns the new version of the key. `stored` is the current version and
/// document.
///
/// A repeat of the write of the current version gets the same answer as the first write.
///
/// # Errors
/// Version mismatch, empty name, or too large name or document: nothing is written.
pub fn put_key(
    key: &[u8],
    expected_version: u64,
    value: &[u8],
    stored: Option<(u64, &[u8])>,
) -> Result<PutKey, Refusal> {
    check_size(key, value)?;
    match stored {
        Some((version, now)) if version == expected_version.wrapping_add(1) && now == value => {
            Ok(PutKey::Repeated { version })
        }
        _ => match stored.map_or(0, |(version, _)| version) {
            version if version == expected_version => match version.checked_add(1) {
                Some(version) => Ok(PutKey::Write { version }),
                None => Err(Refusal::Version { version }),
            },
            version => Err(Refusal::Version { version }),
        },
    }
}

/// Decides about [`SystemCommand::RaiseVersion`]: `true` if the version rises, `false` if the version has already
/// risen.
///
/// # Errors
/// Version mismatch, a step other than one, a hold, or a revision or clock beyond the bounds of the next version:
/// nothing changes.
pub fn raise_version(from: u32, to: u32, facts: &GroupFacts, policy: UpgradePolicy) -> Result<bool, Refusal> {
    if from.checked_add(1) != Some(to) {
        return Err(Refusal::Malformed(format!("the cluster version rises by one, not from {from} to {to}")));
    }
    match facts.version {
        now if now == to => Ok(false),
        now if now != from => Err(Refusal::ClusterVersion { version: now }),
        _ if policy.hold => Err(Refusal::Held),
        // From here on the bounds hold in every state of the group; snapshot installation relies on the bounds.
        _ if to >= STRICT_VERSION => check_point(facts.revision, facts.clock_ms).map(|()| true),
        _ => Ok(true),
    }
}

/// Decision about a [`SystemCommand::PutKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutKey {
    /// Write the document with this version.
    Write {
        /// The new version.
        version: u64,
    },
    /// The document was written before.
    Repeated {
        /// The version of the earlier write.
        version: u64,
    },
}

impl Ownership {
    /// Applies the command to the ownership, or refuses the command and changes nothing.
    ///
    /// # Errors
    /// The reason for the refusal, returned to the sender as [`SystemAnswer::Refused`].
    pub fn apply(&mut self, command: SystemCommand, facts: &GroupFacts) -> Result<Effect, Refusal> {
        use SystemCommand as Command;
        match command {
            Command::PutKey { key, expected_version, value } => Ok(Effect::PutKey { key, expected_version, value }),
            Command::Purge { limit } => Ok(Effect::Purge { limit }),
            Command::RaiseVersion { from, to } => Ok(Effect::RaiseVersion { from, to }),
            Command::Adopt { store, group, keep } => self.adopt(store, group, keep, facts),
            _ if !self.is_sharded() => Err(Refusal::NotAdopted),
            Command::Claim { id, slots } => self.claim(id, &slots),
            Command::Disown { id, slots } => self.disown(id, &slots),
            Command::BeginImport { id, slots, version } => {
                self.begin_import(id, slots, version <= facts.version, facts)
            }
            Command::Import { id, page, cursor, records } => self.import(id, page, cursor, &records, facts),
            Command::CommitImport { id, pages, revision, clock_ms, times } => {
                self.commit_import(id, pages, revision, clock_ms, times, facts)
            }
            Command::AbortImport { id } => self.abort_import(id),
            Command::BeginExport { id, slots, version } => {
                self.begin_export(id, slots, version == facts.version, facts)
            }
            Command::Fence { id } => self.fence(id, facts),
            Command::AbortExport { id } => self.abort_export(id, facts),
            Command::Release { id } => self.release(id),
        }
    }

    /// Whether changes in this slot must be recorded for an export.
    pub fn exports(&self, slot: u16) -> bool {
        self.outgoing.as_ref().is_some_and(|out| out.slots.contains(slot))
    }

    fn adopt(&mut self, store: u64, group: u32, keep: bool, facts: &GroupFacts) -> Result<Effect, Refusal> {
        if store == 0 || group == 0 {
            return Err(Refusal::Malformed("neither the store's id nor the group's is 0".to_owned()));
        }
        if self.is_sharded() {
            return if (self.store, self.group) == (store, group) {
                Ok(Effect::Done)
            } else {
                Err(Refusal::OtherIdentity { store: self.store, group: self.group })
            };
        }
        if !keep && facts.keys > 0 {
            return Err(Refusal::NotEmpty { keys: facts.keys });
        }
        (self.store, self.group) = (store, group);
        if keep {
            self.owned = SlotSet::all();
        } else if facts.outcomes > 0 {
            // The outcomes belong to deleted keys and must not answer for new keys.
            self.purge_more(&SlotSet::all());
        }
        Ok(Effect::Done)
    }

    fn claim(&mut self, id: MoveId, slots: &SlotSet) -> Result<Effect, Refusal> {
        if self.last_import == Some(Ended { id, committed: true }) {
            return Ok(Effect::Done);
        }
        self.check_begin(id, slots, self.last_import, self.incoming.as_ref().map(|active| active.id))?;
        self.check_room(slots)?;
        self.owned = self.owned.union(slots);
        self.last_move = id;
        self.last_import = Some(Ended { id, committed: true });
        Ok(Effect::Done)
    }

    fn disown(&mut self, id: MoveId, slots: &SlotSet) -> Result<Effect, Refusal> {
        if self.last_export == Some(Ended { id, committed: true }) {
            return Ok(Effect::Done);
        }
        self.check_begin(id, slots, self.last_export, self.outgoing.as_ref().map(|active| active.id))?;
        if !self.owned.contains_all(slots) {
            return Err(Refusal::NotOwned);
        }
        self.owned = self.owned.difference(slots);
        self.times.set(slots, 0);
        self.last_move = id;
        self.last_export = Some(Ended { id, committed: true });
        self.purge_more(slots);
        Ok(Effect::Done)
    }

    /// `fits`: a group with this cluster version understands the exported data.
    fn begin_import(&mut self, id: MoveId, slots: SlotSet, fits: bool, facts: &GroupFacts) -> Result<Effect, Refusal> {
        if let Some(active) = self.incoming.as_ref().filter(|active| active.id == id) {
            return begun_before(&active.slots, &slots);
        }
        self.check_begin(id, &slots, self.last_import, self.incoming.as_ref().map(|active| active.id))?;
        self.check_room(&slots)?;
        facts.check_version(fits)?;
        self.last_move = id;
        self.incoming = Some(Incoming { id, slots, pages: 0, cursor: Bytes::new() });
        Ok(Effect::Done)
    }

    fn import(
        &mut self,
        id: MoveId,
        page: u64,
        cursor: Bytes,
        records: &[u8],
        facts: &GroupFacts,
    ) -> Result<Effect, Refusal> {
        let missing = self.missing(id, self.last_import);
        let Some(active) = self.incoming.as_mut().filter(|active| active.id == id) else { return Err(missing) };
        if page != active.pages {
            return Err(Refusal::Page { next_page: active.pages });
        }
        let records = sound_records(records, &active.slots, facts.is_strict())?;
        active.pages += 1;
        active.cursor = cursor;
        Ok(Effect::Import { records, next_page: active.pages })
    }

    fn commit_import(
        &mut self,
        id: MoveId,
        pages: u64,
        revision: u64,
        clock_ms: u64,
        times: Vec<SlotTime>,
        facts: &GroupFacts,
    ) -> Result<Effect, Refusal> {
        if self.last_import == Some(Ended { id, committed: true }) {
            return Ok(Effect::Done);
        }
        if facts.is_strict() {
            check_point(revision, times.iter().map(|time| time.time_ms).fold(clock_ms, u64::max))?;
        }
        if let Some(active) = self.incoming.as_ref().filter(|active| active.id == id)
            && !times.is_empty()
            && times.iter().fold(SlotSet::new(), |all, time| all.union(&time.slots)) != active.slots
        {
            return Err(Refusal::Malformed("the times are not of the slots of the move".to_owned()));
        }
        match self.incoming.take() {
            Some(active) if active.id == id && active.pages == pages => {
                self.owned = self.owned.union(&active.slots);
                self.last_import = Some(Ended { id, committed: true });
                if facts.version < SLOT_TIME_VERSION {
                    return Ok(Effect::Raise { revision, clock_ms });
                }
                // At a source without slot time, the clock is the time of all slots.
                let times =
                    if times.is_empty() { vec![SlotTime { slots: active.slots, time_ms: clock_ms }] } else { times };
                for SlotTime { slots, time_ms } in times {
                    self.times.set(&slots, offset_of(time_ms, facts.clock_ms));
                }
                Ok(Effect::Raise { revision, clock_ms: 0 })
            }
            other => {
                let refusal = match &other {
                    Some(active) if active.id == id => Refusal::Page { next_page: active.pages },
                    _ => self.missing(id, self.last_import),
                };
                self.incoming = other;
                Err(refusal)
            }
        }
    }

    fn abort_import(&mut self, id: MoveId) -> Result<Effect, Refusal> {
        match self.incoming.take() {
            Some(active) if active.id == id => {
                self.last_import = Some(Ended { id, committed: false });
                self.purge_more(&active.slots);
                Ok(Effect::Done)
            }
            other => {
                self.incoming = other;
                let ended = self.abort_absent(id, self.last_import)?;
                self.last_import = ended;
                Ok(Effect::Done)
            }
        }
    }

    fn begin_export(&mut self, id: MoveId, slots: SlotSet, fits: bool, facts: &GroupFacts) -> Result<Effect, Refusal> {
        if let Some(active) = self.outgoing.as_ref().filter(|active| active.id == id) {
            return begun_before(&active.slots, &slots);
        }
        self.check_begin(id, &slots, self.last_export, self.outgoing.as_ref().map(|active| active.id))?;
        if !self.owned.contains_all(&slots) {
            return Err(Refusal::NotOwned);
        }
        facts.check_version(fits)?;
        self.last_move = id;
        self.outgoing = Some(Outgoing { id, slots, fence: None, changes: 0 });
        Ok(Effect::Done)
    }

    fn fence(&mut self, id: MoveId, facts: &GroupFacts) -> Result<Effect, Refusal> {
        let missing = self.missing(id, self.last_export);
        let Some(active) = self.outgoing.as_mut().filter(|active| active.id == id) else { return Err(missing) };
        let now = FencePoint { changes: active.changes, revision: facts.revision, clock_ms: facts.clock_ms };
        let at = *active.fence.get_or_insert(now);
        let slots = active.slots.clone();
        let knows = facts.version >= SLOT_TIME_VERSION;
        let times = if knows { self.times.at(&slots, at.clock_ms) } else { Vec::new() };
        Ok(Effect::Fenced { at, times })
    }

    fn abort_export(&mut self, id: MoveId, facts: &GroupFacts) -> Result<Effect, Refusal> {
        if let Some(active) = self.outgoing.take_if(|active| active.id == id) {
            if let Some(fence) = active.fence.filter(|_| facts.version >= SLOT_TIME_VERSION) {
                // Slot time continues from the value at the fence.
                self.times.shift(&active.slots, offset_of(fence.clock_ms, facts.clock_ms));
            }
            self.last_export = Some(Ended { id, committed: false });
        } else {
            self.last_export = self.abort_absent(id, self.last_export)?;
        }
        Ok(Effect::Done)
    }

    fn release(&mut self, id: MoveId) -> Result<Effect, Refusal> {
        if self.last_export == Some(Ended { id, committed: true }) {
            return Ok(Effect::Done);
        }
        match self.outgoing.take() {
            Some(active) if active.id == id && active.fence.is_some() => {
                self.owned = self.owned.difference(&active.slots);
                self.times.set(&active.slots, 0);
                self.last_export = Some(Ended { id, committed: true });
                self.purge_more(&active.slots);
                Ok(Effect::Done)
            }
            other => {
                let refusal = match &other {
                    Some(active) if active.id == id => Refusal::Step("not fenced".to_owned()),
                    _ => self.missing(id, self.last_export),
                };
                self.outgoing = other;
                Err(refusal)
            }
        }
    }

    /// Refuses to begin a move if finished, late, empty, or in conflict with an active move.
    fn check_begin(
        &self,
        id: MoveId,
        slots: &SlotSet,
        ended: Option<Ended>,
        active: Option<MoveId>,
    ) -> Result<(), Refusal> {
        match (ended, active) {
            (Some(ended), _) if ended.id == id => Err(over(ended)),
            _ if id <= self.last_move => Err(Refusal::Aborted),
            (_, Some(active)) => Err(Refusal::Busy { id: active }),
            _ if slots.is_empty() => Err(Refusal::Step("one of no slots".to_owned())),
            _ => Ok(()),
        }
    }

    /// Refuses slots already owned, being imported, or waiting for a purge.
    fn check_room(&self, slots: &SlotSet) -> Result<(), Refusal> {
        let overlaps = |other: &SlotSet| other.overlaps(slots);
        if overlaps(&self.owned) || self.incoming.as_ref().is_some_and(|active| overlaps(&active.slots)) {
            return Err(Refusal::Owned);
        }
        if self.purge.as_ref().is_some_and(|purge| overlaps(&purge.slots)) {
            return Err(Refusal::PurgePending);
        }
        Ok(())
    }

    /// Returns the refusal for a command of a move not under way.
    fn missing(&self, id: MoveId, ended: Option<Ended>) -> Refusal {
        match ended {
            Some(ended) if ended.id == id => over(ended),
            _ if id <= self.last_move => Refusal::Aborted,
            _ => Refusal::Unknown,
        }
    }

    /// Aborts a move not under way; returns the new result of the last move in this direction. A move never begun here
    /// counts as aborted, so a late begin command finds the move finished.
    fn abort_absent(&mut self, id: MoveId, ended: Option<Ended>) -> Result<Option<Ended>, Refusal> {
        match self.missing(id, ended) {
            Refusal::Unknown => {
                self.last_move = id;
                Ok(Some(Ended { id, committed: false }))
            }
            Refusal::Aborted if ended.is_some_and(|ended| ended.id == id) => Ok(ended),
            refusal => Err(refusal),
        }
    }

    /// Restarts the purge: keys of the added slots may be anywhere.
    fn purge_more(&mut self, slots: &SlotSet) {
        let before = self.purge.take().map(|purge| purge.slots).unwrap_or_default();
        self.purge = Some(PurgeState { slots: before.union(slots), cursor: Bytes::new() });
    }
}

fn over(ended: Ended) -> Refusal {
    if ended.committed { Refusal::Committed } else { Refusal::Aborted }
}

fn begun_before(active: &SlotSet, asked: &SlotSet) -> Result<Effect, Refusal> {
    if active == asked { Ok(Effect::Done) } else { Err(Refusal::Step(format!("under way with the slots {active}"))) }
}

/// Decodes a page and checks all records: in `slots` and storable. `is_strict`: also checks the bound of revisions.
fn sound_records(page: &[u8], slots: &SlotSet, is_strict: bool) -> Result<Vec<ImportRecord>, Refusal> {
    let malformed = |what: String| Refusal::Malformed(what);
    let page = ImportPage::decode(page).map_err(|error| malformed(error.to_string()))?;
    for record in &page.records {
        let (slot, key) = match record {
            ImportRecord::Value { key, .. } | ImportRecord::Absent { key } => (slot_of(key), key),
            ImportRecord::Idempotency { slot, key, .. } => (*slot, key),
        };
        if slot >= SLOTS || !slots.contains(slot) {
            return Err(malformed(format!("slot {slot} is not in the move")));
        }
        if key.is_empty() || key.len() > MAX_IMPORT_KEY_BYTES {
            return Err(malformed(format!("a key has {} bytes", key.len())));
        }
        if let ImportRecord::Value { revision, create_revision, .. } = record
            && (*create_revision == 0 || create_revision > revision)
        {
            return Err(malformed(format!("revision {revision} of a key created at {create_revision}")));
        }
        if is_strict {
            check_record(record)?;
        }
    }
    Ok(page.records)
}
