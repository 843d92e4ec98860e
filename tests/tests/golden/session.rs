//! [`Session`]: a session of this test, as engines and routers have them.

use anyhow::anyhow;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::Message;
use raftkv_kv::{Answer, Batch, Command, Key, Op, Outcome, Proposal, Value};
use raftkv_proto::consensus::{ProposeRequest, ProposeResponse, propose_response};
use raftkv_tests::Node;
use serde::{Deserialize, Serialize};

use super::TIMEOUT_MS;
use super::ledger::Ledger;
use super::wire::Wire;

/// A batch of a session, and the answer that is kept for its repeats. Both encoded, in base64.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct KeptAnswer {
    proposal: String,
    answer: String,
}

impl KeptAnswer {
    /// Proposes the batch again and fails unless the answer is the one of the first time.
    pub(super) async fn check(&self, node: &Node) -> anyhow::Result<()> {
        let answer = propose(node, STANDARD.decode(&self.proposal)?.into()).await?;
        let expected = Answer::decode(&STANDARD.decode(&self.answer)?)?;
        let answer = Answer::decode(&answer)?;
        anyhow::ensure!(answer == expected, "a batch was answered {answer:?} and before {expected:?}");
        Ok(())
    }
}

/// Names it in batches.
pub(super) struct Session(u64);

impl Session {
    /// Opens one.
    pub(super) async fn open(node: &Node) -> anyhow::Result<Self> {
        let answer = propose(node, Proposal::OpenSession.encode()).await?;
        match Answer::decode(&answer)? {
            Answer::SessionOpened { session } => Ok(Self(session)),
            other => Err(anyhow!("a session was answered {other:?}")),
        }
    }

    /// Puts two keys in its first batch.
    pub(super) async fn put(&self, node: &Node, key: &str, ledger: &mut Ledger) -> anyhow::Result<KeptAnswer> {
        let value = Bytes::from_static(b"\xa7session");
        let ops = ["first", "second"].map(|name| {
            let key = Key::from_stored(format!("{key}/{name}"));
            Op::from(Command::Set { key, value: Value::from_stored(value.clone()), expires_at_ms: 0 })
        });
        let batch = Batch { session: self.0, sequence: 1, acknowledged_below: 1, ops: ops.to_vec() };
        let proposal = Proposal::Batch(batch).encode();
        let answer = propose(node, proposal.clone()).await?;
        let Answer::Applied(outcomes) = Answer::decode(&answer)? else {
            return Err(anyhow!("a batch was not applied"));
        };
        for (name, outcome) in ["first", "second"].into_iter().zip(outcomes) {
            let Outcome::Set { revision, created: true } = outcome else {
                return Err(anyhow!("a put became {outcome:?}"));
            };
            ledger.note(&format!("{key}/{name}"), &value, revision);
        }
        Ok(KeptAnswer { proposal: STANDARD.encode(&proposal), answer: STANDARD.encode(&answer) })
    }
}

async fn propose(node: &Node, payload: Bytes) -> anyhow::Result<Bytes> {
    let wire = Wire::tcp(&node.group_address().to_string()).await?;
    let request = ProposeRequest { id: 1, payload, timeout_ms: TIMEOUT_MS, callers: 1, ..ProposeRequest::default() };
    let answer = wire.one("/raftkv.group.v1.Group/Propose", &request).await?;
    match ProposeResponse::decode(answer)?.outcome {
        Some(propose_response::Outcome::Applied(applied)) => Ok(applied.answer),
        other => Err(anyhow!("a proposal was answered {other:?}")),
    }
}
