//! gRPC transport between our processes: Unix sockets within a node, TCP between nodes.
//!
//! One set of HTTP/2 settings for both ends, fit for low latency and for snapshots at full speed.

mod bulk;
mod channel;
mod counted;
mod dial;
mod endpoint;
mod gate;
mod listener;
mod meter;

use std::time::Duration;

pub use bulk::{SentBytes, bulk};
pub use channel::{ChannelOptions, connect, connect_lazy};
pub use endpoint::{Endpoint, EndpointError};
pub use gate::{Bounded, ConnectionLimits};
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
/// Connections between the two processes of a node, where that is a TCP port: one is used.
pub const LINK_CONNECTIONS: ConnectionLimits = ConnectionLimits::of(32);
/// Streams a peer may have open on one connection. Ours are few and long-lived.
const MAX_STREAMS: u32 = 1024;

/// A tonic server with our HTTP/2 settings; add services and serve it on [`Listener::into_bounded_stream`].
pub fn server() -> tonic::transport::Server {
    tonic::transport::Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
}
