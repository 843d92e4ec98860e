//! [`Keeper`]: what the engine was granted, and how it is taken back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use raftkv_proto::consensus::LeaseGrant;
use raftkv_runtime::clock::boottime_ns;
use tokio::sync::{Notify, mpsc};

use crate::raft::types::LeaderId;

/// Grants and revocations on their way to the engine. A grant that finds no room is left out, and a revocation that finds
/// none is waited out.
const QUEUE: usize = 16;

/// Grants the lease to the engine of this node, and revokes it before this node helps another to lead. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Keeper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    taken_back: Notify,
}

#[derive(Debug, Default)]
struct State {
    engine: Option<Engine>,
    streams: u64,
    revocations: u64,
    /// Until when grants on earlier streams may be in use: nobody is left to take them back from.
    earlier_until: u64,
    /// For whom the last grant was.
    granted_to: Option<LeaderId>,
    /// Nothing is granted to this leader any more, nor to any before it.
    barred: Option<LeaderId>,
    /// For whom this node has voted last: nothing is granted to any leader before.
    voted: Option<LeaderId>,
    /// Why this node serves nothing; empty = it serves.
    out_of_service: String,
}

#[derive(Debug)]
struct Engine {
    stream: u64,
    grants: mpsc::Sender<LeaseGrant>,
    /// It reads the same clock.
    admitted: bool,
    until: u64,
    revoking: Option<u64>,
}

/// The engine's end of a stream. Dropping it ends the stream.
#[derive(Debug)]
pub struct EngineStream {
    keeper: Keeper,
    number: u64,
}

impl Keeper {
    /// An engine asks for grants; from now on it is the one that gets them.
    pub fn open(&self) -> (EngineStream, mpsc::Receiver<LeaseGrant>) {
        let (grants, receiver) = mpsc::channel(QUEUE);
        let mut state = self.lock();
        state.streams += 1;
        let number = state.streams;
        if !state.out_of_service.is_empty() {
            // There is room: it is the first message.
            let _ = grants.try_send(out_of_service(&state.out_of_service));
        }
        let engine = Engine { stream: number, grants, admitted: false, until: 0, revoking: None };
        if let Some(earlier) = state.engine.replace(engine) {
            state.earlier_until = state.earlier_until.max(earlier.until);
        }
        (EngineStream { keeper: self.clone(), number }, receiver)
    }

    /// Tells the engine that this node serves nothing, and why; an empty reason: that it serves again.
    pub fn set_out_of_service(&self, why: String) {
        let mut state = self.lock();
        if let Some(engine) = state.engine.take_if(|engine| engine.grants.try_send(out_of_service(&why)).is_err()) {
            // Without room its stream ends, and the one it opens next begins with the reason.
            state.earlier_until = state.earlier_until.max(engine.until);
        }
        state.out_of_service = why;
    }

    /// Lets the engine read until `until_ns` on behalf of `leader`, once it has applied below `next_index`. Left out when it
    /// is not at least `step` more than what it has.
    pub fn grant(&self, leader: LeaderId, until_ns: u64, next_index: u64, step: Duration) {
        let mut state = self.lock();
        if state.is_barred(leader) || !state.out_of_service.is_empty() {
            return;
        }
        let same_leader = state.granted_to == Some(leader);
        let Some(engine) = state.engine.as_mut().filter(|engine| engine.admitted) else { return };
        if engine.revoking.is_some() {
            if boottime_ns() < engine.until {
                return;
            }
            engine.revoking = None;
        }
        let step = u64::try_from(step.as_nanos()).unwrap_or(u64::MAX);
        if until_ns <= engine.until || same_leader && until_ns - engine.until < step {
            return;
        }
        if engine.grants.try_send(LeaseGrant { until_ns, next_index, ..LeaseGrant::default() }).is_ok() {
            engine.until = until_ns;
            state.granted_to = Some(leader);
        }
    }

    /// Whether nothing is granted to `leader` any more.
    pub fn is_barred(&self, leader: LeaderId) -> bool {
        self.lock().is_barred(leader)
    }

