//! [`Listener`]: a bound socket, and the connections it gives.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tonic::transport::server::Connected;

use super::gate::{Bounded, Client, Cut, Gate};
use super::{ConnectionLimits, Endpoint};
use crate::reminder::Reminder;

/// Only the user of the node may talk to its processes.
const SOCKET_MODE: u32 = 0o600;
/// Pause after a failed accept: the usual cause is a lack of file descriptors, and asking at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A socket that is bound and listens; nobody is served before [`into_stream`](Self::into_stream) or
/// [`into_bounded_stream`](Self::into_bounded_stream) is polled.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    endpoint: Endpoint,
}

#[derive(Debug)]
enum Socket {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// Why a socket could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Another process answers on that Unix socket.
    #[error("another process listens on {}: is this node running already?", path.display())]
    InUse {
        /// Which.
        path: PathBuf,
    },
    /// There is a file in the way that is no socket; it is left alone.
    #[error("{} exists and is no socket", path.display())]
    NotASocket {
        /// Which.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("listen on {endpoint}: {source}")]
    Bind {
        /// Where.
        endpoint: Endpoint,
        /// Why.
        source: io::Error,
    },
}

impl Listener {
    /// Binds. A socket file that a dead process left behind is removed; one that somebody answers on is not.
    pub async fn bind(endpoint: &Endpoint) -> Result<Self, ListenerError> {
        let failed = |source| ListenerError::Bind { endpoint: endpoint.clone(), source };
        match endpoint {
            Endpoint::Unix(path) => {
                remove_stale_socket(path).await?;
                let socket = UnixListener::bind(path).map_err(failed)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
                Ok(Self { socket: Socket::Unix(socket), endpoint: endpoint.clone() })
            }
            Endpoint::Tcp(address) => {
                let socket = TcpListener::bind(address).await.map_err(failed)?;
                let bound = socket.local_addr().map_err(failed)?;
                Ok(Self { socket: Socket::Tcp(socket), endpoint: Endpoint::Tcp(bound.to_string()) })
            }
        }
    }

    /// Where it listens; with the real port where 0 was asked for.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Warns where this is a TCP port though it is for the other process of this node, as `setting` says: nothing on it is encrypted, and
    /// the other end says nothing of who it is. To be said at each start.
    pub fn warn_of_tcp(&self, setting: &str) {
        if let Endpoint::Tcp(address) = &self.endpoint {
            tracing::warn!(
                "{setting} has this process listen on {address} for the other one of its node, in the clear: whoever reaches that port can \
                 read and change all data. Leave it to a Unix socket, or close the port to all other machines"
            );
        }
    }

    /// The connections, not bounded here. Never ends and never yields an error: a failed accept is logged and tried again.
    pub fn into_stream(self) -> impl Stream<Item = io::Result<Connection>> + Send {
        futures::stream::unfold((self, Reminder::default()), |(listener, mut reminder)| async move {
            let accepted = listener.accept(&mut reminder).await;
            Some((Ok(accepted.into_connection()), (listener, reminder)))
        })
    }

    /// As [`into_stream`](Self::into_stream), for tonic's `serve_with_incoming_shutdown`: connections over TCP are held to `limits`, as
    /// long as the stream is polled. Those over a Unix socket are the node's own processes and are not bounded.
    pub fn into_bounded_stream(self, limits: ConnectionLimits) -> impl Stream<Item = io::Result<Connection>> + Send {
        let gate = Gate::new(self.endpoint.to_string(), limits);
        let state = (self, gate, Reminder::default());
        futures::stream::unfold(state, move |(listener, gate, mut reminder)| async move {
            loop {
                let due = gate.sweep(Instant::now());
                let accepted = tokio::select! {
                    accepted = listener.accept(&mut reminder) => accepted,
                    () = at(due) => continue,
                };
                let connection = match accepted {
                    Accepted::Unix(stream) => Connection::Unix(stream),
                    Accepted::Tcp(stream, address) => {
                        let (bounded, cut) = gate.admit(stream, address.ip());
                        if let Some(cut) = cut {
                            listener.tell_of(cut, limits, &mut reminder);
                        }
                        Connection::Bounded(bounded)
                    }
                };
                return Some((Ok(connection), (listener, gate, reminder)));
            }
        })
    }

