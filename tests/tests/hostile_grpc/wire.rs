//! [`Line`]: a connection of HTTP/2 on which anything can be said; [`Way`]: how a request is sent that is none, or not all of one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, SendStream};
use http::Request;
use raftkv_proto::{
    CLUSTER_ID_HEADER, GROUP_HEADER, SENDER_ID_HEADER, STORE_HEADER, TARGET_ID_HEADER, WIRE_VERSION,
    WIRE_VERSION_HEADER,
};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};

use super::world::World;

/// How long a stranger waits for an answer.
const ANSWER: Duration = Duration::from_millis(100);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// One large, several small: much smaller than what a message may have.
const FLOOD: usize = 300;

/// Where a service is.
#[derive(Debug, Clone)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How a request is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// As a member would.
    Whole,
    /// Random bytes as a message.
    Noise,
    /// Random bytes where a message should begin.
    Unframed,
    /// The end of the stream comes in the middle of a message.
    Truncated,
    /// A message that says that it is much longer, up to the largest there is, and ends or does not.
    Announced,
    /// Said to be compressed.
    Compressed,
    /// The stream is reset in the middle of a message.
    CutOff,
    /// The stream is opened, has a part of a message or a whole one, and is left.
    Left,
    /// Many times on one stream.
    Flood,
    /// No message at all.
    Nothing,
    /// Frames of HTTP/2 that are none, on a connection of their own.
    Frames,
}

impl Way {
    pub(super) const ALL: [Self; 11] = [
        Self::Whole,
        Self::Noise,
        Self::Unframed,
        Self::Truncated,
        Self::Announced,
        Self::Compressed,
        Self::CutOff,
        Self::Left,
        Self::Flood,
        Self::Nothing,
        Self::Frames,
    ];
}

/// What is left open.
pub(super) struct Left {
    _stream: SendStream<Bytes>,
    _answer: ResponseFuture,
}

/// A connection, until it is dropped.
pub(super) struct Line {
    sender: SendRequest<Bytes>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Line {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The streams of either address.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(address: &Address) -> anyhow::Result<Box<dyn Stream>> {
    Ok(match address {
        Address::Tcp(address) => Box::new(TcpStream::connect(address).await?),
        Address::Unix(path) => Box::new(UnixStream::connect(path).await?),
    })
}

impl Line {
    pub(super) async fn open(address: &Address) -> anyhow::Result<Self> {
        let stream = connect(address).await?;
        let (sender, connection) = h2::client::handshake(stream).await.context("shake hands")?;
        // Ends when the server closes it.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender, driver })
    }

    /// Sends a request. An error is an answer, too: what the server makes of it is seen elsewhere.
    pub(super) async fn send(
        &mut self,
        call: Request<()>,
        way: Way,
        messages: &[Bytes],
        rng: &mut StdRng,
    ) -> anyhow::Result<Option<Left>> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut stream) = sender.send_request(call, way == Way::Nothing)?;
        if way == Way::Nothing {
            read(answer).await;
            return Ok(None);
        }
        let body = body(way, messages, rng);
        let ends = match way {
            Way::Left | Way::CutOff => false,
            Way::Announced => rng.random(),
            _ => true,
        };
        // In pieces of any size.
        let cut = rng.random_range(0..=body.len());
        stream.send_data(body.slice(..cut), false)?;
        stream.send_data(body.slice(cut..), ends)?;
        match way {
            Way::Left => return Ok(Some(Left { _stream: stream, _answer: answer })),
            Way::CutOff => {
                tokio::time::sleep(Duration::from_millis(rng.random_range(0..10))).await;
                let reasons = [Reason::CANCEL, Reason::NO_ERROR, Reason::INTERNAL_ERROR, Reason::PROTOCOL_ERROR];
                stream.send_reset(*reasons.choose(rng).unwrap_or(&Reason::CANCEL));
            }
            Way::Announced if !ends && rng.random() => return Ok(Some(Left { _stream: stream, _answer: answer })),
            _ => read(answer).await,
        }
        Ok(None)
    }
}

async fn read(answer: ResponseFuture) {
    let reading = async {
        let mut body = answer.await?.into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data?.len())?;
        }
        body.trailers().await
    };
    // Neither an error nor that there is none matters.
    let _ = tokio::time::timeout(ANSWER, reading).await;
}

