//! Channels for bulk data over links of any speed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint as TonicEndpoint, Uri};

use super::counted::Counted;
use super::dial::dial;
use super::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, STREAM_WINDOW_BYTES};

/// Bytes that the kernel may hold for the link; Linux takes it twice. What is in there counts as sent: on a link of 100 kbit/s that is
/// 20 seconds. Within a data centre it is several round trips at full speed.
const SEND_BUFFER_BYTES: u32 = 128 * 1024;
/// For making the connection: a SYN that waits in the queue of a slow link, or is sent again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Counts the bytes that a bulk channel has handed to the kernel. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct SentBytes(Arc<AtomicU64>);

impl SentBytes {
    /// How many so far, all connections of the channel together.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A channel of its own to `address`, a host and a port, that connects on first use; and how much it has sent.
///
/// It asks for no sign of life: an HTTP/2 ping waits behind the data that it travels with, and on a slow link that takes longer
/// than any answer may. Whoever uses it watches [`SentBytes`] instead, which moves as long as the other side takes data.
pub fn bulk(address: &str) -> Result<(Channel, SentBytes), tonic::transport::Error> {
    let sent = SentBytes::default();
    let endpoint = TonicEndpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(CONNECT_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES);
    let counter = sent.clone();
    let connector = tower::service_fn(move |uri: Uri| connect(uri, counter.clone()));
    Ok((endpoint.connect_with_connector_lazy(connector), sent))
}

async fn connect(uri: Uri, sent: SentBytes) -> io::Result<TokioIo<Counted>> {
    let stream = dial(&uri, |socket| socket.set_send_buffer_size(SEND_BUFFER_BYTES)).await?;
    Ok(TokioIo::new(Counted::new(stream, sent.0)))
}
