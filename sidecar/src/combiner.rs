//! [`Combiner`]: puts proposals of several engines that wait at the leader into one log entry.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use openraft::errors::ClientWriteError;
use openraft::impls::ProgressResponder;
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::consensus::{Applied, Refused, RefusedReason, Unknown};
use tokio::sync::oneshot;

use crate::node::Group;
use crate::types::Command;

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

/// What waits at this leader to be proposed. Cheap to clone.
///
/// An engine packs its writers' operations into batches; this packs the batches of several engines into entries, by the same
/// rule: nothing waits while fewer than [`ENTRIES_IN_FLIGHT`] are under way. Who brings much does not wait for others, up to
/// [`FULL_ENTRIES_IN_FLIGHT`].
#[derive(Clone, Default)]
pub struct Combiner {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Waiting>,
    /// Of `waiting`.
    waiting_bytes: usize,
    /// Entries under way, each with a task of its own that proposes the next when it is done.
    in_flight: usize,
}

struct Waiting {
    payload: Bytes,
    until: Instant,
    reply: oneshot::Sender<Outcome>,
}

impl State {
    fn push(&mut self, waiting: Waiting) {
        self.waiting_bytes += waiting.payload.len();
        self.waiting.push_back(waiting);
    }

    fn pop(&mut self) -> Option<Waiting> {
        let waiting = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.payload.len();
        Some(waiting)
    }

    /// How many entries may be under way now.
    fn allowed(&self) -> usize {
        match self.waiting_bytes >= FULL_BYTES {
            true => FULL_ENTRIES_IN_FLIGHT,
            false => ENTRIES_IN_FLIGHT,
        }
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
    /// Proposes `payload` to `group`, alone or with others.
    ///
    /// Who gives up should drop the receiver: then it is not proposed if it has not been. The task behind it waits for an
    /// outcome until the last of those who share the entry has given up, so none stays for ever.
    pub fn propose(&self, group: &Arc<Group>, payload: Bytes, timeout: Duration) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let mut state = self.lock();
        state.push(Waiting { payload, until: Instant::now() + timeout, reply });
        if state.in_flight < state.allowed() {
            state.in_flight += 1;
            tokio::spawn(self.clone().run(group.clone()));
        }
        outcome
    }

    /// Proposes what waits, entry after entry, until nothing does.
    async fn run(self, group: Arc<Group>) {
        // What else is ready to run may bring payloads that can share this entry.
        tokio::task::yield_now().await;
        while let Some(entry) = self.take() {
            write(&group, entry).await;
        }
    }

    /// What goes into the next entry; `None` ends the task that asks.
    fn take(&self) -> Option<Vec<Waiting>> {
        let mut state = self.lock();
        // There were more because much had waited; those that are left are enough for what waits now.
        let taken = if state.in_flight <= state.allowed() { state.take() } else { Vec::new() };
        if taken.is_empty() {
            // Under the lock: who comes next starts a task anew.
            state.in_flight -= 1;
            return None;
        }
        Some(taken)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes one entry, and tells those who wait for it.
async fn write(group: &Group, mut entry: Vec<Waiting>) {
    let payloads = entry.iter_mut().map(|waiting| std::mem::take(&mut waiting.payload)).collect();
    let until = entry.iter().map(|waiting| waiting.until).max();
    let command = Command { clock_ms: wall_clock_ms(), payloads };
    let (responder, receiver) = ProgressResponder::complete_only();
    if let Err(fatal) = group.raft.client_write_ff(command, Some(responder)).await {
        return answer_all(entry, &refused(RefusedReason::ShuttingDown, &fatal.to_string()));
    }
    match tokio::time::timeout_at(until.unwrap_or_else(Instant::now).into(), receiver).await {
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
        Ok(Ok(Err(error))) => answer_all(entry, &unknown(&error.to_string())),
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

/// The wall clock, stepping back never within this process: the state machine takes the maximum anyway.
fn wall_clock_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(combiner: &Combiner, bytes: usize) -> oneshot::Receiver<Outcome> {
        let (reply, outcome) = oneshot::channel();
        let payload = vec![7; bytes].into();
        combiner.lock().push(Waiting { payload, until: Instant::now(), reply });
        outcome
    }

    fn sizes(entry: Option<Vec<Waiting>>) -> Vec<usize> {
        entry.into_iter().flatten().map(|waiting| waiting.payload.len()).collect()
    }

    #[test]
    fn those_who_wait_share_an_entry_in_order_and_those_who_left_are_not_proposed() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let _first = wait(&combiner, 1);
        drop(wait(&combiner, 2));
        let _third = wait(&combiner, 3);
        assert_eq!(sizes(combiner.take()), [1, 3]);
        assert_eq!(combiner.lock().in_flight, 1);
        assert!(combiner.take().is_none(), "nothing waits");
        let state = combiner.lock();
        assert_eq!((state.in_flight, state.waiting_bytes), (0, 0));
    }

    #[test]
    fn much_does_not_wait_for_company_and_little_does() {
        let combiner = Combiner::default();
        let _little = wait(&combiner, FULL_BYTES - 1);
        assert_eq!(combiner.lock().allowed(), ENTRIES_IN_FLIGHT);
        let _much = wait(&combiner, 1);
        assert_eq!(combiner.lock().allowed(), FULL_ENTRIES_IN_FLIGHT);
        combiner.lock().in_flight = 2;
        assert_eq!(sizes(combiner.take()), [FULL_BYTES - 1, 1]);
        let _more = wait(&combiner, 1);
        assert!(combiner.take().is_none(), "one is under way beside this one, and will take it");
        assert_eq!(combiner.lock().in_flight, 1);
        assert_eq!(sizes(combiner.take()), [1]);
    }

    #[test]
    fn an_entry_is_bounded_but_takes_one_payload_of_any_size() {
        let combiner = Combiner::default();
        combiner.lock().in_flight = 1;
        let outcomes: Vec<_> = [MAX_BYTES - 1, 1, 1, 2 * MAX_BYTES, 1].map(|bytes| wait(&combiner, bytes)).into();
        assert_eq!(sizes(combiner.take()), [MAX_BYTES - 1, 1]);
        assert_eq!(sizes(combiner.take()), [1]);
        assert_eq!(sizes(combiner.take()), [2 * MAX_BYTES]);
        assert_eq!(sizes(combiner.take()), [1]);
        let many: Vec<_> = (0..=MAX_PAYLOADS).map(|_| wait(&combiner, 1)).collect();
        assert_eq!(sizes(combiner.take()).len(), MAX_PAYLOADS);
        drop((outcomes, many));
    }
}
