//! What a stranger that reaches the Raft port can do: nothing that lasts.

use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use raftkv_kv::{Batch, Command, Idempotency, Key, Op, Proposal, SystemCommand, Value};
use raftkv_proto::consensus::propose_response::Outcome;
use raftkv_proto::raft::{LeaderId, LogId, TransferLeaderRequest, Vote, VoteRequest};
use raftkv_tests::{Cluster, Flow, Node, Shards, eventually, eventually_within};

/// A new group has its highest cluster version within this.
const SOON: Duration = Duration::from_secs(10);
/// The version from which on leaders name their successors, and members reject what cannot be applied.
const STRICT: u64 = 3;
/// Far above what any log of a test comes to.
const FAR: u64 = 1_000_000_000;

async fn strict(cluster: &Cluster) -> anyhow::Result<()> {
    eventually_within(SOON, "the cluster version is the highest", || async {
        for node in cluster.nodes() {
            let version = u64::from(node.group_peer()?.describe().await?.0.cluster_version);
            // Version 0.1.0 tells none; what strangers do to it is seen with its programs in RAFTKV_BIN_DIR.
            ensure!(version == 0 || version >= STRICT, "{} has {version}", node.name());
        }
        Ok(())
    })
    .await
}

fn set(key: Vec<u8>, value: &'static [u8]) -> Op {
    Command::Set { key: Key::from_stored(key), value: Value::from_stored(value), expires_at_ms: 0 }.into()
}

fn batch(op: Op) -> Bytes {
    Proposal::Batch(Batch { session: 1, sequence: 1, acknowledged_below: 0, ops: vec![op] }).encode()
}

