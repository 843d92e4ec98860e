//! [`next_step`]: what a move needs next, decided from what is recorded and from where both groups stand. Pure.
//!
//! A group is described by one of its nodes, which may be behind, and two coordinators may act at once. Neither does
//! harm: a view is only ever replaced by one that is further, each action is decided again by the group's log, and what
//! is recorded is recorded by compare-and-set.

use bytes::Bytes;
use raftkv_kv::{MoveId, Ownership, Refusal, SLOT_TIME_VERSION, SlotTime, SystemAnswer};
use raftkv_proto::{ClusterVersion, FIRST_VERSION};

use crate::control::document::records::MoveStep;

/// Where a move stands at its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceView {
    /// Nothing was begun yet, as far as is known.
    NotBegun,
    /// Changes are recorded.
    Exporting,
    /// The slots are not served.
    Fenced {
        /// Changes recorded in all.
        changes: u64,
        /// The group's revision.
        revision: u64,
        /// The group's clock.
        clock_ms: u64,
        /// What the time of the slots is; empty where the group knows no slot time.
        times: Vec<SlotTime>,
    },
    /// The slots are not owned any more.
    Released,
    /// The slots are served again, and the move never begins again.
    Aborted,
    /// A later move was begun: this one is over, and whoever thinks otherwise is behind.
    Later,
}

/// Where a move stands at its target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetView {
    /// Nothing was begun yet, as far as is known.
    NotBegun,
    /// Pages are taken.
    Importing {
        /// So many so far.
        pages: u64,
        /// Where the export goes on.
        cursor: Bytes,
    },
    /// The slots are owned here. For ever decided.
    Committed,
    /// The move never happens. For ever decided.
    Aborted,
    /// A later move was begun.
    Later,
}

impl SourceView {
    /// As the group's state says, which has that cluster version.
    pub fn of(ownership: &Ownership, version: ClusterVersion, id: MoveId) -> Self {
        let times = |slots, clock_ms| match version >= SLOT_TIME_VERSION {
            true => ownership.times.at(slots, clock_ms),
            false => Vec::new(),
        };
        match (&ownership.outgoing, ownership.last_export) {
            (Some(out), _) if out.id == id => match out.fence {
                Some(at) => Self::Fenced {
                    changes: at.changes,
                    revision: at.revision,
                    clock_ms: at.clock_ms,
                    times: times(&out.slots, at.clock_ms),
                },
                None => Self::Exporting,
            },
            (_, Some(ended)) if ended.id == id => {
                if ended.committed {
                    Self::Released
                } else {
                    Self::Aborted
                }
            }
            _ if ownership.last_move > id => Self::Later,
            _ => Self::NotBegun,
        }
    }

    fn rank(&self) -> u8 {
        match self {
            Self::NotBegun => 0,
            Self::Exporting => 1,
            Self::Fenced { .. } => 2,
            Self::Released | Self::Aborted => 3,
            Self::Later => 4,
        }
    }

    /// Takes the newer of two views: a node that is behind takes nothing back.
    pub fn advance(&mut self, seen: Self) {
        if seen.rank() > self.rank() {
            *self = seen;
        }
    }
}

impl TargetView {
    /// As the group's state says.
    pub fn of(ownership: &Ownership, id: MoveId) -> Self {
        match (&ownership.incoming, ownership.last_import) {
            (Some(incoming), _) if incoming.id == id => {
                Self::Importing { pages: incoming.pages, cursor: incoming.cursor.clone() }
            }
            (_, Some(ended)) if ended.id == id => {
                if ended.committed {
                    Self::Committed
                } else {
                    Self::Aborted
                }
            }
            _ if ownership.last_move > id => Self::Later,
            _ => Self::NotBegun,
        }
    }

    fn rank(&self) -> (u8, u64) {
        match self {
            Self::NotBegun => (0, 0),
            Self::Importing { pages, .. } => (1, *pages),
            Self::Committed | Self::Aborted => (2, 0),
            Self::Later => (3, 0),
        }
    }

