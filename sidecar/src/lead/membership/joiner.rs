//! The node that is to join: who it says it is, whether it fits, and that it belongs to this cluster from now on.

use std::time::Duration;

use raftkv_proto::raft::{AdoptRequest, IdentifyRequest, Identity as PeerIdentity};
use raftkv_proto::{ClusterVersion, VersionRange, WIRE_VERSION};
use raftkv_runtime::{reason, settings};

use super::MembershipError;
use super::plan::RefusalCode;
use crate::node::Group;
use crate::node::standing::Bar;
use crate::node::twin;
use crate::peers::management::Joiner;
use crate::peers::{Peers, RaftClient};
use crate::raft::types::{Member, NodeId};

/// To reach a node and have it say who it is.
pub(crate) const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// A host name has at most 253 bytes, a port five digits.
pub(crate) const MAX_ADDRESS_BYTES: usize = 259;
/// A node that is asked to join writes its identity to disk and opens nothing large.
const ADOPT_DEADLINE: Duration = Duration::from_secs(10);

pub(super) async fn identify(raft_address: &str) -> Result<(RaftClient, PeerIdentity), MembershipError> {
    let unreachable =
        |reason: String| MembershipError::Unreachable(format!("{raft_address} does not answer: {reason}"));
    let asked = tokio::time::timeout(DIAL_DEADLINE, async {
        let mut client =
            Peers::dial(raft_address).await.map_err(|error| unreachable(reason::connection(&error, raft_address)))?;
        let identity = client.identify(IdentifyRequest {}).await;
        let identity = identity.map_err(|status| unreachable(reason::call(&status, raft_address)))?.into_inner();
        Ok((client, identity))
    });
    asked.await.unwrap_or_else(|_| Err(unreachable(format!("no answer within {DIAL_DEADLINE:?}"))))
}

/// Whether a node called `name` may become a member. One that is a member already keeps its name, whatever that is.
pub(super) fn check_new<'a>(name: &str, mut members: impl Iterator<Item = &'a Member>) -> Result<(), MembershipError> {
    if settings::is_new_name(name) || members.any(|member| member.name == name) {
        return Ok(());
    }
    Err(MembershipError::BadName(name.to_owned()))
}

/// Whether the addresses that a node gives as its own are addresses: members remember them, and others connect to them.
pub(super) fn check_addresses(identity: &PeerIdentity) -> Result<(), MembershipError> {
    let addresses = [
        ("raft", &identity.raft_address),
        ("management", &identity.management_address),
        ("HTTP", &identity.http_address),
        // Version 0.1.0 may not say it.
        ("group", &identity.group_address),
    ];
    for (what, address) in addresses {
        let is_address = address.is_empty()
            || address.len() <= MAX_ADDRESS_BYTES
                && matches!(address.parse(), Ok(raftkv_runtime::grpc::Endpoint::Tcp(_)));
        if !is_address {
            let shown: String = address.chars().take(MAX_ADDRESS_BYTES).collect();
            return Err(MembershipError::refused(
                RefusalCode::BadAddress,
                format!("the node gives {shown:?} as its {what} address, which is no host:port"),
            ));
        }
    }
    Ok(())
}

/// `version` is the group's cluster version; `None` = the engine has not said.
pub(super) fn check_joiner(
    group: &Group,
    version: Option<ClusterVersion>,
    name: &str,
    identity: &PeerIdentity,
) -> Result<(), MembershipError> {
    if identity.wire_version != WIRE_VERSION {
        return Err(MembershipError::refused(
            RefusalCode::WireVersion,
            format!("{} speaks wire version {}, this group {WIRE_VERSION}", identity.name, identity.wire_version),
        ));
    }
    // A program whose engine has not said what it speaks is let in: an engine that does not speak it refuses the state.
    let is_told = identity.incarnation == 0 || identity.version_max != 0;
    let spoken = VersionRange::from_wire(identity.version_min, identity.version_max);
    if let Some(version) = version.filter(|version| is_told && !spoken.contains(*version)) {
        return Err(MembershipError::refused(
            RefusalCode::Version,
            format!(
                "{} speaks the cluster version {spoken}, and this group has {version}: run another version of RaftKV there",
                identity.name
            ),
        ));
    }
    if identity.name != name {
        return Err(MembershipError::refused(
            RefusalCode::WrongNode,
            format!("the node at that address is called {:?}, not {name:?}", identity.name),
        ));
    }
    if !identity.cluster_id.is_empty() && identity.cluster_id != group.cluster_id {
        return Err(MembershipError::refused(
            RefusalCode::OtherCluster,
            format!("{name} is in the cluster {}; empty its data directory first", identity.cluster_id),
        ));
    }
    Ok(())
}

