//! [`Frames`]: what the services of a node answer, into files.

use std::fs;
use std::path::PathBuf;

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::encode_varint;
use raftkv_kv::Proposal;
use raftkv_proto::consensus::{GetStatusRequest, ProposeRequest, ReadBarrierRequest};
use raftkv_proto::group::{GetSystemKeyRequest, ListRequest, ReadRequest};
use raftkv_proto::raft::IdentifyRequest;
use raftkv_proto::state_machine::{GetPositionRequest, GetStatusRequest as EngineStatusRequest, SnapshotOutRequest};
use raftkv_tests::Node;

use super::wire::Wire;
use super::{READ_KEYS, SYSTEM_KEYS, TIMEOUT_MS};

/// Answers of services, each kind in a file of its own, length-delimited.
pub(super) struct Frames {
    pub(super) dir: PathBuf,
    pub(super) prefix: String,
}

impl Frames {
    /// Answers of all services of a node, from one that leads.
    pub(super) async fn of_node(&self, node: &Node) -> anyhow::Result<()> {
        let machine = Wire::unix(&node.dir().join("engine.sock")).await?;
        let path = "/raftkv.state_machine.v1.StateMachine/GetPosition";
        self.write("position", &[machine.unary(path, &GetPositionRequest {}).await?])?;
        let path = "/raftkv.state_machine.v1.StateMachine/GetStatus";
        self.write("engine-status", &[machine.unary(path, &EngineStatusRequest {}).await?])?;
        let path = "/raftkv.state_machine.v1.StateMachine/SnapshotOut";
        self.write("snapshot", &machine.answers(path, &SnapshotOutRequest {}).await?)?;

        let consensus = Wire::unix(&node.dir().join("sidecar.sock")).await?;
        let path = "/raftkv.consensus.v1.Consensus/GetStatus";
        self.write("consensus-status", &[consensus.unary(path, &GetStatusRequest {}).await?])?;
        let path = "/raftkv.consensus.v1.Consensus/ReadBarrier";
        let barrier = ReadBarrierRequest { id: 3, mode: 0, timeout_ms: TIMEOUT_MS };
        self.write("read-barrier", &[consensus.one(path, &barrier).await?])?;

        let raft = Wire::tcp(&node.raft_address().to_string()).await?;
        self.write("identity", &[raft.unary("/raftkv.raft.v1.Raft/Identify", &IdentifyRequest {}).await?])?;

        let group = Wire::tcp(&node.group_address().to_string()).await?;
        self.write("description", &[group.describe().await?])?;
        let mut list = ListRequest {
            timeout_ms: TIMEOUT_MS,
            start: Bytes::from_static(b"value/i"),
            end: Some(Bytes::from_static(b"value/s")),
            limit: 20,
            max_bytes: 100_000,
            ..ListRequest::default()
        };
        let path = "/raftkv.group.v1.Group/List";
        let with_values = group.unary(path, &list).await?;
        list.keys_only = true;
        self.write("list", &[with_values, group.unary(path, &list).await?])?;
        let keys = READ_KEYS.into_iter().map(|key| Bytes::from_static(key.as_bytes())).collect();
        let read = ReadRequest { id: 7, timeout_ms: TIMEOUT_MS, keys, ..ReadRequest::default() };
        self.write("read", &[group.one("/raftkv.group.v1.Group/Read", &read).await?])?;
        let payload = Proposal::OpenSession.encode();
        let request = ProposeRequest { id: 9, payload, timeout_ms: TIMEOUT_MS, ..ProposeRequest::default() };
        let path = "/raftkv.group.v1.Group/Propose";
        self.write("propose", &[group.one(path, &request).await?])?;
        let mut keys = Vec::new();
        for key in SYSTEM_KEYS {
            let request = GetSystemKeyRequest { key: Bytes::from_static(key.as_bytes()), timeout_ms: TIMEOUT_MS };
            keys.push(group.unary("/raftkv.group.v1.Group/GetSystemKey", &request).await?);
        }
        self.write("system-keys", &keys)
    }

    /// Into the file of that kind.
    pub(super) fn write(&self, name: &str, messages: &[Bytes]) -> anyhow::Result<()> {
        let mut file = BytesMut::new();
        for message in messages {
            encode_varint(message.len() as u64, &mut file);
            file.put_slice(message);
        }
        Ok(fs::write(self.dir.join(format!("{}-{name}.bin", self.prefix)), file)?)
    }
}