    /// Takes the newer of two views: a node that is behind takes nothing back.
    pub fn advance(&mut self, seen: Self) {
        if seen.rank() > self.rank() {
            *self = seen;
        }
    }
}

/// How far the copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CopyView {
    /// So little is left that fencing now is a short pause; or it was waited for long enough.
    pub fence_now: bool,
    /// Of which number of pages the next is true.
    pub at_page: u64,
    /// Changes that the target has; `None` = the base is not copied yet, or it is not known.
    pub changes_done: Option<u64>,
}

/// All that is known of a move besides what is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Views {
    /// The source.
    pub source: SourceView,
    /// The target.
    pub target: TargetView,
    /// What lies between them.
    pub copy: CopyView,
    /// Nothing is left to purge at the source.
    pub source_purged: bool,
    /// Nothing is left to purge at the target.
    pub target_purged: bool,
}

impl Default for Views {
    /// Nothing is known.
    fn default() -> Self {
        Self {
            source: SourceView::NotBegun,
            target: TargetView::NotBegun,
            copy: CopyView::default(),
            source_purged: false,
            target_purged: false,
        }
    }
}

/// What a move needs next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// At the target.
    BeginImport,
    /// At the source.
    BeginExport,
    /// A page from the source, where `cursor` says, to the target, as its page of this number.
    CopyPage {
        /// The number that the target expects.
        page: u64,
        /// Where the source goes on.
        cursor: Bytes,
    },
    /// In the document: the source is about to be fenced.
    RecordFencing,
    /// At the source.
    Fence,
    /// At the target.
    Commit {
        /// Pages imported.
        pages: u64,
        /// The source's revision when it was fenced.
        revision: u64,
        /// The source's clock when it was fenced.
        clock_ms: u64,
        /// What the time of the slots was then.
        times: Vec<SlotTime>,
    },
    /// In the document: the target owns the slots.
    RecordCommitted,
    /// At the source.
    Release,
    /// In the document: the source has released.
    RecordReleased,
    /// At the source, until nothing is left; then [`Action::RecordFinished`].
    PurgeSource,
    /// In the document: the move cannot be committed any more.
    RecordAborted,
    /// At the target.
    AbortImport,
    /// At the source.
    AbortExport,
    /// At the target, until nothing is left; then [`Action::RecordFinished`].
    PurgeTarget,
    /// In the document: the move is over.
    RecordFinished,
    /// What is known contradicts itself. Most likely some of it is out of date: everything is to be asked for again. When it
    /// stays so, a group lost what it had promised, and somebody has to look.
    Impossible(&'static str),
}

impl Action {
    /// As the log and the tests name it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::BeginImport => "begin-import",
            Self::BeginExport => "begin-export",
            Self::CopyPage { .. } => "copy-page",
            Self::RecordFencing => "record-fencing",
            Self::Fence => "fence",
            Self::Commit { .. } => "commit",
            Self::RecordCommitted => "record-committed",
            Self::Release => "release",
            Self::RecordReleased => "record-released",
            Self::PurgeSource => "purge-source",
            Self::RecordAborted => "record-aborted",
            Self::AbortImport => "abort-import",
            Self::AbortExport => "abort-export",
            Self::PurgeTarget => "purge-target",
            Self::RecordFinished => "record-finished",
            Self::Impossible(_) => "stop",
        }
    }

    /// Whether it is taken at the source, rather than at the target.
    pub fn is_at_source(&self) -> bool {
        matches!(self, Self::BeginExport | Self::Fence | Self::Release | Self::AbortExport | Self::PurgeSource)
    }
}

