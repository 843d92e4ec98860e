//! Between openraft's types and the messages on the wire, in both directions.
//!
//! Encoding never fails. Decoding refuses what is missing or malformed with a [`WireError`]; it never guesses.

use std::time::Duration;

use openraft::raft::{AppendEntriesRequest, StreamAppendError, VoteRequest, VoteResponse};
use prost::Message;
use raftkv_proto::raft as proto;
use tonic::Status;

use crate::raft::types::{
    Command, Entry, EntryPayload, LeaderId, LogId, Membership, StoredMembership, TypeConfig, Vote,
};

/// The highest index of a log entry that is taken from a message: sessions are numbered by it in 48 bits, and no arithmetic on it overflows.
/// At a million entries a second a log comes there in nine years.
pub const MAX_INDEX: u64 = (1 << 48) - 2;

/// What an append gave: how far the peer's log matches, or why it does not.
pub type AppendOutcome = Result<Option<LogId>, StreamAppendError<TypeConfig>>;

/// A message that cannot be understood.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A field the protocol requires is not there.
    #[error("the field {0} is missing")]
    Missing(&'static str),
    /// A field whose bytes do not decode.
    #[error("the field {field} is malformed: {reason}")]
    Malformed {
        /// Which.
        field: &'static str,
        /// Why.
        reason: String,
    },
}

impl From<WireError> for Status {
    fn from(error: WireError) -> Self {
        Status::invalid_argument(error.to_string())
    }
}

/// A log id for the wire.
pub fn log_id(id: &LogId) -> proto::LogId {
    proto::LogId { leader_id: Some(leader_id(id.committed_leader_id())), index: id.index() }
}

/// A log id from the wire.
pub fn parse_log_id(id: proto::LogId) -> Result<LogId, WireError> {
    let leader = id.leader_id.ok_or(WireError::Missing("log_id.leader_id"))?;
    if id.index > MAX_INDEX {
        let reason = format!("the index is {}; the highest is {MAX_INDEX}", id.index);
        return Err(WireError::Malformed { field: "log_id.index", reason });
    }
    Ok(LogId::new(LeaderId { term: leader.term, node_id: leader.node_id }, id.index))
}

/// A log id as opaque bytes for the engine; empty = none.
pub fn log_id_bytes(id: Option<&LogId>) -> bytes::Bytes {
    id.map(|id| log_id(id).encode_to_vec().into()).unwrap_or_default()
}

/// What [`log_id_bytes`] made.
pub fn parse_log_id_bytes(bytes: &[u8]) -> Result<Option<LogId>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let id = proto::LogId::decode(bytes)
        .map_err(|error| WireError::Malformed { field: "position.log_id", reason: error.to_string() })?;
    parse_log_id(id).map(Some)
}

/// A stored membership as opaque bytes (JSON, openraft's serde form).
pub fn stored_membership_bytes(membership: &StoredMembership) -> bytes::Bytes {
    // Plain data with string keys: JSON can always hold it.
    serde_json::to_vec(membership).unwrap_or_default().into()
}

/// What [`stored_membership_bytes`] made; empty bytes are the default: no members, at no log id.
pub fn parse_stored_membership(bytes: &[u8]) -> Result<StoredMembership, WireError> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    serde_json::from_slice(bytes)
        .map_err(|error| WireError::Malformed { field: "membership", reason: error.to_string() })
}

/// A membership as opaque bytes (JSON, openraft's serde form).
pub fn membership_bytes(membership: &Membership) -> bytes::Bytes {
    serde_json::to_vec(membership).unwrap_or_default().into()
}

/// What [`membership_bytes`] made.
pub fn parse_membership(bytes: &[u8]) -> Result<Membership, WireError> {
    serde_json::from_slice(bytes)
        .map_err(|error| WireError::Malformed { field: "membership", reason: error.to_string() })
}

fn leader_id(id: &LeaderId) -> proto::LeaderId {
    proto::LeaderId { term: id.term, node_id: id.node_id }
}

/// A vote for the wire.
pub fn vote(vote: &Vote) -> proto::Vote {
    proto::Vote { leader_id: Some(leader_id(&vote.leader_id)), committed: vote.committed }
}

/// A vote from the wire.
pub fn parse_vote(vote: Option<proto::Vote>) -> Result<Vote, WireError> {
    let vote = vote.ok_or(WireError::Missing("vote"))?;
    let leader = vote.leader_id.ok_or(WireError::Missing("vote.leader_id"))?;
    Ok(Vote { leader_id: LeaderId { term: leader.term, node_id: leader.node_id }, committed: vote.committed })
}

