//! [`Reader`]: batched reads of routers.

use std::time::{Duration, Instant};

use futures::stream::{FuturesUnordered, Stream, StreamExt};
use raftkv_backend::{BackendError, Consistency, Entry};
use raftkv_kv::Key;
use raftkv_proto::group as pb;
use raftkv_proto::group::read_response::Outcome;
use raftkv_proto::group::read_result::Result as Found;
use raftkv_runtime::shutdown::Shutdown;
use raftkv_store::{Many, NotServed, Store, StoreError};
use tonic::{Status, Streaming};

use super::answers::{Answers, answers};
use super::{Timeouts, UNCOUNTED_BYTES, status};
use crate::backend::{EngineBackend, RETRY_AFTER, read_failed};
use crate::budget::{Budget, Share};

/// Maximum requests of a stream in progress; the stream is not read beyond the limit.
pub(super) const MAX_IN_FLIGHT: usize = 64;
/// Maximum keys per request.
pub(super) const MAX_KEYS: usize = 4_096;
/// Up to this number of keys, the lookup runs on the current thread, which costs less than a handover.
const INLINE_KEYS: usize = 64;
/// Maximum answer size: the message size limit, with a margin.
pub(super) const MAX_ANSWER_BYTES: usize = 48 * 1024 * 1024;

/// Time until a client not reading an answer counts as gone; unread answers are dropped.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// Check interval of [`ANSWER_PATIENCE`].
const PATIENCE_TICK: Duration = Duration::from_secs(1);

/// Dependencies for serving reads.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) backend: EngineBackend,
    pub(super) timeouts: Timeouts,
    /// Budget for bytes in flight.
    pub(super) room: Budget,
}

type Answer = Result<pb::ReadResponse, Status>;
/// An answer with the share of the byte budget.
type Roomed = (Answer, Option<Share>);

/// Result of a lookup.
enum Values {
    /// The values, with the share of the byte budget.
    All(Many, Option<Share>),
    /// Larger than the maximum answer.
    TooLarge,
    /// The byte budget is exhausted.
    NoRoom,
}

impl Reader {
    /// Returns the answers to `requests` in order of completion, produced by a task with the lifetime of the stream.
    /// After `stop` no more requests are read.
    ///
    /// A separate task is needed because the server does not poll the stream of a client not reading: deadlines would
    /// not expire, and finished reads would hold a turn and memory forever.
    pub(super) fn serve(
        self,
        requests: Streaming<pb::ReadRequest>,
        stop: Shutdown,
        share: Share,
    ) -> impl Stream<Item = Answer> {
        let (answers, stream) = answers();
        tokio::spawn(async move {
            let _held = share;
            self.pump(requests, stop, answers).await;
        });
        // From here on the gate of the port counts the bytes.
        stream.map(|(answer, _room)| answer)
    }

    async fn pump(&self, mut requests: Streaming<pb::ReadRequest>, stop: Shutdown, answers: Answers<Roomed>) {
        let mut working = FuturesUnordered::new();
        let mut is_ended = false;
        // Time of the last progress: an answer was taken, or none was unread.
        let mut moved_on = Instant::now();
        let mut tick = tokio::time::interval(PATIENCE_TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let unread = answers.waiting();
            if is_ended && working.is_empty() && unread == 0 {
                return;
            }
            if unread == 0 {
                moved_on = Instant::now();
            }
            let has_room = working.len() + unread < MAX_IN_FLIGHT;
            tokio::select! {
                biased;
                Some(answer) = working.next() => {
                    let answer: Roomed = answer;
                    if answer.0.is_err() {
                        // An error is the last message of a stream.
                        working.clear();
                        is_ended = true;
                    }
                    answers.push(answer);
                }
                () = answers.taken() => {
                    if answers.is_closed() {
                        return;
                    }
                    moved_on = Instant::now();
                }
                () = stop.wait(), if !is_ended => is_ended = true,
                request = requests.message(), if has_room && !is_ended => match request {
                    Ok(Some(request)) => working.push(self.answer(request)),
                    Ok(None) => is_ended = true,
                    Err(status) => {
                        working.clear();
                        is_ended = true;
                        answers.push((Err(status), None));
                    }
                },
                _ = tick.tick() => {
                    if moved_on.elapsed() >= ANSWER_PATIENCE {
                        return answers.take_back();
                    }
                }
            }
        }
    }

    /// `Err` ends the stream: either the request is invalid, or the answer exceeds the message size limit, in which
    /// case the client must ask for less.
    async fn answer(&self, request: pb::ReadRequest) -> Roomed {
        match self.try_answer(request).await {
            Ok((answer, share)) => (Ok(answer), share),
            Err(status) => (Err(status), None),
        }
    }