/// The next action of the move of which `step` is recorded.
pub fn next_step(step: MoveStep, views: &Views) -> Action {
    use {SourceView as S, TargetView as T};
    let copy = &views.copy;
    match step {
        MoveStep::Copying | MoveStep::Fencing => match (&views.target, &views.source) {
            (T::Committed, _) => Action::RecordCommitted,
            (T::Aborted, _) => Action::RecordAborted,
            (T::Later, _) | (_, S::Later) => Action::Impossible("a later move was begun while this one was under way"),
            (_, S::Released) => Action::Impossible("the source released slots that the target has not committed"),
            (_, S::Aborted) => Action::RecordAborted,
            (T::NotBegun, _) => Action::BeginImport,
            (T::Importing { .. }, S::NotBegun) => Action::BeginExport,
            (T::Importing { .. }, S::Exporting) if step == MoveStep::Fencing => Action::Fence,
            (T::Importing { .. }, S::Exporting) if copy.fence_now => Action::RecordFencing,
            (T::Importing { pages, .. }, S::Fenced { changes, revision, clock_ms, times })
                if copy.at_page == *pages && copy.changes_done.is_some_and(|done| done >= *changes) =>
            {
                Action::Commit { pages: *pages, revision: *revision, clock_ms: *clock_ms, times: times.clone() }
            }
            (T::Importing { pages, cursor }, S::Exporting | S::Fenced { .. }) => {
                Action::CopyPage { page: *pages, cursor: cursor.clone() }
            }
        },
        MoveStep::Releasing => match views.source {
            S::Aborted => Action::Impossible("the source serves on what the target has committed"),
            S::Released | S::Later => Action::RecordReleased,
            // A node that is behind may not know of the fence; the group's log does.
            S::NotBegun | S::Exporting | S::Fenced { .. } => Action::Release,
        },
        MoveStep::Purging if views.source_purged => Action::RecordFinished,
        MoveStep::Purging => Action::PurgeSource,
        MoveStep::Aborting => match (&views.target, &views.source) {
            (T::Committed, _) => Action::RecordCommitted,
            (T::NotBegun | T::Importing { .. }, _) => Action::AbortImport,
            (T::Aborted | T::Later, S::Released) => Action::Impossible("the source released slots of an aborted move"),
            (T::Aborted | T::Later, S::NotBegun | S::Exporting | S::Fenced { .. }) => Action::AbortExport,
            (T::Aborted | T::Later, S::Aborted | S::Later) if !views.target_purged => Action::PurgeTarget,
            (T::Aborted | T::Later, S::Aborted | S::Later) if !views.source_purged => Action::PurgeSource,
            (T::Aborted | T::Later, S::Aborted | S::Later) => Action::RecordFinished,
        },
        MoveStep::Claiming | MoveStep::Disowning => Action::Impossible("nothing is copied by this move"),
    }
}

/// The cluster versions of both groups as they were last seen. They never fall, so they may be higher by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    source: ClusterVersion,
    target: ClusterVersion,
}

impl Default for Versions {
    fn default() -> Self {
        Self { source: FIRST_VERSION, target: FIRST_VERSION }
    }
}

impl Versions {
    /// The source's, which does not rise while it exports.
    pub fn source(&self) -> ClusterVersion {
        self.source
    }

    /// A node of the source says so; it may be behind.
    pub fn see_source(&mut self, version: ClusterVersion) {
        self.source = self.source.max(version);
    }

    /// A node of the target says so; it may be behind.
    pub fn see_target(&mut self, version: ClusterVersion) {
        self.target = self.target.max(version);
    }

    /// Why the target might not understand what the source exports. Where there is a reason no export may begin.
    pub fn gap(&self) -> Option<String> {
        let Self { source, target } = self;
        (target < source).then(|| format!("its cluster version is {target}, and that of the source {source}"))
    }
}

/// What the answer to an action means for the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Learned {
    /// It went on.
    Went,
    /// What was believed of the group is out of date: ask where it stands.
    Behind,
    /// Leftovers of an earlier move must be purged at the target first.
    Unpurged,
    /// The source's cluster version has risen since it was asked.
    Risen,
    /// The group will never do it.
    Hopeless(String),
}