    /// The next connection. What a client has broken off already is none; a shortage, of file descriptors as a rule, is waited for.
    async fn accept(&self, reminder: &mut Reminder) -> Accepted {
        loop {
            match self.socket.accept().await {
                Ok(accepted) => return accepted,
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    let text = format!("accept a connection on {}: {error}", self.endpoint);
                    if let Some(again) = reminder.due(&text) {
                        tracing::warn!("{text}{again}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn tell_of(&self, cut: Cut, limits: ConnectionLimits, reminder: &mut Reminder) {
        let (most, which) = match cut {
            Cut::Full => (limits.max_connections, "connections"),
            _ => (limits.max_opening, "connections whose clients have sent nothing"),
        };
        let text = format!(
            "{} has {most} {which}, which is the limit: for each new one another one is closed, of the address that has the most of them",
            self.endpoint
        );
        if let Some(again) = reminder.due(&text) {
            tracing::warn!("{text}{again}");
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// A connection as the operating system gives it.
enum Accepted {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Accepted {
    fn into_connection(self) -> Connection {
        match self {
            Self::Unix(stream) => Connection::Unix(stream),
            Self::Tcp(stream, _) => Connection::Tcp(stream),
        }
    }
}

impl Socket {
    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(socket) => socket.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                // Small messages must leave at once: latency is what a quorum waits for. Fails only on a dead connection.
                let _ = stream.set_nodelay(true);
                Ok(Accepted::Tcp(stream, address))
            }
        }
    }
}

async fn remove_stale_socket(path: &Path) -> Result<(), ListenerError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !metadata.file_type().is_socket() {
        return Err(ListenerError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path).await {
        // Only a refusal proves that nobody listens; a full backlog, for one, does not.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            let endpoint = Endpoint::Unix(path.to_owned());
            std::fs::remove_file(path).map_err(|source| ListenerError::Bind { endpoint, source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(ListenerError::InUse { path: path.to_owned() }),
    }
}

/// A connection of either kind.
#[derive(Debug)]
pub enum Connection {
    /// Over a Unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
    /// Over TCP, on a port that bounds its connections.
    Bounded(Bounded),
}

impl Connected for Connection {
    type ConnectInfo = Option<Client>;

    /// Of a port that bounds its connections.
    fn connect_info(&self) -> Option<Client> {
        match self {
            Self::Bounded(bounded) => Some(bounded.client().clone()),
            Self::Unix(_) | Self::Tcp(_) => None,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Bounded(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Bounded(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Bounded(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Bounded(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Bounded(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{ChannelOptions, connect};
    use super::*;

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().expect("directory");
        let endpoint = Endpoint::unix(dir.path().join("engine.sock")).expect("short path");

        drop(Listener::bind(&endpoint).await.expect("first"));
        let live = Listener::bind(&endpoint).await.expect("the file left behind is stale");
        let mode = std::fs::metadata(dir.path().join("engine.sock")).expect("file").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        assert!(matches!(Listener::bind(&endpoint).await, Err(ListenerError::InUse { .. })));
        drop(live);
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("precious");
        std::fs::write(&path, "data").expect("write");
        let endpoint = Endpoint::unix(&path).expect("short path");
        assert!(matches!(Listener::bind(&endpoint).await, Err(ListenerError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "data");
    }

    #[tokio::test]
    async fn both_kinds_carry_grpc() {
        let dir = tempfile::tempdir().expect("directory");
        let unix = Endpoint::unix(dir.path().join("s.sock")).expect("short path");
        for asked in [unix, Endpoint::Tcp("127.0.0.1:0".to_owned())] {
            let listener = Listener::bind(&asked).await.expect("bind");
            let endpoint = listener.endpoint().clone();
            let routes = tonic::service::Routes::default();
            let serving = tokio::spawn(
                super::super::server()
                    .add_routes(routes)
                    .serve_with_incoming(listener.into_bounded_stream(ConnectionLimits::of(4, 4))),
            );

            let mut client =
                tonic::client::Grpc::new(connect(&endpoint, ChannelOptions::default()).await.expect("connect"));
            client.ready().await.expect("the connection is up");
            serving.abort();
        }
    }

    #[tokio::test]
    async fn connecting_to_nobody_is_an_error() {
        let endpoint = Endpoint::unix("/nowhere/at.all").expect("short path");
        assert!(connect(&endpoint, ChannelOptions::default()).await.is_err());
    }
}
