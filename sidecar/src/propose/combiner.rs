//! [`Combiner`]: puts proposals of several engines that wait at the leader into one log entry.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use raftkv_kv::MAX_CLOCK_MS;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{Applied, Refused, RefusedReason, Unknown};
use raftkv_runtime::gather::Gather;
use raftkv_runtime::stage::Stage;
use tokio::sync::{Notify, oneshot};

use crate::engine::state_machine::Raft;
use crate::raft::group_clock::GroupClock;
use crate::raft::types::Command;

/// Entries under way at once. Every entry costs each node an append, an fsync, a message and an answer, whatever is in it:
/// who comes while these are under way shares the next one.
const ENTRIES_IN_FLIGHT: usize = 1;
/// So many bytes fill an entry: it is worth its cost, waiting for company gains nothing, and what one entry does to the disk
/// another may do to the network meanwhile.
const FULL_BYTES: usize = 64 * 1024;
/// Entries under way at once while those that wait fill another.
const FULL_ENTRIES_IN_FLIGHT: usize = 4;
/// Payloads of one entry: each engine has few under way, so this is for many engines and routers.
const MAX_PAYLOADS: usize = 64;
/// Bytes of one entry, unless its first payload alone is larger.
const MAX_BYTES: usize = 1024 * 1024;
/// Bytes that wait at most, unless a first payload alone is larger; more is refused as overload. Engines and routers have a batch of a
/// megabyte under way each.
pub(crate) const MAX_WAITING_BYTES: usize = 256 * 1024 * 1024;
/// How long an entry waits for those who were just answered. Their engines gather them first, each a millisecond at most, and
/// those of followers hear of the answer one hop later and are one hop further away.
const LONGEST_WAIT: Duration = Duration::from_millis(2);
/// After so many entries in a row for one proposer there is no other, and this one has gathered its callers itself: its next does not
/// wait. Where there are several, one may be quick enough to have an entry or two to itself.
const LONE_ENTRIES: u32 = 8;

/// What waits at this leader to be proposed. Cheap to clone.
///
/// An engine packs its writers' operations into batches; this packs the batches of several engines into entries, by the same
/// rule: nothing waits while fewer than [`ENTRIES_IN_FLIGHT`] are under way, but for those who were just answered. Who brings
/// much does not wait for others, up to [`FULL_ENTRIES_IN_FLIGHT`].
#[derive(Clone, Default)]
pub struct Combiner {
    state: Arc<Mutex<State>>,
    /// One more waits.
    arrived: Arc<Notify>,
}

struct State {
    waiting: VecDeque<Waiting>,
    /// Of `waiting`.
    waiting_bytes: usize,
    /// Of `waiting`.
    waiting_callers: usize,
    /// Entries under way, each with a task of its own that proposes the next when it is done.
    in_flight: usize,
    gather: Gather,
    /// Entries in a row that one proposer had to itself, see [`LONE_ENTRIES`].
    lone_entries: u32,
}

/// What a task is to do.
#[derive(Debug)]
enum Next {
    Write(Vec<Waiting>),
    /// Until then, or one more has arrived.
    Wait(Instant),
    End,
}

#[derive(Debug, Clone, Copy)]
struct Count {
    payloads: usize,
    callers: usize,
}

#[derive(Debug)]
struct Waiting {
    payload: Bytes,
    callers: usize,
    since: Instant,
    until: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl Default for State {
    fn default() -> Self {
        let gather = Gather::within(LONGEST_WAIT);
        Self { waiting: VecDeque::new(), waiting_bytes: 0, waiting_callers: 0, in_flight: 0, gather, lone_entries: 0 }
    }
}

impl State {
    fn push(&mut self, waiting: Waiting) {
        self.waiting_bytes += waiting.payload.len();
        self.waiting_callers += waiting.callers;
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.payload.len();
        self.waiting_callers -= waiting.callers;
        Some(waiting)
    }

    /// Whether so many bytes more may wait.
    fn has_room(&self, bytes: usize) -> bool {
        self.waiting.is_empty() || self.waiting_bytes + bytes <= MAX_WAITING_BYTES
    }

    /// Whether what waits fills an entry.
    fn is_full(&self) -> bool {
        self.waiting_bytes >= FULL_BYTES
    }

    /// How many entries may be under way now.
    fn allowed(&self) -> usize {
        if self.is_full() { FULL_ENTRIES_IN_FLIGHT } else { ENTRIES_IN_FLIGHT }
    }