impl Views {
    /// Takes note of what a group's log answered to a command of `action`. A page's cursor is noted by
    /// [`imported`](Self::imported).
    pub fn learn(&mut self, action: &Action, answer: &SystemAnswer) -> Learned {
        match action {
            Action::BeginImport | Action::CopyPage { .. } | Action::Commit { .. } | Action::AbortImport => {
                self.learn_target(action, answer)
            }
            Action::BeginExport | Action::Fence | Action::Release | Action::AbortExport => {
                self.learn_source(action, answer)
            }
            Action::PurgeSource | Action::PurgeTarget => match answer {
                SystemAnswer::Purged { done, .. } => {
                    let purged = match action {
                        Action::PurgeSource => &mut self.source_purged,
                        _ => &mut self.target_purged,
                    };
                    *purged |= done;
                    Learned::Went
                }
                answer => unexpected(answer),
            },
            Action::RecordFencing
            | Action::RecordCommitted
            | Action::RecordReleased
            | Action::RecordAborted
            | Action::RecordFinished
            | Action::Impossible(_) => unexpected(answer),
        }
    }

    /// The target has taken the page before `next_page`, which ended at `cursor`.
    pub fn imported(&mut self, next_page: u64, cursor: Bytes) {
        self.target.advance(TargetView::Importing { pages: next_page, cursor });
    }

    fn learn_target(&mut self, action: &Action, answer: &SystemAnswer) -> Learned {
        let view = match (answer, action) {
            (SystemAnswer::Done, Action::BeginImport) => TargetView::Importing { pages: 0, cursor: Bytes::new() },
            (SystemAnswer::Done, Action::Commit { .. }) => TargetView::Committed,
            (SystemAnswer::Done, Action::AbortImport) => TargetView::Aborted,
            (SystemAnswer::Imported { .. }, Action::CopyPage { .. }) => return Learned::Went,
            (SystemAnswer::Refused(Refusal::Committed), _) => TargetView::Committed,
            // Over by a later one, too; were that so, what is recorded next would be refused as outdated.
            (SystemAnswer::Refused(Refusal::Aborted), _) => TargetView::Aborted,
            (SystemAnswer::Refused(Refusal::PurgePending), Action::BeginImport) => return Learned::Unpurged,
            (SystemAnswer::Refused(Refusal::Page { .. }), _) => return Learned::Behind,
            (answer, _) => return unexpected(answer),
        };
        self.target.advance(view);
        Learned::Went
    }

    fn learn_source(&mut self, action: &Action, answer: &SystemAnswer) -> Learned {
        let view = match (answer, action) {
            (SystemAnswer::Done, Action::BeginExport) => SourceView::Exporting,
            (SystemAnswer::Fenced { changes, revision, clock_ms, times }, Action::Fence) => {
                SourceView::Fenced { changes: *changes, revision: *revision, clock_ms: *clock_ms, times: times.clone() }
            }
            (SystemAnswer::Done, Action::Release) => SourceView::Released,
            (SystemAnswer::Done, Action::AbortExport) => SourceView::Aborted,
            (SystemAnswer::Refused(Refusal::Committed), _) => SourceView::Released,
            (SystemAnswer::Refused(Refusal::Aborted), Action::AbortExport) => SourceView::Later,
            (SystemAnswer::Refused(Refusal::Aborted), _) => return Learned::Behind,
            (SystemAnswer::Refused(Refusal::ClusterVersion { .. }), Action::BeginExport) => return Learned::Risen,
            (answer, _) => return unexpected(answer),
        };
        self.source.advance(view);
        Learned::Went
    }
}

fn unexpected(answer: &SystemAnswer) -> Learned {
    Learned::Hopeless(match answer {
        SystemAnswer::Refused(refusal) => refusal.to_string(),
        answer => format!("an answer that does not fit: {answer:?}"),
    })
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
