//! [`watch`]: asks the members which cluster versions they speak, for [`Versions`](crate::engine::versions::Versions).

use std::time::Duration;

use futures::future::join_all;
use openraft::ServerState;
use raftkv_proto::{SPOKEN, VersionRange};
use raftkv_runtime::shutdown::Shutdown;
use tokio::time::Instant;

use crate::engine::versions::ASK;
use crate::node::metrics::metrics_of;
use crate::node::twin;
use crate::node::{Group, Node};

/// Where this process has just formed the group, which is to have the highest version before its first client comes.
const FIRST_ASK: Duration = Duration::from_millis(20);
/// It has, for so long.
const YOUNG: Duration = Duration::from_secs(10);
/// Where nothing is left to rise to: for those who look.
const REST: Duration = Duration::from_secs(4);

/// Asks the members what they speak, while this node leads, until the shutdown.
pub async fn watch(node: Node, shutdown: Shutdown) {
    let begin = Instant::now();
    loop {
        let pause = match node.versions.cluster() {
            Some(version) if version >= SPOKEN.max => REST,
            _ if node.versions.is_formed_here() && begin.elapsed() < YOUNG => FIRST_ASK,
            // It may be about to form one.
            _ if node.group().is_none() => FIRST_ASK,
            _ => ASK,
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
        match node.group() {
            Some(group) if metrics_of(&group).state == ServerState::Leader => ask(&node, &group).await,
            _ => node.versions.forget(),
        }
    }
}

async fn ask(node: &Node, group: &Group) {
    let me = node.identity.raft_id;
    let metrics = metrics_of(group);
    let asked = metrics.membership_config.nodes().map(|(id, member)| async move {
        if *id == me {
            return (*id, node.versions.spoken());
        }
        let answer = twin::identify(&member.raft_address).await;
        // One of version 0.1.0 does not say what it speaks; another one whose engine does not answer does not know.
        let range = answer.filter(|other| other.raft_id == *id && (other.incarnation == 0 || other.version_max != 0));
        (*id, range.map(|other| VersionRange::from_wire(other.version_min, other.version_max)))
    });
    let answers = join_all(asked).await.into_iter().collect();
    node.versions.note(&answers);
}