    /// What a task does now. One that is to end is not counted any more.
    fn next(&mut self, now: Instant) -> Next {
        // There were more because much had waited; those that are left are enough for what waits now.
        if self.in_flight <= self.allowed() {
            if !self.waiting.is_empty()
                && !self.is_full()
                && self.lone_entries < LONE_ENTRIES
                && !self.gather.is_over(self.waiting_callers, now)
                && let Some(due) = self.gather.due(now)
            {
                return Next::Wait(due);
            }
            let taken = self.take();
            if !taken.is_empty() {
                return Next::Write(taken);
            }
        }
        // Under the lock: who comes next starts a task anew.
        self.in_flight -= 1;
        Next::End
    }

    fn count(&self) -> Count {
        Count { payloads: self.waiting.len(), callers: self.waiting_callers }
    }

    /// An entry is done, and who was in it is answered. `others` waited for the next one when it was committed; who waits now may be
    /// one of those answered who is back already, and is not counted twice.
    fn written(&mut self, answered: Count, others: Option<Count>, now: Instant) {
        let others = others.unwrap_or_else(|| self.count());
        // A proposer has one payload under way.
        let is_lone = answered.payloads + others.payloads == 1;
        self.lone_entries = if is_lone { self.lone_entries.saturating_add(1) } else { 0 };
        self.gather.answered(answered.callers, others.callers, now);
    }

    /// Payloads for one entry, without those that nobody waits for any more.
    fn take(&mut self) -> Vec<Waiting> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some(next) = self.waiting.front() {
            let length = next.payload.len();
            if !taken.is_empty() && (bytes + length > MAX_BYTES || taken.len() == MAX_PAYLOADS) {
                break;
            }
            let Some(next) = self.pop() else { break };
            if !next.reply.is_closed() {
                bytes += length;
                taken.push(next);
            }
        }
        taken
    }
}

impl Combiner {
    /// Proposes `payload` to `raft`, alone or with others, stamped by `clock`.
    ///
    /// Who gives up should drop the receiver: then it is not proposed if it has not been. The task behind it waits for an
    /// outcome until the last of those who share the entry has given up, so none stays for ever.
    pub fn propose(
        &self,
        raft: &Raft,
        clock: &GroupClock,
        payload: Bytes,
        callers: u32,
        timeout: Duration,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let since = Instant::now();
        let mut state = self.lock();
        if !state.has_room(payload.len()) {
            drop(state);
            metrics::counter!("raftkv_sidecar_proposals_shed_total").increment(1);
            let _ = reply.send(refused(RefusedReason::Overloaded, "the leader has too many proposals waiting"));
            return outcome;
        }
        state.push(Waiting { payload, callers: callers.max(1) as usize, since, until: since + timeout, reply });
        if state.in_flight < state.allowed() {
            state.in_flight += 1;
            tokio::spawn(self.clone().run(raft.clone(), clock.clone()));
        } else {
            self.arrived.notify_one();
        }
        outcome
    }

    /// Proposes an entry that asks for nothing and stamps the group's clock. Nobody waits for it: one that is lost is proposed again.
    pub async fn tick(&self, raft: &Raft, clock: &GroupClock) {
        let stamp_ms = clock.stamp_ms();
        if stamp_ms == 0 {
            return;
        }
        let command = Command { wall_ms: wall_clock_ms(), group_clock_ms: stamp_ms, payloads: Vec::new() };
        if let Err(fatal) = raft.client_write_ff(command, None).await {
            tracing::debug!(%fatal, "the clock was to be stamped while consensus stops");
        }
    }