fn entry(entry: Entry) -> proto::LogEntry {
    use proto::log_entry::Payload;
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(Command { wall_ms: clock_ms, group_clock_ms, mut payloads }) => match payloads.len() {
            1 => Payload::Command(proto::Command { clock_ms, payload: payloads.remove(0), group_clock_ms }),
            _ => Payload::Commands(proto::Commands { clock_ms, payloads, group_clock_ms }),
        },
        EntryPayload::Membership(membership) => Payload::Membership(membership_bytes(&membership)),
    };
    proto::LogEntry { log_id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

fn parse_entry(entry: proto::LogEntry) -> Result<Entry, WireError> {
    use proto::log_entry::Payload;
    let log_id = parse_log_id(entry.log_id.ok_or(WireError::Missing("entry.log_id"))?)?;
    let payload = match entry.payload.ok_or(WireError::Missing("entry.payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Command(proto::Command { clock_ms, payload, group_clock_ms }) => {
            EntryPayload::Normal(Command { wall_ms: clock_ms, group_clock_ms, payloads: vec![payload] })
        }
        Payload::Commands(proto::Commands { payloads, group_clock_ms: 0, .. }) if payloads.is_empty() => {
            return Err(WireError::Missing("entry.commands.payloads"));
        }
        Payload::Commands(proto::Commands { clock_ms, payloads, group_clock_ms }) => {
            EntryPayload::Normal(Command { wall_ms: clock_ms, group_clock_ms, payloads })
        }
        Payload::Membership(bytes) => EntryPayload::Membership(parse_membership(&bytes)?),
    };
    Ok(Entry { log_id, payload })
}

/// An append for the wire.
pub fn append_request(request: AppendEntriesRequest<TypeConfig>) -> proto::AppendRequest {
    proto::AppendRequest {
        vote: Some(vote(&request.vote)),
        prev_log_id: request.prev_log_id.as_ref().map(log_id),
        entries: request.entries.into_iter().map(entry).collect(),
        leader_commit: request.leader_commit.as_ref().map(log_id),
        leader_trouble: None,
        group_clock_ms: 0,
        successor: None,
    }
}

/// An append from the wire.
pub fn parse_append_request(request: proto::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, WireError> {
    Ok(AppendEntriesRequest {
        vote: parse_vote(request.vote)?,
        prev_log_id: request.prev_log_id.map(parse_log_id).transpose()?,
        entries: request.entries.into_iter().map(parse_entry).collect::<Result<_, _>>()?,
        leader_commit: request.leader_commit.map(parse_log_id).transpose()?,
    })
}

/// An append's outcome for the wire, with the promise that goes with a success.
pub fn append_response(outcome: AppendOutcome, promise: Duration) -> proto::AppendResponse {
    use proto::append_response::Outcome;
    let outcome = match outcome {
        Ok(matched) => Outcome::Matched(proto::Matched { log_id: matched.as_ref().map(log_id) }),
        Err(StreamAppendError::Conflict(expected)) => Outcome::Conflict(log_id(&expected)),
        Err(StreamAppendError::HigherVote(higher)) => Outcome::HigherVote(vote(&higher)),
    };
    let promise_ms = match outcome {
        Outcome::Matched(_) => u32::try_from(promise.as_millis()).unwrap_or(u32::MAX),
        Outcome::Conflict(_) | Outcome::HigherVote(_) => 0,
    };
    proto::AppendResponse { outcome: Some(outcome), promise_ms, disk_nearly_full: false }
}

/// An append's outcome from the wire.
pub fn parse_append_response(response: proto::AppendResponse) -> Result<AppendOutcome, WireError> {
    use proto::append_response::Outcome;
    Ok(match response.outcome.ok_or(WireError::Missing("append_response.outcome"))? {
        Outcome::Matched(matched) => Ok(matched.log_id.map(parse_log_id).transpose()?),
        Outcome::Conflict(expected) => Err(StreamAppendError::Conflict(parse_log_id(expected)?)),
        Outcome::HigherVote(higher) => Err(StreamAppendError::HigherVote(parse_vote(Some(higher))?)),
    })
}

/// A request for a vote for the wire.
pub fn vote_request(request: &VoteRequest<TypeConfig>, pre_vote: bool) -> proto::VoteRequest {
    proto::VoteRequest {
        vote: Some(vote(&request.vote)),
        last_log_id: request.last_log_id.as_ref().map(log_id),
        pre_vote,
        leadership_transfer: request.leadership_transfer,
    }
}

/// A request for a vote from the wire.
pub fn parse_vote_request(request: proto::VoteRequest) -> Result<VoteRequest<TypeConfig>, WireError> {
    Ok(VoteRequest {
        vote: parse_vote(request.vote)?,
        last_log_id: request.last_log_id.map(parse_log_id).transpose()?,
        leadership_transfer: request.leadership_transfer,
    })
}

/// The answer to a request for a vote for the wire.
pub fn vote_response(response: &VoteResponse<TypeConfig>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote(&response.vote)),
        last_log_id: response.last_log_id.as_ref().map(log_id),
        granted: response.vote_granted,
    }
}

/// The answer to a request for a vote from the wire.
pub fn parse_vote_response(response: proto::VoteResponse) -> Result<VoteResponse<TypeConfig>, WireError> {
    Ok(VoteResponse {
        vote: parse_vote(response.vote)?,
        last_log_id: response.last_log_id.map(parse_log_id).transpose()?,
        vote_granted: response.granted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_no_log_comes_to_is_refused_wherever_it_stands() {
        let at = |index| Some(proto::LogId { leader_id: Some(proto::LeaderId { term: 1, node_id: 2 }), index });
        let vote = Some(proto::Vote { leader_id: Some(proto::LeaderId { term: 1, node_id: 2 }), committed: true });
        let entry =
            |index| proto::LogEntry { log_id: at(index), payload: Some(proto::log_entry::Payload::Blank(true)) };
        let good = proto::AppendRequest { vote, prev_log_id: at(MAX_INDEX), ..Default::default() };
        parse_append_request(good).expect("the highest");
        for bad in [
            proto::AppendRequest { vote, prev_log_id: at(MAX_INDEX + 1), ..Default::default() },
            proto::AppendRequest { vote, leader_commit: at(u64::MAX), ..Default::default() },
            proto::AppendRequest { vote, entries: vec![entry(1), entry(u64::MAX)], ..Default::default() },
        ] {
            let error = parse_append_request(bad).unwrap_err();
            assert!(matches!(error, WireError::Malformed { field: "log_id.index", .. }), "{error}");
        }
        let stands = proto::VoteRequest { vote, last_log_id: at(u64::MAX), ..Default::default() };
        assert!(parse_vote_request(stands).is_err());
    }
}