/// What no group can apply, or nobody can read.
fn hostile() -> Vec<Bytes> {
    let put = |key: &'static str, value: &'static str| {
        let (key, value) = (Bytes::from_static(key.as_bytes()), Bytes::from_static(value.as_bytes()));
        Proposal::System(SystemCommand::PutKey { key, expected_version: 0, value }).encode()
    };
    let commit = |revision, clock_ms| {
        Proposal::System(SystemCommand::CommitImport { id: 1, pages: 0, revision, clock_ms, times: vec![] }).encode()
    };
    let keyed = |bytes: usize, keep_ms| Op {
        idempotency: Some(Idempotency { key: vec![7; bytes].into(), fingerprint: 1, keep_ms }),
        ..set(b"k".to_vec(), b"\xc0")
    };
    vec![
        Bytes::new(),
        Bytes::from_static(b"\x01"),
        Bytes::from_static(b"\x01\xc1 not a proposal"),
        Bytes::from_static(b"\x7f of a later version"),
        put("cluster", "not json"),
        put("routers", "[]"),
        put("upgrade", "x"),
        commit(u64::MAX, 0),
        commit(0, u64::MAX),
        batch(keyed(60 * 1024, 1)),
        batch(keyed(8, 7 * 24 * 60 * 60 * 1_000)),
        batch(set(b"k".to_vec(), b"\xc1")),
        batch(set(vec![b'k'; 65_536], b"\xc0")),
        Proposal::System(SystemCommand::RaiseVersion { from: 3, to: 4 }).encode(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_never_gets_into_the_log() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    strict(&cluster).await?;
    let leader = cluster.leader().await?;
    leader.client().put("k", "before").await?.acked()?;
    let cluster_id = leader.status().await?.cluster_id.context("it is in a cluster")?;
    let payloads = hostile();
    let raft_id = leader.status().await?.node.raft_id;
    let outcomes = leader.peer()?.forward(&cluster_id, raft_id, payloads.clone()).await?;
    all_refused(&payloads, outcomes)?;
    // Every process runs, and starts.
    leader.client().put("k", "after").await?.acked()?;
    for node in cluster.nodes() {
        node.stop().await?;
        node.start()?;
    }
    cluster.whole(3).await?;
    cluster.node(1).client().put("k", "after a restart").await?.acked()?;
    cluster.converged().await?;
    cluster.finish().await
}

fn all_refused(payloads: &[Bytes], outcomes: Vec<Option<Outcome>>) -> anyhow::Result<()> {
    for (payload, outcome) in payloads.iter().zip(outcomes) {
        let head = payload[..payload.len().min(60)].escape_ascii().to_string();
        ensure!(matches!(outcome, Some(Outcome::Refused(_))), "{head}: {outcome:?}");
    }
    Ok(())
}

/// Through the Group port, at any node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_document_is_replaced_by_one_that_no_router_reads() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(1).nodes(1).start().await?;
    let before = shards.admin().cluster().await?;
    let node = shards.group(1).node(1);
    let version = node.group_peer()?.system_key("cluster").await?;
    let (key, value) = (Bytes::from_static(b"cluster"), Bytes::from_static(b"not json"));
    let mut payloads = hostile();
    payloads.push(Proposal::System(SystemCommand::PutKey { key, expected_version: version, value }).encode());
    all_refused(&payloads, node.group_peer()?.propose(payloads.clone()).await?)?;
    // A router that starts knows nothing but the document.
    shards.restart_routers("RUST_BACKTRACE", "1").await?;
    shards.router(1).client().put("k", "v").await?.acked()?;
    ensure!(shards.admin().cluster().await?.epoch >= before.epoch, "another document");
    shards.finish().await
}

/// The request of a candidate, and a log that is longer than any.
fn stands(term: u64, node_id: u64, index: u64, leadership_transfer: bool) -> VoteRequest {
    let last = LeaderId { term: term.min(FAR), node_id };
    VoteRequest {
        vote: Some(Vote { leader_id: Some(LeaderId { term, node_id }), committed: false }),
        last_log_id: Some(LogId { leader_id: Some(last), index }),
        pre_vote: false,
        leadership_transfer,
    }
}

async fn raft_id(node: &Node) -> anyhow::Result<u64> {
    Ok(node.status().await?.node.raft_id)
}

/// Asks `node` for its vote in every way that is none of a candidate's, under the term as it is now.
///
/// # Errors
/// Where the term changed meanwhile, or a vote in the next term was got, which the member may have given to a true candidate just then: one
/// that is given to a stranger is given again and again. A far term is a fault at once.
async fn ask_in_vain(cluster: &Cluster, cluster_id: &str, node: &Node) -> anyhow::Result<()> {
    let leader = cluster.leader().await?;
    let (term, led_by) = (leader.status().await?.node.term, raft_id(&leader).await?);
    let (target, mut peer) = (raft_id(node).await?, node.peer()?);
    let member = raft_id(&cluster.others(node)[0]).await?;
    for (what, request) in [
        ("the last term, of a member", stands(u64::MAX, member, FAR, true)),
        ("the last term, of a stranger", stands(u64::MAX, 4_711, FAR, true)),
        ("a term that is far", stands(term + (1 << 21), member, FAR, true)),
        ("the next term, of a member that nobody named", stands(term + 1, member, FAR, true)),
        ("the next term, of the leader that it follows", stands(term + 1, led_by, FAR, true)),
        ("a stranger without a log", VoteRequest { last_log_id: None, ..stands(term + 1, 4_711, 0, false) }),
    ] {
        let answer = peer.vote(cluster_id, target, request).await?;
        let told = answer.vote.and_then(|vote| vote.leader_id).context("the vote of the member")?;
        assert!(told.term < term + (1 << 20), "{what}: {} says that the term is {}", node.name(), told.term);
        ensure!(!answer.granted, "{what}: granted by {}", node.name());
        ensure!(told.term == term, "{what}: {} says that the term is {}", node.name(), told.term);
    }
    // In the name of the leader, whose vote everybody is told.
    let from_leader = Some(Vote { leader_id: Some(LeaderId { term, node_id: led_by }), committed: true });
    for to_node_id in [target, member] {
        let transfer = TransferLeaderRequest { from_leader, to_node_id, last_log_id: None };
        let answer = peer.transfer_leader(cluster_id, target, transfer).await?;
        assert!(!answer.accepted, "{} takes over, or lets others", node.name());
    }
    let after = leader.status().await?;
    ensure!(after.node.leads() && after.node.term == term, "{} in term {}", after.node.role, after.node.term);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_vote_uses_up_the_terms_or_breaks_a_promise() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    strict(&cluster).await?;
    let cluster_id = cluster.leader().await?.status().await?.cluster_id.context("it is in a cluster")?;
    for node in cluster.nodes() {
        // On a busy machine another leader may be elected meanwhile, which proves nothing: what was asked is asked again.
        eventually(&format!("no vote of {} was got", node.name()), || ask_in_vain(&cluster, &cluster_id, node)).await?;
    }
    let leader = cluster.leader().await?;
    leader.client().put("k", "v").await?.acked()?;

    // And a leader is found as ever.
    leader.kill();
    let next = cluster.leader_other_than(&leader).await?;
    eventually("the others write", || async { next.client().put("k", "next").await?.acked() }).await?;
    leader.start()?;
    cluster.whole(3).await?;
    cluster.finish().await
}

/// A member that was cut off while another was replaced has to elect one that it does not know yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_lags_elects_one_that_it_does_not_know() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().partitionable().start().await?;
    strict(&cluster).await?;
    let leader = cluster.leader().await?;
    leader.client().put("k", "before").await?.acked()?;
    let others = cluster.others(&leader);
    let (lagging, replaced) = (others[0].clone(), others[1].clone());
    cluster.converged().await?;
    let new = cluster.add_node().await?;
    cluster.isolate(&lagging);
    new.start()?;
    let is_voter = |name: String, wanted: bool| {
        let leader = leader.clone();
        async move {
            let status = leader.status().await?;
            ensure!(status.voters().contains(&name.as_str()) == wanted, "the voters are {:?}", status.voters());
            Ok(())
        }
    };
    eventually("the new node is a voter", || is_voter(new.name().to_owned(), true)).await?;
    eventually("the old one can be removed", || async {
        let answer = leader.remove(replaced.name()).await?;
        ensure!(answer.status.is_success(), "{answer}");
        Ok(())
    })
    .await?;
    eventually("it is removed", || is_voter(replaced.name().to_owned(), false)).await?;
    replaced.kill();
    leader.client().put("k", "after").await?.acked()?;
    eventually("the new node has it", || async {
        let (all, own) = (leader.status().await?.node.last_log, new.status().await?.node.last_log);
        ensure!(all == own, "it has {own:?} of {all:?}");
        Ok(())
    })
    .await?;

    leader.kill();
    let knows = lagging.status().await?;
    ensure!(!knows.voters().contains(&new.name()), "it was told of the new node: {:?}", knows.voters());
    // What the dead leader had sent to it stays held back, as if it had never been sent.
    cluster.cut(&leader, &lagging, Flow::Closed);
    for (from, to) in [(&lagging, &new), (&new, &lagging)] {
        cluster.cut(from, to, Flow::Open);
    }
    let next = cluster.leader_other_than(&leader).await?;
    ensure!(next.name() == new.name(), "{} leads without the last entries", next.name());
    eventually("the two write", || async { next.client().put("k", "next").await?.acked() }).await?;
    cluster.heal();
    leader.start()?;
    eventually("the killed one follows", || leader.ready()).await?;
    cluster.finish().await
}
