//! How a node asks to be let in, and keeps being a voter.

use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use axum::http::StatusCode;
use raftkv_runtime::reminder::{Pauses, Reminder};
use tokio::time::Instant;

use super::Lifecycle;
use crate::node::elections::{Elections, Reason};
use crate::node::metrics::{known_leader, metrics_of};
use crate::node::standing::Bar;
use crate::node::twin;
use crate::node::{Group, Phase};
use crate::peers::management::{ADDRESS_IN_USE, CallError, Joiner};

/// How long a call to join may take before it is asked again.
const JOIN_DEADLINE: Duration = Duration::from_secs(10);
/// Between two calls to join, at first.
const JOIN_AGAIN: Duration = Duration::from_secs(1);
/// And at last: a node that is refused again and again has the answer of somebody else to wait for.
const JOIN_SELDOM: Duration = Duration::from_secs(10);
/// Between two looks whether a twin is still there.
const TWIN_LOOK: Duration = Duration::from_secs(2);

/// What this node knows of other processes with its identity.
#[derive(Debug, Default)]
pub(super) struct Traces {
    /// The raft address that the group has for this node, where that is not its own.
    elsewhere: Option<String>,
    /// Where this node last found a twin.
    found_at: Option<String>,
    /// When this node, or the leader, last saw a twin.
    seen: Option<Instant>,
}

/// What became of asking to be made a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is one, or soon.
    Accepted,
    /// The leader sees another process with this identity.
    Twin,
    /// Nobody said yes.
    NotYet,
}

/// What happens on the way to membership: in the log, and why the node waits, for status and readiness.
#[derive(Default)]
pub(super) struct Story {
    reminder: Reminder,
}

