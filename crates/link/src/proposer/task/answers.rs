//! Handling of answers and link events.

use std::time::Instant;

use raftkv_backend::BackendError;
use raftkv_kv::Answer;
use raftkv_proto::consensus::propose_response::Outcome as Proposed;
use raftkv_proto::consensus::{ProposeResponse, Refused, RefusedReason};
use raftkv_runtime::reason;
use raftkv_runtime::stage::Stage;

use super::super::batch::{InFlight, Progress};
use super::super::request::Request;
use super::super::session::Session;
use super::super::shortcut::AppliedHere;
use super::super::unknown;
use super::Task;
use crate::stream_link::{self, LinkEvent};

impl Task {
    pub(super) fn on_event(&mut self, event: LinkEvent<ProposeResponse>) {
        let now = Instant::now();
        match event {
            LinkEvent::Opened => {
                if let Some(again) = self.reminder.due("connected") {
                    tracing::info!(peer = self.peer.name(), "connected{again}");
                }
                self.peer.figures().connected.set(1.0);
                self.was_connected = true;
                self.trouble.clear();
            }
            LinkEvent::Answer(ProposeResponse { id, outcome }) => self.on_answer(id, outcome, now),
            LinkEvent::NotOpened(status) => {
                if !self.was_connected {
                    tracing::debug!(peer = self.peer.name(), "not reached: {}", reason::call(&status, ""));
                }
                self.trouble.note(format!("{} cannot be reached: {}", self.peer.name(), reason::call(&status, "")));
            }
            LinkEvent::Lost(status) => {
                if stream_link::is_move(&status) {
                    tracing::info!(peer = self.peer.name(), batches = self.batches.len(), "going to another node");
                } else {
                    let why = reason::call(&status, "");
                    if let Some(again) = self.reminder.due(&why) {
                        tracing::warn!(
                            peer = self.peer.name(),
                            batches = self.batches.len(),
                            "connection lost: {why}{again}"
                        );
                    }
                    self.trouble.note(format!("the connection to {} was lost: {why}", self.peer.name()));
                }
                self.peer.figures().connected.set(0.0);
                if matches!(self.session, Session::Opening { .. }) {
                    self.session = Session::Closed;
                }
                for batch in &mut self.batches {
                    if matches!(batch.progress, Progress::Sent { .. }) {
                        batch.lost(now);
                    }
                }
                self.systems.on_lost(now);
            }
        }
    }

    fn on_answer(&mut self, id: u64, outcome: Option<Proposed>, now: Instant) {
        let outcome = outcome.unwrap_or_else(|| Proposed::Unknown(Default::default()));
        if self.session.is_opening_as(id) {
            self.on_session(outcome, now);
        } else if self.systems.is_sent_as(id) {
            self.on_system(id, outcome, now);
        } else if let Some(at) = self.batches.iter().position(|batch| batch.is_sent_as(id)) {
            match outcome {
                Proposed::Applied(applied) => self.on_applied(at, &applied.answer),
                Proposed::Refused(refused) => self.on_refused(at, &refused, now),
                Proposed::Unknown(unknown) => {
                    self.trouble.note(unknown.message);
                    self.batches[at].lost(now);
                }
            }
        }
        // Otherwise the answer is for an abandoned proposal without a waiter.
    }

    fn on_system(&mut self, id: u64, outcome: Proposed, now: Instant) {
        match outcome {
            Proposed::Applied(applied) => {
                let reply = match Answer::decode(&applied.answer) {
                    Ok(Answer::System(answer)) => Ok(answer),
                    Ok(Answer::Rejected { reason }) => Err(BackendError::Rejected(reason)),
                    other => {
                        tracing::error!(?other, "a system command got an answer of another kind");
                        Err(unknown("the answer is of the wrong kind"))
                    }
                };
                self.trouble.clear();
                self.systems.answer(id, reply);
            }
            Proposed::Refused(refused) if refused.reason() == RefusedReason::TooLarge => {
                self.systems.answer(id, Err(BackendError::Internal(describe(&refused))));
            }
            // Permanent: every node of the same version refuses the same bytes, so no resend.
            Proposed::Refused(refused) if refused.reason() == RefusedReason::NotAdmitted => {
                self.peer.figures().refused.increment(1);
                self.systems.reject(id, describe(&refused));
            }
            Proposed::Refused(refused) => {
                self.peer.figures().refused.increment(1);
                self.trouble.note(describe(&refused));
                self.systems.on_refused(id, now);
            }
            Proposed::Unknown(unknown) => {
                self.trouble.note(unknown.message);
                self.systems.on_unknown(id, now);
            }
        }
    }

