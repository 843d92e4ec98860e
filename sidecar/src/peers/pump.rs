//! [`pump`]: takes appends from openraft to the connection; [`Sent`]: those without an answer yet.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use openraft::raft::AppendEntriesRequest;
use raftkv_proto::raft as proto;
use raftkv_runtime::clock::boottime_ns;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::raft::group_clock::GroupClock;
use crate::raft::handover::Handover;
use crate::raft::progress::Progress;
use crate::raft::types::{LeaderId, TypeConfig};
use crate::raft::wire;

/// A peer is told of commits no more often than this, and one that comes without entries waits as long for some. So a
/// follower applies several entries at once, for which two of its processes wake up once, and up to twice this later: `stale`
/// reads are older by it. Nobody waits for it, neither writers, whom the leader's engine answers, nor linearizable readers on
/// followers, for whom it is told at once ([`Progress::hurry`]); but a reader who comes alone waits until his node has applied
/// what was left to it, and so does a new leader: a millisecond or two of applying at the most that two cores write.
const COMMIT_HOLD: Duration = Duration::from_millis(10);
/// How long an append that tells nothing new waits: heartbeats tell as much.
const IDLE_HOLD: Duration = Duration::from_millis(10);

/// Appends that were sent and not answered, in order: as which leader, and when.
#[derive(Debug, Default)]
pub(super) struct Sent {
    times: Mutex<VecDeque<(LeaderId, u64)>>,
    one_more: Notify,
}

impl Sent {
    /// One is about to be sent.
    pub(super) fn push(&self, leader: LeaderId) {
        self.lock().push_back((leader, boottime_ns()));
        self.one_more.notify_one();
    }

    /// One was answered: the oldest.
    pub(super) fn answered(&self) -> Option<(LeaderId, u64)> {
        self.lock().pop_front()
    }

    /// How many wait for their answers.
    pub(super) fn unanswered(&self) -> usize {
        self.lock().len()
    }