impl Lifecycle {
    /// Says what happens, and keeps the last of it.
    pub(super) fn tell(&self, story: &mut Story, text: &str) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = text.to_owned();
        if let Some(again) = story.reminder.due(text) {
            tracing::info!("joining: {text}{again}");
        }
    }

    /// Asks the cluster to make this node a voter, whenever it is not one or is known under old addresses.
    pub(super) async fn stay_member(&self) {
        let mut story = Story::default();
        let mut pauses = Pauses::new(JOIN_AGAIN, JOIN_SELDOM);
        loop {
            let had_twin = self.node.standing.stands(Bar::Duplicate);
            let pause = if had_twin { TWIN_LOOK } else { pauses.wait() };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.wake.notified() => pauses.reset(),
            }
            let Phase::Running(group) = self.node.phase() else {
                continue;
            };
            // An old copy stays one, whatever a later leader knows.
            if self.node.standing.stands(Bar::Stale) {
                continue;
            }
            if self.has_twin(&group, &mut story).await {
                continue;
            }
            let addresses = {
                let metrics = metrics_of(&group);
                let me = self.node.identity.raft_id;
                let stored = &metrics.membership_config;
                let is_voter = stored.voter_ids().any(|voter| voter == me);
                // The log here may be older than the address that the group has by now.
                let is_known =
                    stored.get_node(&me) == Some(&self.node.identity.member()) && self.traces().elsewhere.is_none();
                if is_voter && is_known || Elections::of(&group).is_forbidden_by(Reason::Removed) {
                    if had_twin {
                        self.unbar_twin();
                    }
                    self.reason.lock().unwrap_or_else(PoisonError::into_inner).clear();
                    pauses.reset();
                    continue;
                }
                let leader = known_leader(&metrics);
                // A leader with a twin is to be asked nothing: it hands over.
                let may_ask_itself = leader == Some(me) && !had_twin;
                let mut members: Vec<_> = stored.nodes().filter(|(id, _)| **id != me || may_ask_itself).collect();
                members.sort_by_key(|(id, _)| Some(**id) != leader);
                let known = members.into_iter().map(|(id, member)| match *id == me {
                    // What the group knows of this node may be what is to be changed.
                    true => self.node.identity.management_address.clone(),
                    false => member.management_address.clone(),
                });
                known.chain(self.join.iter().cloned()).collect::<Vec<_>>()
            };
            match self.ask_to_join(&addresses, &mut story).await {
                Asked::Accepted => pauses.reset(),
                Asked::Twin => {}
                // Neither this node nor a leader sees a twin: without a leader its vote may be needed.
                Asked::NotYet if had_twin => self.unbar_twin(),
                Asked::NotYet => {}
            }
        }
    }

    /// Whether this node, which was found to have a twin, must be taken to have it still.
    async fn has_twin(&self, group: &Group, story: &mut Story) -> bool {
        if !self.node.standing.stands(Bar::Duplicate) {
            return false;
        }
        let also: Vec<String> = {
            let traces = self.traces();
            traces.elsewhere.iter().chain(&traces.found_at).cloned().collect()
        };
        if let Some(address) = twin::find(&self.node, group, &also).await {
            let why = self.found_twin(&address);
            self.tell(story, &why);
        }
        // It may be starting again, and its log is the newer one.
        self.traces().seen.is_some_and(|seen| seen.elapsed() < twin::GONE_AFTER)
    }

    /// The raft address that the group has for this node.
    pub(crate) fn known_at(&self, address: &str) {
        let is_elsewhere = address != self.node.identity.raft_address;
        self.traces().elsewhere = is_elsewhere.then(|| address.to_owned());
    }

    fn traces(&self) -> MutexGuard<'_, Traces> {
        self.traces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another process with this node's identity answers at `address`. Returns what this node says of it.
    pub(crate) fn found_twin(&self, address: &str) -> String {
        let why = twin::text(&self.node.identity.name, self.node.identity.raft_id, address);
        self.traces().found_at = Some(address.to_owned());
        self.bar_twin(&why);
        why
    }

    /// From here on this node neither votes nor stands nor serves.
    fn bar_twin(&self, why: &str) {
        self.traces().seen = Some(Instant::now());
        if let Some(group) = self.node.group() {
            Elections::of(&group).forbid(Reason::Duplicate);
        }
        if self.node.standing.bar(Bar::Duplicate, why) {
            tracing::error!("{why}. This process takes no part and serves nothing until the other one is gone");
        }
    }

    /// From here on, and until it ends, this process neither votes nor stands nor serves.
    fn bar_stale(&self, why: &str) {
        if let Some(group) = self.node.group() {
            Elections::of(&group).forbid(Reason::Stale);
        }
        if self.node.standing.bar(Bar::Stale, why) {
            tracing::error!("{why}. This process takes no part and serves nothing");
        }
    }

    fn unbar_twin(&self) {
        if self.node.standing.lift(Bar::Duplicate) {
            tracing::info!("no other process with this node's identity answers any more");
        }
        if let Some(group) = self.node.group() {
            Elections::of(&group).permit(Reason::Duplicate);
        }
    }

    /// Asks one after the other until one says yes, or that it is under way.
    pub(super) async fn ask_to_join(&self, addresses: &[String], story: &mut Story) -> Asked {
        let identity = &self.node.identity;
        let joiner = Joiner { raft_id: identity.raft_id, incarnation: self.node.life.incarnation() };
        let mut said = Vec::new();
        for address in addresses {
            let asked = self.client.ask_to_join(address, &identity.name, &identity.raft_address, joiner, JOIN_DEADLINE);
            let text = match asked.await {
                Ok(changed) => {
                    self.unbar_twin();
                    self.traces().elsewhere = None;
                    self.tell(story, &format!("{address} answered: {}", changed.result));
                    return Asked::Accepted;
                }
                Err(CallError::Refused(problem)) => {
                    let text = format!("{address} refused: {}", problem.detail);
                    // The others would ask the same leader. With another status a node says this of itself, not of this one.
                    if problem.code == Bar::Duplicate.code() && problem.status == StatusCode::CONFLICT.as_u16() {
                        self.tell(story, &text);
                        self.bar_twin(&problem.detail);
                        return Asked::Twin;
                    }
                    if problem.code == Bar::Stale.code() && problem.status == StatusCode::CONFLICT.as_u16() {
                        self.tell(story, &text);
                        self.bar_stale(&problem.detail);
                        return Asked::NotYet;
                    }
                    if problem.code == ADDRESS_IN_USE {
                        self.tell(story, &text);
                        return Asked::NotYet;
                    }
                    text
                }
                Err(error) => error.to_string(),
            };
            self.tell(story, &text);
            said.push(text);
        }
        if !said.is_empty() {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = said.join("; ");
        }
        Asked::NotYet
    }
}