    fn on_session(&mut self, outcome: Proposed, now: Instant) {
        self.session = Session::Closed;
        let reason = match outcome {
            Proposed::Applied(applied) => match Answer::decode(&applied.answer) {
                Ok(Answer::SessionOpened { session }) => {
                    tracing::info!(peer = self.peer.name(), session, "write session opened");
                    self.session = Session::Open { session, next_sequence: 1 };
                    self.shortcut.follow(session);
                    self.worked();
                    return;
                }
                other => {
                    tracing::error!(?other, "opening a session got an answer of another kind");
                    "no session was opened".to_owned()
                }
            },
            Proposed::Refused(refused)
                if matches!(refused.reason(), RefusedReason::NoMajority | RefusedReason::OutOfService) =>
            {
                let out_of_service = refused.reason() == RefusedReason::OutOfService;
                let reason = describe(&refused);
                // Waiting does not help any of the queued requests.
                while let Some(request) = self.waiting.pop_front().or_else(|| self.queue.try_recv().ok()) {
                    request.answer(Err(BackendError::Unavailable(reason.clone())));
                }
                self.peer.figures().refused.increment(1);
                if !out_of_service {
                    // Retries are up to clients; the next request detects a new leader.
                    self.trouble.note(reason);
                    return;
                }
                reason
            }
            Proposed::Refused(refused) => describe(&refused),
            Proposed::Unknown(unknown) => unknown.message,
        };
        // A second request is harmless: an unused session expires.
        self.hold_back(reason, now);
    }

    /// Handles an answer from the local state machine. The later answer over the link is ignored.
    pub(super) fn on_applied_here(&mut self, applied: &AppliedHere) {
        let is_it = |batch: &InFlight| batch.session == applied.session && batch.sequence == applied.sequence;
        if let Some(at) = self.batches.iter().position(is_it) {
            self.on_applied(at, &applied.answer);
        }
    }

    fn on_applied(&mut self, at: usize, answer: &[u8]) {
        let batch = self.batches.swap_remove(at);
        match Answer::decode(answer) {
            Ok(Answer::Applied(outcomes)) => {
                Stage::Propose.since(batch.since);
                self.worked();
                self.deletes_apart &= batch.requests.iter().all(Request::only_deletes);
                self.gather.answered(batch.requests.len(), self.waiting.len() + self.queue.len(), Instant::now());
                let sequence = batch.sequence;
                if let Err(got) = batch.answer(outcomes) {
                    tracing::error!(sequence, got, "the number of outcomes differs from the number of operations");
                }
            }
            Ok(Answer::SessionExpired) => self.on_session_expired(batch),
            Ok(Answer::Stale) => {
                // A sequence is only given up together with the waiters.
                tracing::error!(session = batch.session, sequence = batch.sequence, "an active batch is stale");
                batch.fail(&unknown("the batch was answered as stale"));
            }
            // Not applied now, and no other send of the same bytes was applied: every member always interprets the same
            // bytes alike. But a send from before the group reached the last revision may have been applied.
            Ok(Answer::Rejected { reason }) if batch.maybe_applied => batch.fail(&unknown(&reason)),
            Ok(Answer::Rejected { reason }) => batch.fail(&BackendError::Rejected(reason)),
            Ok(Answer::SessionOpened { .. } | Answer::System(_)) => {
                tracing::error!(sequence = batch.sequence, "a batch got an answer of another kind");
                batch.fail(&unknown("the answer is of the wrong kind"));
            }
            Err(error) => {
                tracing::error!(sequence = batch.sequence, "an answer cannot be decoded: {error}");
                batch.fail(&unknown("the answer cannot be read"));
            }
        }
    }

    fn on_session_expired(&mut self, batch: InFlight) {
        if self.session.is(batch.session) {
            tracing::info!(peer = self.peer.name(), session = batch.session, "write session expired");
            self.session = Session::Closed;
        }
        if batch.maybe_applied {
            // An earlier send may have been applied while the session was open; the state machine has no record any
            // more.
            batch.fail(&unknown("the session expired while the write was being repeated"));
        } else {
            self.put_back(batch.requests);
        }
    }

