//! [`Candidacy`]: when this node stands for election.
//!
//! openraft's own timer is off: it knows of silence only. Here a member also stands when the leader's process has ended, which its
//! connections show at once: all of them are gone, and nobody takes a new one. That proves nothing, and need not: a member that stands asks
//! the others first whether they would vote for it (pre-vote, Ongaro's thesis, section 9.6), and a member that has promised a leader
//! to help nobody else says no until the promise is over.

use std::sync::Weak;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::{RaftMetrics, ServerState};
use rand::RngExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::node::elections::Elections;
use crate::node::{Group, Node};
use crate::raft::timing::Timing;
use crate::raft::types::{LeaderId, TypeConfig, Vote};

/// Between two looks, where nothing happens.
const LOOK: Duration = Duration::from_millis(100);
/// The shortest time between two looks.
const QUICK_LOOK: Duration = Duration::from_millis(5);
/// A process that runs takes a connection within this.
const CONNECT_DEADLINE: Duration = Duration::from_millis(50);
/// After a connection was taken though all streams have ended, it is tried again.
const PROBE_AGAIN: Duration = Duration::from_millis(50);
/// Between two attempts while the leader's process is gone: what is missing is the end of the others' promises.
const HINTED_PAUSE: Duration = Duration::from_millis(10);
/// Between two attempts after a silence: the others would have to be reached first.
const SILENT_PAUSE: Duration = Duration::from_millis(150);
/// The random part of that pause, and of [`HOLD`].
const SPREAD: Duration = Duration::from_millis(100);
/// A candidacy, of this node or of another, is left alone for so long; votes wait for disks. Doubled with each that fails.
const HOLD: Duration = Duration::from_millis(150);
/// The longest it is left alone.
const LONGEST_HOLD: Duration = Duration::from_secs(3);

/// What is seen at one moment.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Nothing speaks against it, it is a voter and does not lead.
    may_stand: bool,
    /// The only voter.
    is_alone: bool,
    /// Since a leader was heard, or since the start.
    silent_for: Duration,
    /// The leader of the vote: its process is gone, as far as can be seen.
    is_leader_gone: bool,
    vote: Vote,
}

/// Why it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The process of the leader has ended.
    Gone,
    /// No leader was heard.
    Silent,
    /// The last candidacy, its own or another's, has come to nothing.
    Unelected,
    /// There is no other voter.
    Alone,
}

/// Decides when to stand.
#[derive(Debug)]
struct Candidacy {
    timing: Timing,
    vote: Option<Vote>,
    /// Candidacies since there was a leader.
    failed: u32,
    /// Until when the last one is left alone.
    held_until: Instant,
    /// A silence of this length means something.
    silence: Duration,
    next_try: Instant,
}

impl Candidacy {
    fn new(timing: Timing, now: Instant) -> Self {
        Self { timing, vote: None, failed: 0, held_until: now, silence: silence(&timing), next_try: now }
    }

    /// Whether to stand now.
    fn look(&mut self, view: &View, now: Instant) -> Option<Why> {
        if self.vote != Some(view.vote) {
            self.vote = Some(view.vote);
            self.silence = silence(&self.timing);
            self.failed = if view.vote.committed { 0 } else { self.failed + 1 };
            let hold = HOLD.saturating_mul(1 << (self.failed.max(1) - 1).min(16)).min(LONGEST_HOLD);
            self.held_until = if view.vote.committed { now } else { now + hold + random(SPREAD) };
        }
        if !view.may_stand || now < self.held_until || now < self.next_try {
            return None;
        }
        let (why, pause) = match view {
            view if view.is_alone => (Why::Alone, SILENT_PAUSE),
            // Its own promise.
            view if view.silent_for < self.timing.promise => return None,
            view if view.is_leader_gone => (Why::Gone, HINTED_PAUSE + random(HINTED_PAUSE)),
            view if view.silent_for >= self.silence => (Why::Silent, SILENT_PAUSE + random(SPREAD)),
            view if !view.vote.committed && self.failed > 0 => (Why::Unelected, SILENT_PAUSE + random(SPREAD)),
            _ => return None,
        };
        self.next_try = now + pause;
        Some(why)
    }