    /// Proposes what waits, entry after entry, until nothing does.
    async fn run(self, raft: Raft, clock: GroupClock) {
        // What else is ready to run may bring payloads that can share this entry.
        tokio::task::yield_now().await;
        loop {
            let next = self.lock().next(Instant::now());
            match next {
                Next::Write(entry) => {
                    let callers = entry.iter().map(|waiting| waiting.callers).sum();
                    let answered = Count { payloads: entry.len(), callers };
                    let mut others = None;
                    write(&raft, &clock, entry, || others = Some(self.lock().count())).await;
                    self.lock().written(answered, others, Instant::now());
                }
                Next::Wait(due) => {
                    let _ = tokio::time::timeout_at(due.into(), self.arrived.notified()).await;
                }
                Next::End => return,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one entry, and tells those who wait for it. When it is committed, before anybody can have heard of that, it says so: those of
/// this node's engine hear it from there, and may be back before this has ended.
async fn write(raft: &Raft, clock: &GroupClock, mut entry: Vec<Waiting>, on_commit: impl FnOnce()) {
    let payloads = entry.iter_mut().map(|waiting| std::mem::take(&mut waiting.payload)).collect();
    let until = entry.iter().map(|waiting| waiting.until).max();
    let command = Command { wall_ms: wall_clock_ms(), group_clock_ms: clock.stamp_ms(), payloads };
    let begin = Instant::now();
    if let Some(first) = entry.iter().map(|waiting| waiting.since).min() {
        Stage::Gather.took(begin - first);
    }
    let (responder, committed, completed) = ProgressResponder::new();
    if let Err(fatal) = raft.client_write_ff(command, Some(responder)).await {
        tracing::debug!(%fatal, "an entry was proposed while consensus stops");
        return answer_all(entry, &refused(RefusedReason::ShuttingDown, "this node is stopping"));
    }
    let written = async {
        if committed.await.is_ok() {
            Stage::Commit.since(begin);
            on_commit();
        }
        completed.await
    };
    match tokio::time::timeout_at(until.unwrap_or(begin).into(), written).await {
        Ok(Ok(Ok(written))) if written.data.0.len() == entry.len() => {
            let index = written.log_id.index();
            for (waiting, answer) in entry.into_iter().zip(written.data.0) {
                let outcome = match answer.is_empty() {
                    // The engine had applied it before its answer was lost.
                    true => unknown("applied, but the answer was lost"),
                    false => Outcome::Applied(Applied { index, answer }),
                };
                let _ = waiting.reply.send(outcome);
            }
        }
        Ok(Ok(Ok(_))) => answer_all(entry, &unknown("applied, but not answered one by one")),
        Ok(Ok(Err(ClientWriteError::ForwardToLeader(_)))) => {
            answer_all(entry, &refused(RefusedReason::NoLeader, "this node does not lead (any more)"));
        }
        Ok(Ok(Err(error))) => {
            tracing::debug!(%error, "an entry was proposed and given up");
            answer_all(entry, &unknown("leadership moved before the entry was applied"));
        }
        Ok(Err(_)) => answer_all(entry, &unknown("consensus stopped before the entry was applied")),
        Err(_) => answer_all(entry, &unknown("the entry was not applied in time")),
    }
}

fn answer_all(entry: Vec<Waiting>, outcome: &Outcome) {
    for waiting in entry {
        let _ = waiting.reply.send(outcome.clone());
    }
}

/// Certainly not applied, now or later.
pub fn refused(reason: RefusedReason, message: &str) -> Outcome {
    Outcome::Refused(Refused { reason: reason.into(), message: message.to_owned() })
}

/// Applied or not, now or later.
pub fn unknown(message: &str) -> Outcome {
    Outcome::Unknown(Unknown { message: message.to_owned() })
}

/// The wall clock. Below the cluster version that has a group clock the state machine takes the maximum; from there on it decides nothing.
fn wall_clock_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    u64::try_from(since).unwrap_or(MAX_CLOCK_MS).min(MAX_CLOCK_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait_for(combiner: &Combiner, bytes: usize, callers: usize) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let payload = vec![7; bytes].into();
        let now = Instant::now();
        combiner.lock().push(Waiting { payload, callers, since: now, until: now, reply });
        outcome
    }

    fn wait(combiner: &Combiner, bytes: usize) -> oneshot::Receiver<Outcome> {
        wait_for(combiner, bytes, 1)
    }

    /// The sizes of the payloads that are written next; none when the task ends.
    fn next(combiner: &Combiner) -> Vec<usize> {
        match combiner.lock().next(Instant::now()) {
            Next::Write(entry) => entry.iter().map(|waiting| waiting.payload.len()).collect(),
            Next::End => Vec::new(),
            Next::Wait(_) => panic!("nobody is expected back"),
        }
    }

    #[test]
    fn those_who_wait_share_an_entry_in_order_and_those_who_left_are_not_proposed() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let _first = wait(&combiner, 1);
        drop(wait(&combiner, 2));
        let _third = wait(&combiner, 3);
        assert_eq!(next(&combiner), [1, 3]);
        assert_eq!(combiner.lock().in_flight, 1);
        assert!(next(&combiner).is_empty(), "nothing waits");
        let state = combiner.lock();
        assert_eq!((state.in_flight, state.waiting_bytes, state.waiting_callers), (0, 0, 0));
    }

    #[test]
    fn much_does_not_wait_for_company_and_little_does() {
        let combiner = Combiner::default();
        let _little = wait(&combiner, FULL_BYTES - 1);
        assert_eq!(combiner.lock().allowed(), ENTRIES_IN_FLIGHT);
        let _much = wait(&combiner, 1);
        assert_eq!(combiner.lock().allowed(), FULL_ENTRIES_IN_FLIGHT);
        combiner.lock().in_flight = 2;
        assert_eq!(next(&combiner), [FULL_BYTES - 1, 1]);
        let _more = wait(&combiner, 1);
        assert!(next(&combiner).is_empty(), "one is under way beside this one, and will take it");
        assert_eq!(combiner.lock().in_flight, 1);
        assert_eq!(next(&combiner), [1]);
    }

    #[test]
    fn those_who_were_just_answered_are_waited_for_but_not_for_long_and_not_once_there_is_enough() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let now = Instant::now();
        combiner.lock().gather.answered(60, 0, now);
        assert!(matches!(combiner.lock().next(now), Next::End), "nothing to write is nothing to wait for");
        combiner.lock().in_flight = 1;
        let _first = wait_for(&combiner, 1, 20);
        assert!(matches!(combiner.lock().next(now), Next::Wait(due) if due == now + LONGEST_WAIT));
        let _second = wait_for(&combiner, 2, 25);
        assert!(matches!(combiner.lock().next(now + LONGEST_WAIT), Next::Write(entry) if entry.len() == 2));

        let _third = wait_for(&combiner, 3, 20);
        assert!(matches!(combiner.lock().next(now), Next::Wait(_)));
        let _fourth = wait_for(&combiner, 4, 25);
        assert_eq!(next(&combiner), [3, 4], "three quarters of sixty are back");

        let _fifth = wait_for(&combiner, FULL_BYTES, 1);
        assert_eq!(next(&combiner), [FULL_BYTES], "full");
    }

    #[test]
    fn who_is_back_before_the_entry_is_done_is_not_waited_for_again() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let now = Instant::now();
        let _back = wait_for(&combiner, 1, 45);
        combiner.lock().written(Count { payloads: 3, callers: 60 }, Some(Count { payloads: 0, callers: 0 }), now);
        assert!(matches!(combiner.lock().next(now), Next::Write(_)), "three quarters of sixty");
        let _other = wait_for(&combiner, 1, 45);
        combiner.lock().written(Count { payloads: 3, callers: 60 }, None, now);
        assert!(matches!(combiner.lock().next(now), Next::Wait(_)), "three quarters of a hundred and five");
    }

