//! gRPC transport between our processes: Unix sockets within a node, TCP between nodes.
//!
//! One set of HTTP/2 settings for both ends, fit for low latency and for snapshots at full speed.

mod bulk;
mod calls;
mod channel;
mod counted;
mod dial;
mod endpoint;
mod gate;
mod listener;
mod meter;

use std::time::Duration;

use tower::layer::util::{Identity, Stack};

pub use bulk::{SentBytes, bulk};
pub use calls::{Calls, CallsLayer};
pub use channel::{ChannelOptions, connect, connect_lazy};
pub use endpoint::{Endpoint, EndpointError};
pub use gate::{Bounded, Client, ConnectionLimits};
pub use listener::{Connection, Listener, ListenerError};
pub use meter::{Meter, Reading, connect_lazy_metered};

/// Flow-control window of a stream. Large enough that neither a batch of entries nor a snapshot ever waits for a
/// window update; the defaults of HTTP/2 (64 KiB) would stall each of them.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Flow-control window of a connection: several streams at full speed.
const CONNECTION_WINDOW_BYTES: u32 = 4 * STREAM_WINDOW_BYTES;
/// Largest frame. Larger than the default of 16 KiB for fewer system calls, small enough that a snapshot chunk does not
/// hold up a small message on the same connection.
const FRAME_BYTES: u32 = 128 * 1024;
/// How long a connection may say nothing before it is asked whether it still works.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the answer may take: as long as a process may stand still. It waits behind the data in the kernel's buffer, on a slow link
/// for seconds.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections between the two processes of a node, where that is a TCP port: one is used, with a handful of calls.
pub const LINK_CONNECTIONS: ConnectionLimits = ConnectionLimits::of(32, 256);
/// Calls a client may have open on one connection; more wait at the client. Ours have a few streams, and routers a page of each list that
/// they merge.
const MAX_STREAMS: u32 = 256;
/// Headers of a call. Ours have a few hundred bytes.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// A tonic server with our HTTP/2 settings, whose calls are counted by connection.
pub type Server = tonic::transport::Server<Stack<CallsLayer, Identity>>;
/// Such a server with its services.
pub type Router = tonic::transport::server::Router<Stack<CallsLayer, Identity>>;

/// A server; add services and serve it on [`Listener::into_bounded_stream`].
pub fn server() -> Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(MAX_HEADER_BYTES)
        .layer(CallsLayer)
}

/// What `docs/reference/limits.md` says of all ports.
#[cfg(test)]
pub(crate) fn limits() -> Vec<crate::limits_page::Row> {
    use crate::limits_page::{bytes, count, time};
    let size = |bytes_of: u32| bytes(bytes_of as usize);
    let limits = ConnectionLimits::of(100, 100);
    vec![
        ("connections that are opening", format!("{} %", limits.max_opening)),
        ("time to open a connection", time(limits.opening_timeout)),
        ("held for clients", bytes(limits.max_held_bytes as usize)),
        ("held for clients that read", bytes((gate::HELD_FOR_READERS * limits.max_held_bytes) as usize)),
        ("calls of a connection", count(MAX_STREAMS as usize)),
        ("headers of a call", size(MAX_HEADER_BYTES)),
        ("window of a call", size(STREAM_WINDOW_BYTES)),
        ("window of a connection", size(CONNECTION_WINDOW_BYTES)),
        ("frame", size(FRAME_BYTES)),
        ("sign of life", format!("{} after {}", time(KEEPALIVE_TIMEOUT), time(KEEPALIVE_INTERVAL))),
    ]
}
