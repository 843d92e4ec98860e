//! etcd's side of a comparison: its KV calls over gRPC.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use self::pb::kv_client::KvClient;
use super::operation::{Operation, Trouble};
use super::workload::Keyspace;
use crate::failure::Failure;

/// Generated from `proto/etcd.proto`.
#[allow(missing_docs, unreachable_pub, dead_code, clippy::all)]
mod pb {
    tonic::include_proto!("etcdserverpb");
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection that is made on its first use. Call within a runtime.
pub(super) fn channel(url: &str) -> Result<Channel, Failure> {
    let endpoint = Endpoint::from_shared(url.to_owned()).map_err(Failure::usage)?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy())
}

/// One client.
#[derive(Debug)]
pub(super) struct EtcdSession {
    client: KvClient<Channel>,
    /// Reads that do not ask the quorum.
    serializable: bool,
    keyspace: Arc<Keyspace>,
}

impl EtcdSession {
    pub(super) fn new(channel: Channel, serializable: bool, keyspace: Arc<Keyspace>) -> Self {
        Self { client: KvClient::new(channel), serializable, keyspace }
    }

    pub(super) async fn perform(&mut self, operation: &Operation) -> Result<(), Trouble> {
        match operation {
            Operation::Put(puts) => {
                for put in puts {
                    let request = pb::PutRequest {
                        key: self.keyspace.key(put.key).clone(),
                        value: self.keyspace.value(put.key, put.nonce),
                        ..Default::default()
                    };
                    self.client.put(request).await.map_err(trouble)?;
                }
                Ok(())
            }
            Operation::Get(key) => {
                let request = pb::RangeRequest {
                    key: self.keyspace.key(*key).clone(),
                    serializable: self.serializable,
                    ..Default::default()
                };
                let found = self.client.range(request).await.map_err(trouble)?.into_inner().kvs;
                match found.as_slice() {
                    [] => Err(Trouble::Missing),
                    [found] if self.keyspace.is_value_of(*key, &found.value) => Ok(()),
                    _ => Err(Trouble::WrongValue),
                }
            }
        }
    }
}

fn trouble(status: Status) -> Trouble {
    Trouble::Grpc(status.code().description())
}