    /// Returns once no grant is in use, and none will be for `leader` or any before it: the engine has said so, or the
    /// time has passed.
    pub async fn revoke(&self, leader: LeaderId) {
        {
            let mut state = self.lock();
            state.barred = state.barred.max(Some(leader));
            let number = state.revocations + 1;
            if let Some(engine) = state.engine.as_mut()
                && engine.until > boottime_ns()
                && engine.revoking.is_none()
            {
                engine.revoking = Some(number);
                // Without room it is waited out.
                let _ = engine.grants.try_send(LeaseGrant { revocation: number, ..LeaseGrant::default() });
                state.revocations = number;
            }
        }
        loop {
            let mut taken_back = std::pin::pin!(self.shared.taken_back.notified());
            // From here on a notice is not missed.
            taken_back.as_mut().enable();
            let left = self.lock().outstanding_until().saturating_sub(boottime_ns());
            if left == 0 {
                return;
            }
            tokio::select! {
                () = taken_back => {}
                // By the clock that stands still while the machine is suspended: looked at again afterwards.
                () = tokio::time::sleep(Duration::from_nanos(left)) => {}
            }
        }
    }

    /// To be awaited before a vote for `leader` is stored: what was granted on behalf of another ends first.
    pub async fn before_vote(&self, leader: LeaderId) {
        let granted = {
            let mut state = self.lock();
            state.voted = state.voted.max(Some(leader));
            state.granted_to.filter(|granted| *granted != leader)
        };
        if let Some(granted) = granted {
            self.revoke(granted).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn out_of_service(why: &str) -> LeaseGrant {
    LeaseGrant { out_of_service: why.to_owned(), ..LeaseGrant::default() }
}

impl State {
    fn is_barred(&self, leader: LeaderId) -> bool {
        self.barred >= Some(leader) || self.voted > Some(leader)
    }

    fn outstanding_until(&self) -> u64 {
        self.engine.as_ref().map_or(0, |engine| engine.until).max(self.earlier_until)
    }

    fn engine_of(&mut self, stream: u64) -> Option<&mut Engine> {
        self.engine.as_mut().filter(|engine| engine.stream == stream)
    }
}

impl EngineStream {
    /// The engine reads the same clock as this process: it may be granted something.
    pub fn admit(&self) {
        if let Some(engine) = self.keeper.lock().engine_of(self.number) {
            engine.admitted = true;
        }
    }

    /// The engine uses nothing any more that was granted before revocation `number`.
    pub fn acknowledged(&self, number: u64) {
        if let Some(engine) = self.keeper.lock().engine_of(self.number)
            && engine.revoking == Some(number)
        {
            engine.revoking = None;
            engine.until = 0;
        }
        self.keeper.shared.taken_back.notify_waiters();
    }
}

impl Drop for EngineStream {
    fn drop(&mut self) {
        let mut state = self.keeper.lock();
        if let Some(until) = state.engine_of(self.number).map(|engine| engine.until) {
            // The stream has ended; the engine may not know yet.
            state.earlier_until = state.earlier_until.max(until);
            state.engine = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::ZERO;
    const LEASE: Duration = Duration::from_millis(300);
    const SHORT: Duration = Duration::from_millis(30);

    fn leader(term: u64) -> LeaderId {
        LeaderId { term, node_id: 1 }
    }

    fn from_now(lease: Duration) -> u64 {
        boottime_ns() + lease.as_nanos() as u64
    }

    fn engine(keeper: &Keeper) -> (EngineStream, mpsc::Receiver<LeaseGrant>) {
        let (stream, grants) = keeper.open();
        stream.admit();
        (stream, grants)
    }

    #[tokio::test]
    async fn a_revocation_waits_for_the_engine_and_bars_what_comes_after() {
        let keeper = Keeper::default();
        let (stream, mut grants) = engine(&keeper);
        let until = from_now(Duration::from_secs(60));
        keeper.grant(leader(1), until, 7, STEP);
        assert_eq!(grants.recv().await, Some(LeaseGrant { until_ns: until, next_index: 7, ..LeaseGrant::default() }));
        let revoking = tokio::spawn({
            let keeper = keeper.clone();
            async move { keeper.before_vote(LeaderId { term: 1, node_id: 2 }).await }
        });
        let revocation = grants.recv().await.expect("a revocation").revocation;
        assert_ne!(revocation, 0);
        keeper.grant(leader(2), until + 1, 7, STEP);
        stream.acknowledged(revocation + 1);
        tokio::time::sleep(SHORT).await;
        assert!(!revoking.is_finished(), "the engine has not acknowledged this one");
        assert!(grants.try_recv().is_err(), "nothing is granted in between, not even to another leader");
        stream.acknowledged(revocation);
        tokio::time::timeout(Duration::from_secs(10), revoking).await.expect("in time").expect("no panic");
        keeper.grant(leader(1), until + 2, 7, STEP);
        assert!(grants.try_recv().is_err() && keeper.is_barred(leader(1)), "its term is over for reads");
        keeper.grant(leader(2), until + 3, 7, STEP);
        assert_eq!(grants.recv().await.map(|grant| grant.until_ns), Some(until + 3));
    }

    #[tokio::test]
    async fn after_a_vote_for_another_nothing_is_granted() {
        let keeper = Keeper::default();
        let (_stream, mut grants) = engine(&keeper);
        keeper.before_vote(LeaderId { term: 1, node_id: 2 }).await;
        keeper.grant(leader(1), from_now(LEASE), 0, STEP);
        assert!(grants.try_recv().is_err() && keeper.is_barred(leader(1)));
    }

    #[tokio::test]
    async fn an_engine_that_says_nothing_is_waited_out_also_when_its_stream_is_gone() {
        for gone in [false, true] {
            let keeper = Keeper::default();
            let (stream, mut grants) = engine(&keeper);
            let until = from_now(LEASE);
            keeper.grant(leader(1), until, 0, STEP);
            grants.recv().await.expect("a grant");
            let kept = if gone {
                drop(stream);
                // The next engine had no part in it.
                let (next, _grants) = engine(&keeper);
                next.acknowledged(1);
                next
            } else {
                stream
            };
            keeper.revoke(leader(1)).await;
            assert!(boottime_ns() >= until);
            drop(kept);
        }
    }

    #[tokio::test]
    async fn nothing_outstanding_is_revoked_at_once() {
        let keeper = Keeper::default();
        let (_stream, mut grants) = engine(&keeper);
        keeper.grant(leader(1), boottime_ns(), 0, STEP);
        for revoked in [keeper.revoke(leader(1)), keeper.revoke(leader(1))] {
            tokio::time::timeout(SHORT, revoked).await.expect("at once");
        }
        grants.recv().await.expect("a grant that was over when it came");
        // A vote for the very leader that was granted takes nothing back.
        let until = from_now(Duration::from_secs(60));
        keeper.grant(leader(2), until, 0, STEP);
        tokio::time::timeout(SHORT, keeper.before_vote(leader(2))).await.expect("at once");
        assert_eq!(grants.recv().await.map(|grant| grant.revocation), Some(0));
    }

    #[tokio::test]
    async fn only_the_newest_stream_with_the_same_clock_is_granted_something() {
        let keeper = Keeper::default();
        let (first, mut old) = engine(&keeper);
        let (second, mut new) = keeper.open();
        first.admit();
        keeper.grant(leader(1), from_now(LEASE), 0, STEP);
        assert!(new.try_recv().is_err() && old.recv().await.is_none());
        second.admit();
        let until = from_now(LEASE);
        keeper.grant(leader(1), until, 0, STEP);
        assert_eq!(new.recv().await.map(|grant| grant.until_ns), Some(until));
        keeper.grant(leader(1), until + 1, 0, LEASE);
        assert!(new.try_recv().is_err(), "too little more");
    }
}