    #[test]
    fn a_proposer_that_is_alone_for_a_while_has_gathered_already_and_two_are_waited_for() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let (now, nobody) = (Instant::now(), Count { payloads: 0, callers: 0 });
        for entry in 1..=LONE_ENTRIES {
            // As a router's whose callers went on to another group.
            let _half = wait_for(&combiner, 1, 16);
            combiner.lock().written(Count { payloads: 1, callers: 32 }, Some(nobody), now);
            let next = combiner.lock().next(now);
            assert_eq!(matches!(next, Next::Write(_)), entry == LONE_ENTRIES, "after {entry}: {next:?}");
            combiner.lock().take();
        }
        let _half = wait_for(&combiner, 1, 16);
        combiner.lock().written(Count { payloads: 2, callers: 32 }, Some(nobody), now);
        assert!(matches!(combiner.lock().next(now), Next::Wait(_)));
        combiner.lock().written(Count { payloads: 1, callers: 16 }, None, now);
        assert!(matches!(combiner.lock().next(now), Next::Wait(_)), "another waits");
    }

    #[test]
    fn an_entry_is_bounded_but_takes_one_payload_of_any_size() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let outcomes: Vec<_> = [MAX_BYTES - 1, 1, 1, 2 * MAX_BYTES, 1].map(|bytes| wait(&combiner, bytes)).into();
        assert_eq!(next(&combiner), [MAX_BYTES - 1, 1]);
        assert_eq!(next(&combiner), [1]);
        assert_eq!(next(&combiner), [2 * MAX_BYTES]);
        assert_eq!(next(&combiner), [1]);
        let many: Vec<_> = (0..=MAX_PAYLOADS).map(|_| wait(&combiner, 1)).collect();
        assert_eq!(next(&combiner).len(), MAX_PAYLOADS);
        drop((outcomes, many));
    }
}