fn body(way: Way, messages: &[Bytes], rng: &mut StdRng) -> Bytes {
    let mut body = BytesMut::new();
    let mut put = |flag: u8, length: usize, message: &[u8]| {
        body.put_u8(flag);
        body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        body.put_slice(message);
    };
    match way {
        Way::Flood => {
            let message = messages.first().cloned().unwrap_or_default();
            let times = (FLOOD * 1_000 / (message.len() + 1_000)).max(2);
            (0..times).for_each(|_| put(0, message.len(), &message));
        }
        Way::Compressed => {
            let flag = *[1, 1, 2, 255].choose(rng).unwrap_or(&1);
            messages.iter().for_each(|message| put(flag, message.len(), message));
        }
        Way::Announced => {
            let lengths = [65_536, 20 << 20, (64 << 20) - 1, 64 << 20, (64 << 20) + 1, u32::MAX as usize];
            let message = messages.first().cloned().unwrap_or_default();
            put(0, *lengths.choose(rng).unwrap_or(&0), &message);
        }
        Way::Unframed => messages.iter().for_each(|message| body.put_slice(message)),
        _ => messages.iter().for_each(|message| put(0, message.len(), message)),
    }
    if matches!(way, Way::Truncated | Way::CutOff | Way::Left) {
        body.truncate(rng.random_range(0..=body.len()));
    }
    body.freeze()
}

/// The head of a call: as a member's or a router's, with what is wrong in one of ten.
pub(super) fn head(path: &str, target: u64, world: &World, rng: &mut StdRng) -> anyhow::Result<Request<()>> {
    let mut call = Request::post(format!("http://stranger{path}")).header("te", "trailers");
    call = call.header("content-type", if rng.random_bool(0.97) { "application/grpc" } else { "text/html" });
    let mut wrong = |right: String| match rng.random_range(0..40) {
        0 => "0".to_owned(),
        1 => u64::MAX.to_string(),
        2 => "x".repeat(8_000),
        3 => String::new(),
        _ => right,
    };
    let members = path.contains(".Raft/");
    if members {
        call = call.header(CLUSTER_ID_HEADER, wrong(world.cluster_id.clone()));
        call = call.header(TARGET_ID_HEADER, wrong(target.to_string()));
        call = call.header(WIRE_VERSION_HEADER, wrong(WIRE_VERSION.to_string()));
        let senders = [0, world.leader, rng.random(), rng.random()];
        call = call.header(SENDER_ID_HEADER, senders.choose(rng).unwrap_or(&0).to_string());
    } else if rng.random_bool(0.1) {
        call = call.header(STORE_HEADER, format!("{:x}", rng.random::<u64>())).header(GROUP_HEADER, "-1");
    }
    let timeouts = ["0n", "1n", "99999999H", "999999999H", "-1S", "", "5"];
    if rng.random_bool(0.1) {
        call = call.header("grpc-timeout", *timeouts.choose(rng).unwrap_or(&""));
    }
    let codings = ["gzip", "zstd", "identity", "x"];
    if rng.random_bool(0.1) {
        call = call.header("grpc-encoding", *codings.choose(rng).unwrap_or(&""));
    }
    Ok(call.body(())?)
}

/// Frames that are none: of any type, with any flags, for any stream, as long as they say or not.
pub(super) async fn frames(address: &Address, rng: &mut StdRng) -> anyhow::Result<()> {
    let mut stream = connect(address).await?;
    let mut bytes = BytesMut::new();
    if rng.random_bool(0.8) {
        bytes.put_slice(PREFACE);
        bytes.put_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    }
    for _ in 0..rng.random_range(1..60) {
        let length = rng.random_range(0..200usize);
        let said = if rng.random_bool(0.9) { length } else { rng.random_range(0..1 << 24) };
        bytes.put_slice(&(said as u32).to_be_bytes()[1..]);
        bytes.put_u8(rng.random_range(0..12));
        bytes.put_u8(rng.random());
        bytes.put_u32(*[0, 1, 3, u32::MAX, rng.random()].choose(rng).unwrap_or(&0));
        bytes.extend((0..length).map(|_| rng.random::<u8>()));
    }
    stream.write_all(&bytes).await?;
    if rng.random() {
        stream.shutdown().await?;
    }
    tokio::time::sleep(Duration::from_millis(rng.random_range(0..50))).await;
    Ok(())
}