    /// When to look again.
    fn next_look(&self, view: &View, now: Instant) -> Duration {
        if !view.may_stand {
            return LOOK;
        }
        let left = |until: Instant| until.saturating_duration_since(now);
        let heard = match view {
            view if view.is_alone => Duration::ZERO,
            view if view.is_leader_gone || (!view.vote.committed && self.failed > 0) => self.timing.promise,
            _ => self.silence,
        };
        let due = heard.saturating_sub(view.silent_for).max(left(self.held_until)).max(left(self.next_try));
        due.clamp(QUICK_LOOK, LOOK)
    }
}

fn silence(timing: &Timing) -> Duration {
    timing.silence + random(timing.spread)
}

fn random(most: Duration) -> Duration {
    most.mul_f64(rand::rng().random_range(0.0..1.0))
}

/// Whether the leader's process is gone, as far as can be seen from here.
#[derive(Debug, Default)]
struct Hint {
    gone: Option<LeaderId>,
    probe_at: Option<Instant>,
}

impl Hint {
    /// Looks at the leader's streams, and tries to connect where they have all ended.
    async fn look(&mut self, group: &Group, metrics: &RaftMetrics<TypeConfig>) -> bool {
        let leader = metrics.vote.leader_id;
        let is_other = metrics.vote.committed && leader.node_id != metrics.id;
        if !is_other || !group.inbound.has_ended(leader.node_id) {
            *self = Self::default();
            return false;
        }
        if self.gone == Some(leader) {
            return true;
        }
        if self.probe_at.is_some_and(|at| Instant::now() < at) {
            return false;
        }
        let Some(member) = metrics.membership_config.get_node(&leader.node_id) else { return false };
        let connecting = TcpStream::connect(member.raft_address.as_str());
        let is_gone = !matches!(tokio::time::timeout(CONNECT_DEADLINE, connecting).await, Ok(Ok(_)));
        // It may have come back meanwhile.
        let is_gone = is_gone && group.inbound.has_ended(leader.node_id);
        self.probe_at = Some(Instant::now() + PROBE_AGAIN);
        self.gone = is_gone.then_some(leader);
        is_gone
    }
}