    fn on_refused(&mut self, at: usize, refused: &Refused, now: Instant) {
        let reason = describe(refused);
        self.peer.figures().refused.increment(1);
        let for_good = match refused.reason() {
            RefusedReason::TooLarge => Some(BackendError::Internal(reason.clone())),
            RefusedReason::NotAdmitted => Some(BackendError::Rejected(reason.clone())),
            _ => None,
        };
        if let Some(error) = for_good {
            // Every node of the same version refuses the same bytes. Resending until the deadline would close the lane
            // each time for all other writers. A node of another version may have accepted an earlier send.
            let batch = self.batches.swap_remove(at);
            let error = if batch.maybe_applied { unknown(&reason) } else { error };
            batch.fail(&error);
            return;
        }
        if matches!(refused.reason(), RefusedReason::NoMajority | RefusedReason::OutOfService)
            && !self.batches[at].maybe_applied
        {
            let batch = self.batches.swap_remove(at);
            batch.fail(&BackendError::Unavailable(reason.clone()));
            match refused.reason() {
                RefusedReason::OutOfService => self.hold_back(reason, now),
                // Retries are up to clients; the next request detects a new leader.
                _ => self.trouble.note(reason),
            }
            return;
        }
        if refused.reason() == RefusedReason::DiskFull && !self.batches[at].maybe_applied {
            let batch = self.batches.swap_remove(at);
            self.on_disk_full(batch, reason, now);
            return;
        }
        if self.batches[at].maybe_applied {
            // This send was not applied, but an earlier send may have been: only a repeat of the same sequence can
            // tell.
            self.batches[at].resend_later(now);
        } else {
            // Definitely not applied: the requests are requeued and can be withdrawn again.
            let batch = self.batches.swap_remove(at);
            self.put_back(batch.requests);
        }
        self.hold_back(reason, now);
    }

    /// Fails requests with values and requeues requests with deletes only.
    fn on_disk_full(&mut self, batch: InFlight, reason: String, now: Instant) {
        let (deletes, others): (Vec<_>, Vec<_>) = batch.requests.into_iter().partition(Request::only_deletes);
        if others.is_empty() {
            // Even deletes are refused: treat as any other refusal.
            self.hold_back(reason.clone(), now);
        }
        for request in others {
            request.answer(Err(BackendError::DiskFull(reason.clone())));
        }
        self.deletes_apart = true;
        self.put_back(deletes);
    }

    /// Requeues the requests of a batch definitely not applied, ahead of all others. The sequence is not reused.
    fn put_back(&mut self, requests: Vec<Request>) {
        for request in requests.into_iter().rev() {
            request.mark_waiting();
            if !request.is_abandoned() {
                self.waiting.push_front(request);
            }
        }
    }
}

fn describe(refused: &Refused) -> String {
    match refused.reason() {
        _ if !refused.message.is_empty() => refused.message.clone(),
        RefusedReason::NoLeader => "no leader".to_owned(),
        RefusedReason::Overloaded => "the leader is overloaded".to_owned(),
        RefusedReason::ShuttingDown => "the node is stopping".to_owned(),
        RefusedReason::TooLarge => "the proposal is larger than a log entry may be".to_owned(),
        RefusedReason::DiskFull => "the disk is nearly full".to_owned(),
        RefusedReason::NoMajority => "no leader with a majority".to_owned(),
        RefusedReason::OutOfService => "the node is out of service".to_owned(),
        RefusedReason::NotAdmitted => "no group accepts this proposal".to_owned(),
        RefusedReason::Unspecified => "refused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::super::super::shortcut::Shortcut;
    use super::*;
    use crate::stream_link::StreamLink;
    use crate::trouble::Trouble;

    #[tokio::test]
    async fn a_batch_that_is_refused_for_good_is_answered_at_once_and_closes_no_lane() {
        for (reason, was_lost) in [RefusedReason::NotAdmitted, RefusedReason::TooLarge]
            .into_iter()
            .flat_map(|reason| [(reason, false), (reason, true)])
        {
            let ((_requests, queue), (_systems, system_queue)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
            let link = StreamLink::new(|_| Box::pin(std::future::pending()));
            let mut task = Task::new(link, Shortcut::default().end(), queue, system_queue, Trouble::default());
            let now = Instant::now();
            let (request, mut waiter) = Request::new(Vec::new(), 0, now + Duration::from_secs(60));
            assert!(request.mark_proposed());
            let mut batch = InFlight::new(1, 1, 1, vec![request], now);
            if was_lost {
                batch.lost(now);
            }
            batch.progress = Progress::Sent { id: 7, answer_by: now };
            task.batches.push(batch);
            let refused = Refused { reason: reason.into(), message: "no".to_owned() };
            task.on_answer(7, Some(Proposed::Refused(refused)), now);
            let answer = waiter.try_answer().expect("at once");
            let is_right = match (reason, was_lost) {
                (_, true) => matches!(&answer, Err(BackendError::OutcomeUnknown(why)) if why.starts_with("no; ")),
                (RefusedReason::NotAdmitted, false) => answer == Err(BackendError::Rejected("no".to_owned())),
                (_, false) => answer == Err(BackendError::Internal("no".to_owned())),
            };
            assert!(is_right, "{reason:?}, an earlier send lost: {was_lost}: {answer:?}");
            assert!(task.batches.is_empty() && task.waiting.is_empty() && task.closed_until.is_none());
        }
    }
}