    async fn try_answer(&self, request: pb::ReadRequest) -> Result<(pb::ReadResponse, Option<Share>), Status> {
        let pb::ReadRequest { id, timeout_ms, keys, .. } = request;
        let consistency = consistency(request.consistency)?;
        if keys.len() > MAX_KEYS {
            return Err(Status::invalid_argument(format!("{} keys in one request; {MAX_KEYS} at most", keys.len())));
        }
        let keys: Vec<Key> = keys.into_iter().map(Key::from_stored).collect();
        let Ok(_asked) = share_of(&self.room, keys.iter().map(|key| key.as_bytes().len()).sum()) else {
            return Ok((pb::ReadResponse { id, outcome: Some(no_room()) }, None));
        };
        let deadline = self.timeouts.deadline(timeout_ms);
        let read = || async {
            let store = self.backend.store();
            // Taken before the read: the data read is at least as new.
            let store_revision = store.revision();
            let values = if keys.len() <= INLINE_KEYS {
                get(store, &keys, &self.room)
            } else {
                let (keys, room) = (keys.clone(), self.room.clone());
                self.backend.scan(deadline, move |store| get(store, &keys, &room)).await?
            };
            Ok((values.map_err(read_failed)?, store_revision))
        };
        let mut held = None;
        let outcome = match self.backend.barriers().read(consistency, deadline, read).await {
            Ok((Values::All(values, share), store_revision)) => {
                held = share;
                Outcome::Results(results(values, store_revision))
            }
            Ok((Values::NoRoom, _)) => no_room(),
            Ok((Values::TooLarge, _)) => {
                return Err(Status::resource_exhausted(format!(
                    "the values have more than {MAX_ANSWER_BYTES} bytes together, which is what an answer holds: ask for fewer keys"
                )));
            }
            Err(error) => Outcome::Refused(status::refused(&error)),
        };
        Ok((pb::ReadResponse { id, outcome: Some(outcome) }, held))
    }
}

fn get(store: &Store, keys: &[Key], room: &Budget) -> Result<Values, StoreError> {
    let many = match keys {
        // The common case of one caller: cheaper, with the same result.
        [key] => match store.get(key) {
            Ok(entry) => Some(vec![Ok(entry)]),
            Err(StoreError::WrongGroup) => Some(vec![Err(NotServed)]),
            Err(error) => return Err(error),
        },
        keys => store.get_many(keys, MAX_ANSWER_BYTES)?,
    };
    let Some(many) = many else { return Ok(Values::TooLarge) };
    let bytes = many.iter().flatten().flatten().map(Entry::bytes).sum();
    Ok(share_of(room, bytes).map_or(Values::NoRoom, |share| Values::All(many, share)))
}

/// Takes a share of the byte budget; not needed for small sizes. `Err` = the budget is exhausted.
fn share_of(room: &Budget, bytes: usize) -> Result<Option<Share>, ()> {
    if bytes <= UNCOUNTED_BYTES {
        return Ok(None);
    }
    room.take(bytes).map(Some).ok_or(())
}

fn no_room() -> Outcome {
    metrics::counter!("raftkv_engine_reads_shed_total").increment(1);
    Outcome::Refused(status::refused(&BackendError::Overloaded { retry_after: RETRY_AFTER }))
}

fn results(values: Many, store_revision: u64) -> pb::ReadResults {
    let found = |value: Result<Option<Entry>, NotServed>| match value {
        Ok(Some(stored)) => Found::Entry(entry(stored)),
        Ok(None) => Found::Absent(true),
        Err(NotServed) => Found::WrongGroup(true),
    };
    let results = values.into_iter().map(|value| pb::ReadResult { result: Some(found(value)) });
    pb::ReadResults { results: results.collect(), store_revision }
}

/// Converts an entry to the wire format.
pub(super) fn entry(stored: Entry) -> pb::Entry {
    pb::Entry {
        key: stored.key.into_bytes(),
        value: stored.value.map(raftkv_kv::Value::into_msgpack).unwrap_or_default(),
        revision: stored.revision,
        create_revision: stored.create_revision,
        expires_at_ms: stored.expires_at_ms,
    }
}

/// Parses the consistency level.
pub(super) fn consistency(asked: i32) -> Result<Consistency, Status> {
    match pb::Consistency::try_from(asked) {
        Ok(pb::Consistency::Linearizable) => Ok(Consistency::Linearizable),
        Ok(pb::Consistency::Quorum) => Ok(Consistency::Quorum),
        Ok(pb::Consistency::Stale) => Ok(Consistency::Stale),
        Err(_) => Err(status::of_backend(BackendError::Rejected(format!("consistency {asked} is not known here")))),
    }
}