/// Stands for election whenever it is time, as long as there is the group.
pub(crate) async fn watch(node: Node, group: Weak<Group>) {
    let mut candidacy = match group.upgrade() {
        Some(group) => Candidacy::new(group.timing, Instant::now()),
        None => return,
    };
    let mut hint = Hint::default();
    let mut told: Option<(Vote, Why)> = None;
    loop {
        let Some(group) = group.upgrade() else { return };
        let metrics = group.raft.metrics().borrow_watched().clone();
        let view = view(&node, &group, &metrics, hint.look(&group, &metrics).await);
        let now = Instant::now();
        if let Some(why) = candidacy.look(&view, now) {
            if told != Some((view.vote, why)) {
                told = Some((view.vote, why));
                let (term, silent_for) = (metrics.current_term, view.silent_for);
                match why {
                    Why::Gone => {
                        let leader = metrics.vote.leader_id.node_id;
                        tracing::info!(term, leader, ?silent_for, "the leader's process is gone: asking for votes");
                    }
                    Why::Silent => tracing::info!(term, ?silent_for, "no leader is heard: asking for votes"),
                    Why::Unelected => tracing::info!(term, "nobody was elected: asking for votes"),
                    Why::Alone => tracing::info!(term, "there is no other voter: leading"),
                }
            }
            // An error means that Raft has stopped, which ends the process elsewhere.
            if group.raft.trigger().elect(true).await.is_err() {
                return;
            }
        }
        let (pause, inbound) = (candidacy.next_look(&view, Instant::now()), group.inbound.clone());
        drop(group);
        tokio::select! {
            () = inbound.last_ended() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

fn view(node: &Node, group: &Group, metrics: &RaftMetrics<TypeConfig>, is_leader_gone: bool) -> View {
    let mut voters = metrics.membership_config.voter_ids();
    let is_voter = voters.any(|voter| voter == metrics.id);
    let is_alone = is_voter && metrics.membership_config.voter_ids().count() == 1;
    View {
        may_stand: is_voter && metrics.state != ServerState::Leader && Elections::of(group).are_open(),
        is_alone,
        silent_for: node.leader_silent_for(),
        is_leader_gone,
        vote: metrics.vote,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Member {
        candidacy: Candidacy,
        view: View,
        now: Instant,
    }

    fn vote(term: u64, committed: bool) -> Vote {
        Vote { leader_id: LeaderId { term, node_id: 2 }, committed }
    }

    impl Member {
        fn new() -> Self {
            let now = Instant::now();
            let view = View {
                may_stand: true,
                is_alone: false,
                silent_for: Duration::ZERO,
                is_leader_gone: false,
                vote: vote(1, true),
            };
            Self { candidacy: Candidacy::new(Timing::default(), now), view, now }
        }

        /// Lets the time pass in which no leader is heard; when and why it stands.
        fn pass(&mut self, millis: u64) -> Vec<(u64, Why)> {
            let mut stood = Vec::new();
            for at in 0..millis {
                if let Some(why) = self.candidacy.look(&self.view, self.now) {
                    stood.push((at, why));
                }
                self.now += Duration::from_millis(1);
                self.view.silent_for += Duration::from_millis(1);
            }
            stood
        }
    }

    #[test]
    fn a_silence_counts_after_its_time_and_a_leader_that_is_gone_after_the_own_promise() {
        for _ in 0..100 {
            let mut member = Member::new();
            let stood = member.pass(3_000);
            assert!((800..=1_050).contains(&stood[0].0), "{stood:?}");
            assert!(stood.windows(2).all(|two| two[1].0 - two[0].0 >= 150), "{stood:?}");
            assert!(stood.iter().all(|(_, why)| *why == Why::Silent), "{stood:?}");

            let mut member = Member::new();
            member.view.is_leader_gone = true;
            let stood = member.pass(400);
            assert_eq!(stood[0], (200, Why::Gone));
            assert!(stood.windows(2).all(|two| (10..=21).contains(&(two[1].0 - two[0].0))), "{stood:?}");
        }
    }

    #[test]
    fn a_candidacy_is_left_alone_and_longer_each_time() {
        let mut member = Member::new();
        member.view.is_leader_gone = true;
        member.pass(200);
        let mut waited = Vec::new();
        for term in 2..9 {
            // Its own or another's.
            member.view.vote = vote(term, false);
            member.view.is_leader_gone = false;
            member.view.silent_for = Duration::from_millis(300);
            let stood = member.pass(4_000);
            assert_ne!(stood[0].1, Why::Gone, "{term}: {stood:?}");
            waited.push(stood[0].0);
        }
        assert!((150..251).contains(&waited[0]) && (300..401).contains(&waited[1]), "{waited:?}");
        assert!(waited[6] <= 3_100, "{waited:?}");
        // There is a leader.
        member.view.vote = vote(9, true);
        member.view.silent_for = Duration::ZERO;
        assert!((800..=1_050).contains(&member.pass(1_100)[0].0));
        member.view.vote = vote(10, false);
        assert!((150..251).contains(&member.pass(1_000)[0].0));
    }

    #[test]
    fn one_that_may_not_stand_does_not_and_one_that_is_alone_does_at_once() {
        let mut member = Member::new();
        member.view.may_stand = false;
        assert!(member.pass(5_000).is_empty());
        member.view.may_stand = true;
        assert_eq!(member.pass(1).len(), 1);
        let mut member = Member::new();
        member.view.is_alone = true;
        assert_eq!(member.pass(100), [(0, Why::Alone)]);
    }

    #[test]
    fn it_looks_in_time() {
        let mut member = Member::new();
        assert_eq!(member.candidacy.next_look(&member.view, member.now), LOOK);
        member.view.silent_for = Duration::from_millis(150);
        member.view.is_leader_gone = true;
        assert_eq!(member.candidacy.next_look(&member.view, member.now), Duration::from_millis(50));
        member.view.silent_for = Duration::from_millis(300);
        assert_eq!(member.candidacy.next_look(&member.view, member.now), QUICK_LOOK);
    }
}
