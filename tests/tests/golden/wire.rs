//! [`Wire`]: calls of gRPC services with the answers as the bytes that were sent, not as this version reads them.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use prost::Message;
use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_proto::group::DescribeRequest;
use raftkv_runtime::grpc::{ChannelOptions, Endpoint, connect};
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Every call of these tests ends within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection to a service.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    channel: Channel,
}

impl Wire {
    pub(super) async fn unix(socket: &Path) -> anyhow::Result<Self> {
        Self::to(&Endpoint::unix(socket)?).await
    }

    pub(super) async fn tcp(address: &str) -> anyhow::Result<Self> {
        Self::to(&address.parse()?).await
    }

    async fn to(endpoint: &Endpoint) -> anyhow::Result<Self> {
        Ok(Self { channel: connect(endpoint, ChannelOptions::default()).await? })
    }

    fn client(&self) -> Grpc<Channel> {
        Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// For typed calls.
    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// A call with one answer.
    pub(super) async fn unary(&self, path: &'static str, request: &impl Message) -> anyhow::Result<Bytes> {
        let mut client = self.client();
        let request = Request::new(Bytes::from(request.encode_to_vec()));
        let call = async {
            client.ready().await?;
            anyhow::Ok(client.unary(request, PathAndQuery::from_static(path), Raw).await?.into_inner())
        };
        tokio::time::timeout(PATIENCE, call).await.with_context(|| format!("{path} takes too long"))?
    }

    /// One request of a stream, which stays open, and its answer.
    pub(super) async fn one(&self, path: &'static str, request: &impl Message) -> anyhow::Result<Bytes> {
        let mut client = self.client();
        let request = Bytes::from(request.encode_to_vec());
        let request = Request::new(futures::stream::iter([request]).chain(futures::stream::pending()));
        let call = async {
            client.ready().await?;
            let mut stream = client.streaming(request, PathAndQuery::from_static(path), Raw).await?.into_inner();
            stream.message().await?.context("the stream ended without an answer")
        };
        tokio::time::timeout(PATIENCE, call).await.with_context(|| format!("{path} takes too long"))?
    }

    /// A call with one request and a stream of answers.
    pub(super) async fn answers(&self, path: &'static str, request: &impl Message) -> anyhow::Result<Vec<Bytes>> {
        let mut client = self.client();
        let request = Request::new(Bytes::from(request.encode_to_vec()));
        let call = async {
            client.ready().await?;
            let stream = client.server_streaming(request, PathAndQuery::from_static(path), Raw).await?.into_inner();
            let all: Vec<Result<Bytes, Status>> = stream.collect().await;
            anyhow::Ok(all.into_iter().collect::<Result<Vec<_>, _>>()?)
        };
        tokio::time::timeout(PATIENCE, call).await.with_context(|| format!("{path} takes too long"))?
    }

    /// Group.Describe.
    pub(super) async fn describe(&self) -> anyhow::Result<Bytes> {
        self.unary("/raftkv.group.v1.Group/Describe", &DescribeRequest {}).await
    }
}

/// Messages as their bytes.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