    /// Returns once one waits for its answer.
    pub(super) async fn any(&self) {
        while self.lock().is_empty() {
            self.one_more.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(LeaderId, u64)>> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a leader tells with each append besides openraft's.
#[derive(Debug, Clone, Default)]
pub(super) struct Told {
    pub(super) clock: GroupClock,
    pub(super) handover: Handover,
}

/// Takes openraft's appends to the connection until either side ends, and tells the peer of no more commits than
/// [`Progress::gate`] lets through.
///
/// A commit index that comes without entries waits a moment: under load the next append carries entries and tells it, too,
/// and half of all messages are saved. One that comes with entries soon after another one is left to a later append. openraft
/// needs no answer to an append that is left out: a later answer stands for all before it. A commit index that the engine has
/// not applied yet is told as soon as it has, by an append of this pump's own: to openraft its answer is one more of the same.
pub(super) async fn pump(
    input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    sender: mpsc::Sender<proto::AppendRequest>,
    sent: Arc<Sent>,
    progress: Progress,
    news: Told,
) {
    // Polled again after its end, while the last commit index is held.
    let mut input = input.fuse();
    let mut applied = progress.watch_applied();
    let mut awaited = progress.watch_awaited();
    // What the peer was sent last, with the commit index it was told; and what openraft wants it told.
    let mut last: Option<AppendEntriesRequest<TypeConfig>> = None;
    let mut wanted = None;
    let mut held = false;
    let mut ended = false;
    let mut since = Instant::now();
    // When the peer was last told of a commit.
    let mut told_at: Option<Instant> = None;
    loop {
        applied.mark_unchanged();
        let told = last.as_ref().and_then(|last| last.leader_commit);
        let has_news = last.is_some() && progress.gate(wanted) > told;
        if ended && !has_news {
            return;
        }
        let told_next = told.map_or(0, |told| told.index + 1);
        let is_awaited = *awaited.borrow_and_update() > told_next;
        let due = match has_news {
            true if is_awaited => since,
            true => since + COMMIT_HOLD,
            false => since + IDLE_HOLD,
        };
        // In a select, only an append with entries may leave before it is time for a commit index.
        let mut is_time = true;
        let mut request = tokio::select! {
            biased;
            next = input.next(), if !ended => match next {
                Some(request) => {
                    wanted = wanted.max(request.leader_commit);
                    let is_known = |last: &AppendEntriesRequest<TypeConfig>| last.prev_log_id == request.prev_log_id;
                    if request.entries.is_empty() && last.as_ref().is_some_and(is_known) {
                        // What was news before has waited since then.
                        if !held && !has_news {
                            since = Instant::now();
                        }
                        held = true;
                        continue;
                    }
                    let is_awaited = *awaited.borrow() > told_next;
                    is_time = is_awaited || told_at.is_none_or(|told_at| told_at.elapsed() >= COMMIT_HOLD);
                    request
                }
                None => {
                    ended = true;
                    continue;
                }
            },
            () = tokio::time::sleep_until(due), if has_news || held => match &last {
                Some(last) => last.clone(),
                None => continue,
            },
            changed = awaited.changed(), if has_news && !is_awaited => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
            changed = applied.changed(), if wanted > told && !has_news => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        };
        request.leader_commit = if is_time { progress.gate(wanted) } else { told };
        if request.leader_commit > told {
            told_at = Some(Instant::now());
        }
        let end = request.entries.last().map(|entry| entry.log_id).or(request.prev_log_id);
        last = Some(AppendEntriesRequest {
            vote: request.vote,
            prev_log_id: end,
            entries: Vec::new(),
            leader_commit: request.leader_commit,
        });
        (held, since) = (false, Instant::now());
        let leader = request.vote.leader_id;
        sent.push(leader);
        let mut request = wire::append_request(request);
        request.group_clock_ms = news.clock.stamp_ms();
        request.successor = news.handover.said_by(leader);
        if sender.send(request).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{Entry, EntryPayload, LogId, Vote};

    const LEADER: LeaderId = LeaderId { term: 1, node_id: 1 };
    const PATIENT: Duration = Duration::from_secs(10);

    fn log_id(index: u64) -> Option<LogId> {
        Some(LogId::new(LEADER, index))
    }

    fn append(prev: u64, entries: std::ops::Range<u64>, commit: u64) -> AppendEntriesRequest<TypeConfig> {
        AppendEntriesRequest {
            vote: Vote { leader_id: LEADER, committed: true },
            prev_log_id: log_id(prev),
            entries: entries
                .map(|index| Entry { log_id: LogId::new(LEADER, index), payload: EntryPayload::Blank })
                .collect(),
            leader_commit: log_id(commit),
        }
    }

    fn commit_of(request: Option<proto::AppendRequest>) -> Option<u64> {
        request.expect("an append").leader_commit.map(|commit| commit.index)
    }

    #[tokio::test]
    async fn a_peer_hears_of_a_commit_once_the_engine_has_applied_it_and_soon_after() {
        let (requests, input) = mpsc::channel(8);
        let (sender, mut wire) = mpsc::channel(8);
        let (progress, sent) = (Progress::default(), Arc::new(Sent::default()));
        progress.set_applied(log_id(3));
        let input = tokio_stream::wrappers::ReceiverStream::new(input);
        let pumping = tokio::spawn(pump(input, sender, sent.clone(), progress.clone(), Told::default()));

        requests.send(append(4, 5..7, 4)).await.expect("taken");
        let first = wire.recv().await.expect("an append");
        assert_eq!((first.entries.len(), commit_of(Some(first))), (2, Some(3)), "4 is not applied here");
        requests.send(append(6, 7..7, 6)).await.expect("taken");
        let held = tokio::time::timeout(IDLE_HOLD / 4, wire.recv()).await;
        assert!(held.is_err(), "there is nothing to tell");
        progress.set_applied(log_id(5));
        let told = tokio::time::timeout(PATIENT, wire.recv()).await.expect("told without being asked again");
        assert_eq!(commit_of(told), Some(5));
        progress.set_applied(log_id(9));
        let told = tokio::time::timeout(PATIENT, wire.recv()).await.expect("told");
        assert_eq!(commit_of(told), Some(6), "no more than is committed");

        // Each waits for an answer of its own, with the time of its own sending.
        let times: Vec<_> = std::iter::from_fn(|| sent.answered()).collect();
        assert_eq!(times.len(), 3);
        assert!(times.is_sorted() && times[0].1 < times[2].1);
        drop(requests);
        tokio::time::timeout(PATIENT, pumping).await.expect("ends with its input").expect("no panic");
    }

    #[tokio::test]
    async fn a_peer_hears_of_several_commits_at_once_unless_somebody_waits() {
        const APPENDS: u64 = 100;
        let (requests, input) = mpsc::channel(1);
        let (sender, mut wire) = mpsc::channel(1);
        let (progress, sent) = (Progress::default(), Arc::new(Sent::default()));
        let input = tokio_stream::wrappers::ReceiverStream::new(input);
        let pumping = tokio::spawn(pump(input, sender, sent, progress.clone(), Told::default()));

        let mut heard = Vec::new();
        for index in 1..=APPENDS {
            progress.set_applied(log_id(index));
            requests.send(append(index, index + 1..index + 2, index)).await.expect("taken");
            let append = loop {
                let append = wire.recv().await.expect("an append");
                heard.push(append.leader_commit.map(|commit| commit.index));
                if !append.entries.is_empty() {
                    break append;
                }
            };
            assert!(append.leader_commit.is_none_or(|commit| commit.index <= index));
        }
        assert!(heard.is_sorted(), "{heard:?}");
        heard.dedup();
        assert!(heard.len() < APPENDS as usize / 2, "every commit was told: {heard:?}");

        // A reader comes before the next entries.
        let news = APPENDS + 1;
        progress.set_applied(log_id(news));
        progress.hurry(news + 1);
        requests.send(append(news, news + 1..news + 2, news)).await.expect("taken");
        assert_eq!(commit_of(wire.recv().await), Some(news), "told with the entries");

        // And after them: an append of its own, long before the commit index would be told by itself.
        let (news, mut at_once) = (news + 1, 0);
        for later in news..news + APPENDS {
            progress.set_applied(log_id(later));
            requests.send(append(later, later + 1..later + 2, later)).await.expect("taken");
            let with_entries = wire.recv().await.expect("an append");
            if commit_of(Some(with_entries)) < Some(later) {
                let begin = Instant::now();
                progress.hurry(later + 1);
                assert_eq!(commit_of(wire.recv().await), Some(later), "told without entries");
                at_once += u32::from(begin.elapsed() < COMMIT_HOLD / 2);
            }
        }
        assert!(at_once > 0, "no reader was hurried for");
        drop(requests);
        tokio::time::timeout(PATIENT, pumping).await.expect("ends with its input").expect("no panic");
    }
}