/// A process that asks for itself must be the one that answers at its address: otherwise two processes share a name and an
/// address, or even an identity, and the wrong one would be made a member, or be one already.
pub(super) fn check_asker(
    name: &str,
    raft_address: &str,
    asker: Option<Joiner>,
    identity: &PeerIdentity,
) -> Result<(), MembershipError> {
    let Some(asker) = asker else { return Ok(()) };
    if twin::is_twin(asker.raft_id, asker.incarnation, identity) {
        return Err(duplicate(twin::text(name, asker.raft_id, raft_address)));
    }
    if asker.raft_id != identity.raft_id {
        // Not a twin: a name that is resolved to an old address would do. So the asker keeps its vote.
        return Err(MembershipError::refused(
            RefusalCode::AddressInUse,
            format!(
                "two processes have one identity: at {raft_address}, which {name} (raft id {}) says is its own, the node {} \
                 (raft id {}) answers. Give each node a NODE_ID and advertised addresses of its own",
                asker.raft_id, identity.name, identity.raft_id
            ),
        ));
    }
    Ok(())
}

/// A member may have moved; but where another process of its identity still answers at the address that is known, both run.
pub(super) async fn check_moved(known: &Member, now: &Member, identity: &PeerIdentity) -> Result<(), MembershipError> {
    if known.raft_address == now.raft_address {
        return Ok(());
    }
    match twin::identify(&known.raft_address).await {
        Some(other) if twin::is_twin(identity.raft_id, identity.incarnation, &other) => {
            Err(duplicate(twin::text(&now.name, identity.raft_id, &known.raft_address)))
        }
        _ => Ok(()),
    }
}

/// A process that is to take a member's place must have all that the member acknowledged, as far as this leader knows
/// (`matched_next`): with an old copy of its data it could help to elect a leader that lacks an acknowledged write. A leader
/// that was elected after the member went away knows nothing of it.
pub(super) fn check_log(
    known: &Member,
    now: &Member,
    matched_next: Option<u64>,
    log_next: Option<u64>,
) -> Result<(), MembershipError> {
    let (Some(matched_next), Some(log_next)) = (matched_next, log_next) else { return Ok(()) };
    if known.raft_address == now.raft_address || log_next >= matched_next {
        return Ok(());
    }
    Err(MembershipError::refused(
        RefusalCode::Barred(Bar::Stale),
        format!(
            "the log of {} at {} ends before entry {log_next}, and {} has acknowledged the entries before {matched_next} at {}: \
             this data directory is an old copy. Start the node with the data that it had last; or, where that is lost, \
             stop this process, empty its data directory and start it again: it joins without data",
            now.name, now.raft_address, known.name, known.raft_address
        ),
    ))
}

fn duplicate(detail: String) -> MembershipError {
    MembershipError::refused(RefusalCode::Barred(Bar::Duplicate), detail)
}

