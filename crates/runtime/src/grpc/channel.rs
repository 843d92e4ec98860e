//! Channels to our own processes.

use std::io;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint as TonicEndpoint};

use super::{
    CONNECTION_WINDOW_BYTES, Endpoint, FRAME_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES,
};

/// How long the other host's kernel may acknowledge nothing of what was sent. A path that leads nowhere any more, as after a
/// container got another address, is noticed by this: the kernels of a slow link and of a process that stands still acknowledge.
/// Long enough for a segment to be lost four times in a row, and short of what clients wait.
const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(3);

/// Time limits of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChannelOptions {
    /// For making a connection.
    pub connect_timeout: Duration,
    /// For the beginning of each answer; `None` where callers set deadlines themselves, as those of streams do.
    pub request_timeout: Option<Duration>,
}

impl Default for ChannelOptions {
    fn default() -> Self {
        // Within a data centre a connection takes a millisecond; who takes a second is as good as gone.
        Self { connect_timeout: Duration::from_secs(1), request_timeout: None }
    }
}

/// A channel that connects on its first use, and again after each loss. Must be called within a tokio runtime.
///
/// Clones share the connection.
pub fn connect_lazy(endpoint: &Endpoint, options: ChannelOptions) -> Result<Channel, tonic::transport::Error> {
    let tonic = tonic_endpoint(endpoint, options)?;
    Ok(match endpoint {
        Endpoint::Tcp(_) => tonic.connect_with_connector_lazy(tcp_connector(options)),
        Endpoint::Unix(path) => tonic.connect_with_connector_lazy(unix_connector(path.clone())),
    })
}

/// As [`connect_lazy`], but connects now or fails.
pub async fn connect(endpoint: &Endpoint, options: ChannelOptions) -> Result<Channel, tonic::transport::Error> {
    let tonic = tonic_endpoint(endpoint, options)?;
    match endpoint {
        Endpoint::Tcp(_) => tonic.connect_with_connector(tcp_connector(options)).await,
        Endpoint::Unix(path) => tonic.connect_with_connector(unix_connector(path.clone())).await,
    }
}

fn tonic_endpoint(endpoint: &Endpoint, options: ChannelOptions) -> Result<TonicEndpoint, tonic::transport::Error> {
    let uri = match endpoint {
        Endpoint::Tcp(address) => format!("http://{address}"),
        // Only the authority of requests is taken from it; the connector knows where to go.
        Endpoint::Unix(_) => "http://localhost".to_owned(),
    };
    let tonic = TonicEndpoint::from_shared(uri)?
        .connect_timeout(options.connect_timeout)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(match options.request_timeout {
        Some(timeout) => tonic.timeout(timeout),
        None => tonic,
    })
}

/// As tonic's own, and gives up what is not acknowledged.
fn tcp_connector(options: ChannelOptions) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(options.connect_timeout));
    connector.set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT));
    connector
}

fn unix_connector(
    path: std::path::PathBuf,
) -> impl tower::Service<
    tonic::transport::Uri,
    Response = TokioIo<UnixStream>,
    Error = io::Error,
    Future = impl Future<Output = io::Result<TokioIo<UnixStream>>> + Send,
> + Send {
    tower::service_fn(move |_uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    })
}
