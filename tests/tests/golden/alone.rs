//! [`Alone`]: an engine without a sidecar on a node's data: no entry is applied, so its state is the one on the disk.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use prost::Message;
use raftkv_proto::group::Description;
use raftkv_proto::state_machine::{GetPositionRequest, Position};
use raftkv_tests::{Loopback, Process, binary, eventually};
use serde::{Deserialize, Serialize};

use super::wire::Wire;

/// Calls of an engine on this machine take milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the state of a node stands on its disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// The log id of the last applied entry, as the sidecar encodes it, in base64.
    pub(super) log_id: String,
    pub(super) next_index: u64,
    pub(super) revision: u64,
    pub(super) keys: u64,
    pub(super) clock_ms: u64,
    pub(super) state_hash: u64,
    /// An encoded kv::Ownership in base64.
    pub(super) ownership: String,
}

/// Killed when it is dropped.
pub(super) struct Alone {
    _process: Process,
    /// The service of the state machine.
    pub(super) machine: Wire,
    /// The service for routers.
    pub(super) group: Wire,
    _loopback: Loopback,
}

impl Alone {
    /// Starts an engine on the data directory of a node that is down. Its log is in `logs`.
    pub(super) async fn start(node: &str, dir: &Path, logs: &Path) -> anyhow::Result<Self> {
        let loopback = Loopback::reserve()?;
        let log = logs.join(format!("{node}-alone.log"));
        let process = Process::new(format!("{node}'s engine, alone"), binary("raftkv-engine")?, log);
        let group = format!("{}:50053", loopback.node(1));
        process.set_env("NODE_ID", node);
        process.set_env("RAFTKV_DATA_DIR", dir.to_string_lossy());
        process.set_env("RAFTKV_HTTP_LISTEN", format!("{}:8080", loopback.node(1)));
        process.set_env("RAFTKV_GROUP_LISTEN", &group);
        process.start()?;
        let socket = dir.join("engine.sock");
        let (machine, group) = eventually("the engine serves", || async {
            let machine = Wire::unix(&socket).await?;
            let group = Wire::tcp(&group).await?;
            machine.unary("/raftkv.state_machine.v1.StateMachine/GetPosition", &GetPositionRequest {}).await?;
            Ok((machine, group))
        })
        .await?;
        Ok(Self { _process: process, machine, group, _loopback: loopback })
    }

    /// Where its state stands.
    pub(super) async fn facts(&self) -> anyhow::Result<Facts> {
        use base64::Engine;
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let facts = async {
            let position =
                self.machine.unary("/raftkv.state_machine.v1.StateMachine/GetPosition", &GetPositionRequest {});
            let position = Position::decode(position.await?)?;
            let described = self.group.describe().await?;
            let described = Description::decode(described)?;
            anyhow::ensure!(described.applied_next_index == position.next_index, "the position changes");
            Ok(Facts {
                log_id: encode(&position.log_id),
                next_index: position.next_index,
                revision: described.revision,
                keys: described.keys,
                clock_ms: described.clock_ms,
                state_hash: described.state_hash,
                ownership: encode(&described.ownership),
            })
        };
        tokio::time::timeout(PATIENCE, facts).await.context("the engine is silent")?
    }
}