pub(super) async fn adopt(client: &mut RaftClient, group: &Group, raft_id: NodeId) -> Result<(), MembershipError> {
    let request = AdoptRequest { cluster_id: group.cluster_id.clone(), raft_id };
    match tokio::time::timeout(ADOPT_DEADLINE, client.adopt(request)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            Err(MembershipError::Unreachable(format!("the node refuses to be adopted: {}", reason::call(&status, ""))))
        }
        Err(_) => Err(MembershipError::Unreachable(format!("the node was not adopted within {ADOPT_DEADLINE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_copy_does_not_take_the_members_place() {
        let at = |address: &str| Member {
            name: "n1".to_owned(),
            raft_address: address.to_owned(),
            management_address: String::new(),
            http_address: String::new(),
            group_address: String::new(),
        };
        let (home, away) = (at("n1:8088"), at("n1:9088"));
        assert!(check_log(&home, &away, Some(10), Some(10)).is_ok());
        assert!(check_log(&home, &away, Some(10), Some(12)).is_ok());
        assert!(check_log(&home, &away, None, Some(1)).is_ok(), "a leader that has not heard of the member");
        assert!(check_log(&home, &away, Some(10), None).is_ok(), "a node of version 0.1.0");
        assert!(check_log(&home, &home, Some(10), Some(1)).is_ok(), "another of its addresses is new");
        let refused = check_log(&home, &away, Some(10), Some(9));
        assert!(
            matches!(refused, Err(MembershipError::Refused(refusal)) if refusal.code == RefusalCode::Barred(Bar::Stale))
        );
    }

    #[test]
    fn a_new_member_has_a_plain_name_and_an_old_one_keeps_its_own() {
        let long = "n".repeat(100);
        let member = |name: &str| Member {
            name: name.to_owned(),
            raft_address: String::new(),
            management_address: String::new(),
            http_address: String::new(),
            group_address: String::new(),
        };
        let members = [member("n1"), member(&long)];
        for name in ["n1", "n2", &long] {
            assert!(check_new(name, members.iter()).is_ok(), "{name}");
        }
        for name in ["", "n2\nINFO n1 leaves", "n 2", &"m".repeat(64)] {
            let refused = check_new(name, members.iter()).expect_err(name).to_problem();
            assert!(refused.status == 400 && refused.code == "bad_name", "{refused:?}");
            assert!(!refused.detail.contains('\n'), "{refused:?}");
        }
    }

    #[test]
    fn addresses_of_a_new_member_are_addresses() {
        let sound = PeerIdentity {
            raft_address: "n1:8088".to_owned(),
            management_address: "[::1]:6000".to_owned(),
            http_address: "10.0.0.1:8080".to_owned(),
            ..PeerIdentity::default()
        };
        assert!(check_addresses(&sound).is_ok());
        for address in ["n1", "n1:8088\nx", "a b:1", "unix:/x", "http://n1:1", &format!("{}:1", "n".repeat(300))] {
            for identity in [
                PeerIdentity { raft_address: address.to_owned(), ..sound.clone() },
                PeerIdentity { http_address: address.to_owned(), ..sound.clone() },
                PeerIdentity { group_address: address.to_owned(), ..sound.clone() },
            ] {
                assert!(check_addresses(&identity).is_err(), "{address}");
            }
        }
    }

    #[test]
    fn the_process_that_asks_must_be_the_one_that_answers() {
        let asker = Some(Joiner { raft_id: 1, incarnation: 7 });
        let answers = |raft_id, incarnation| PeerIdentity { raft_id, incarnation, ..PeerIdentity::default() };
        let code = |identity: &PeerIdentity| match check_asker("n1", "n1:8088", asker, identity) {
            Ok(()) => "",
            Err(MembershipError::Refused(refusal)) => refusal.code.as_str(),
            Err(_) => "another error",
        };
        assert_eq!(code(&answers(1, 7)), "");
        assert_eq!(code(&answers(1, 0)), "", "of an older version");
        assert_eq!(code(&answers(1, 8)), "duplicate_identity", "a copy");
        assert_eq!(code(&answers(2, 8)), "address_in_use", "another node has its address");
        assert!(check_asker("n1", "n1:8088", None, &answers(2, 8)).is_ok(), "an operator asks");
    }
}
