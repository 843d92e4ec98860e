//! The state of consensus as text, under the names of HashiCorp Raft's statistics, known to clients of Arima.

use std::collections::BTreeMap;

use raftkv_proto::consensus::{ConsensusStatus, Member};

/// Returns names and values as text.
pub(crate) fn stats(status: &ConsensusStatus) -> BTreeMap<String, String> {
    let voters = status.members.iter().filter(|member| member.voter).count();
    let is_voter = status.members.iter().any(|member| member.voter && member.raft_id == status.raft_id);
    let leader = status.members.iter().find(|member| member.raft_id == status.leader_raft_id);
    let pairs = [
        ("state", title(&status.role)),
        ("node_id", status.name.clone()),
        ("raft_id", status.raft_id.to_string()),
        ("cluster_id", status.cluster_id.clone()),
        ("term", status.term.to_string()),
        ("leader", leader.map(|leader| leader.name.clone()).unwrap_or_default()),
        ("leader_addr", leader.map(|leader| leader.raft_address.clone()).unwrap_or_default()),
        // The last index of each, not the next: 0 = none.
        ("last_log_index", status.last_log_next_index.saturating_sub(1).to_string()),
        ("commit_index", status.committed_next_index.saturating_sub(1).to_string()),
        ("applied_index", status.applied_next_index.saturating_sub(1).to_string()),
        ("last_snapshot_index", status.snapshot_next_index.saturating_sub(1).to_string()),
        ("fsm_pending", status.committed_next_index.saturating_sub(status.applied_next_index).to_string()),
        ("num_peers", voters.saturating_sub(usize::from(is_voter)).to_string()),
        ("last_contact", last_contact(status)),
        ("latest_configuration", configuration(&status.members)),
        ("log_bytes", status.log_bytes.to_string()),
        ("version", status.version.clone()),
    ];
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn title(role: &str) -> String {
    let mut letters = role.chars();
    letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
}

fn last_contact(status: &ConsensusStatus) -> String {
    if status.role == "leader" { format!("{}ms", status.quorum_ack_age_ms) } else { String::new() }
}

fn configuration(members: &[Member]) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|member| {
            let suffrage = if member.voter { "Voter" } else { "Nonvoter" };
            format!("{{Suffrage:{suffrage} ID:{} Address:{}}}", member.name, member.raft_address)
        })
        .collect();
    format!("[{}]", members.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_the_names_that_clients_know() {
        let member = |raft_id, name: &str, voter| Member {
            raft_id,
            name: name.to_owned(),
            raft_address: format!("{name}:8088"),
            voter,
            ..Member::default()
        };
        let status = ConsensusStatus {
            raft_id: 2,
            name: "node2".to_owned(),
            role: "follower".to_owned(),
            term: 3,
            leader_raft_id: 1,
            last_log_next_index: 11,
            committed_next_index: 10,
            applied_next_index: 8,
            members: vec![member(1, "node1", true), member(2, "node2", true), member(3, "node3", false)],
            ..ConsensusStatus::default()
        };
        let stats = stats(&status);
        let expected = [
            ("state", "Follower"),
            ("term", "3"),
            ("leader_addr", "node1:8088"),
            ("last_log_index", "10"),
            ("fsm_pending", "2"),
            ("num_peers", "1"),
            ("last_contact", ""),
        ];
        for (name, value) in expected {
            assert_eq!(stats[name], value, "{name}");
        }
        assert!(stats["latest_configuration"].contains("{Suffrage:Nonvoter ID:node3 Address:node3:8088}"));
    }
}
