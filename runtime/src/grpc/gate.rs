//! [`Gate`]: bounds the connections of a TCP port, so that strangers can take neither its memory nor the file descriptors of the process.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a client of HTTP/2 sends before anything else, in bytes (RFC 9113, section 3.4). A client that has sent less is still opening its
/// connection.
const PREFACE_BYTES: u64 = 24;

/// Bounds of the connections of one port.
///
/// A port that is full takes new connections all the same: another one is closed for each, of the address that has the most of them the
/// one that has sent the least. A peer has a handful and sends all the time, so a stranger's connections displace one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, connections whose client has not sent the preface of HTTP/2 yet.
    pub max_opening: usize,
    /// How long a client may take to send it. A SYN and a preface may wait behind the data of a slow link, for seconds.
    pub opening_timeout: Duration,
}

impl ConnectionLimits {
    /// As many as given, a quarter of them opening, for ten seconds each.
    pub const fn of(max_connections: usize) -> Self {
        Self { max_connections, max_opening: max_connections.div_ceil(4), opening_timeout: Duration::from_secs(10) }
    }
}

/// The places of one port. Its lock is taken when a connection begins or ends, and never while data is carried.
#[derive(Debug)]
pub(super) struct Gate {
    limits: ConnectionLimits,
    places: Arc<Mutex<Vec<Arc<Place>>>>,
}

/// What the gate knows of a connection.
#[derive(Debug)]
struct Place {
    address: IpAddr,
    opened: Instant,
    /// Bytes; stored by the connection's own task only.
    received: AtomicU64,
    is_cut: AtomicBool,
    /// Of the connection's task, which has to end when it is cut.
    waker: AtomicWaker,
}

/// Why a connection was closed by the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cut {
    /// Its client took too long to begin.
    Slow,
    /// There were too many whose clients had not begun.
    Opening,
    /// There were too many.
    Full,
}

impl Cut {
    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow_opening",
            Self::Opening => "too_many_opening",
            Self::Full => "too_many",
        }
    }
}

impl Gate {
    pub(super) fn new(limits: ConnectionLimits) -> Self {
        Self { limits, places: Arc::default() }
    }

    /// Takes a connection in. Returns why another one had to go, if one had to.
    pub(super) fn admit(&self, stream: TcpStream, address: IpAddr) -> (Bounded, Option<Cut>) {
        let place = Arc::new(Place {
            address: address.to_canonical(),
            opened: Instant::now(),
            received: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        });
        let mut places = self.lock();
        let opening = places.iter().filter(|place| place.is_opening()).count();
        let why = if opening >= self.limits.max_opening {
            Some(Cut::Opening)
        } else if places.len() >= self.limits.max_connections {
            Some(Cut::Full)
        } else {
            None
        };
        let cut = why.filter(|why| {
            let victim = victim(&places, |place| *why == Cut::Full || place.is_opening());
            victim.inspect(|at| places.swap_remove(*at).cut(*why)).is_some()
        });
        places.push(Arc::clone(&place));
        drop(places);
        (Bounded { stream, place, places: Arc::clone(&self.places) }, cut)
    }

    /// Closes the connections whose clients have taken too long to begin; returns when the next one will have.
    pub(super) fn sweep(&self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        self.lock().retain(|place| {
            if !place.is_opening() {
                return true;
            }
            let due = place.opened + self.limits.opening_timeout;
            if due <= now {
                place.cut(Cut::Slow);
                return false;
            }
            next = Some(next.map_or(due, |next| next.min(due)));
            true
        });
        next
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the connections in question those of the address that has the most, of these the one that has sent the least, the oldest of such.
fn victim(places: &[Arc<Place>], is_in_question: impl Fn(&Place) -> bool) -> Option<usize> {
    let mut of_address: HashMap<IpAddr, usize> = HashMap::new();
    for place in places.iter().filter(|place| is_in_question(place)) {
        *of_address.entry(place.address).or_default() += 1;
    }
    let in_question = places.iter().enumerate().filter(|(_, place)| is_in_question(place));
    in_question
        .max_by_key(|(_, place)| {
            let (received, opened) = (place.received.load(Ordering::Relaxed), place.opened);
            (of_address.get(&place.address).copied(), std::cmp::Reverse((received, opened)))
        })
        .map(|(at, _)| at)
}

impl Place {
    fn is_opening(&self) -> bool {
        self.received.load(Ordering::Relaxed) < PREFACE_BYTES
    }

    fn cut(&self, why: Cut) {
        metrics::counter!("raftkv_grpc_connections_cut_total", "reason" => why.name()).increment(1);
        self.is_cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Turns waiting into an error once the connection is cut, and sees to it that its task is woken for that.
    fn or_cut<T>(&self, poll: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        if poll.is_pending() {
            self.waker.register(cx.waker());
            if self.is_cut.load(Ordering::Acquire) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        poll
    }
}

/// A connection that has a place.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    place: Arc<Place>,
    places: Arc<Mutex<Vec<Arc<Place>>>>,
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = places.iter().position(|place| Arc::ptr_eq(place, &self.place)) {
            places.swap_remove(at);
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        let received = &this.place.received;
        received.store(received.load(Ordering::Relaxed) + (buf.filled().len() - before) as u64, Ordering::Relaxed);
        this.place.or_cut(poll, cx)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.place.or_cut(poll, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.place.or_cut(poll, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const PEER: [u8; 4] = [10, 0, 0, 1];
    const STRANGER: [u8; 4] = [10, 0, 0, 2];

    struct Port {
        listener: TcpListener,
        gate: Gate,
    }

    impl Port {
        async fn open(limits: ConnectionLimits) -> Self {
            Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("bind"), gate: Gate::new(limits) }
        }

        /// A connection as if it came from `address`; `bytes` have been received from its client.
        async fn connect(&self, address: [u8; 4], bytes: usize) -> (TcpStream, Bounded, Option<Cut>) {
            let connecting = TcpStream::connect(self.listener.local_addr().expect("bound"));
            let (client, accepted) = tokio::join!(connecting, self.listener.accept());
            let mut client = client.expect("connect");
            let (mut bounded, cut) = self.gate.admit(accepted.expect("accept").0, address.into());
            client.write_all(&vec![0; bytes]).await.expect("write");
            bounded.read_exact(&mut vec![0; bytes]).await.expect("read");
            (client, bounded, cut)
        }
    }

    async fn is_cut(connection: &mut Bounded) -> bool {
        let read = tokio::time::timeout(Duration::from_millis(20), connection.read_u8()).await;
        read.is_ok_and(|read| read.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionAborted))
    }

    #[tokio::test]
    async fn strangers_displace_one_another_and_no_peer() {
        let limits = ConnectionLimits { max_connections: 8, max_opening: 4, opening_timeout: PATIENCE };
        let port = Port::open(limits).await;
        let (_peer_end, mut peer, _) = port.connect(PEER, 500).await;
        // Silent ones: as many as may be opening, and then the oldest of them goes.
        let mut silent = Vec::new();
        for number in 0..10 {
            let (end, connection, cut) = port.connect(STRANGER, 0).await;
            assert_eq!(cut, (number >= 4).then_some(Cut::Opening), "{number}");
            silent.push((end, connection));
        }
        for (number, (_, connection)) in silent.iter_mut().enumerate() {
            assert_eq!(is_cut(connection).await, number < 6, "{number}");
        }
        // A second peer that has not begun is one of an address that has fewer.
        let (_late_end, mut late, cut) = port.connect(PEER, 0).await;
        assert_eq!(cut, Some(Cut::Opening));
        // Those that do begin fill the port, and go before the peer does, which has sent more but has fewer.
        drop(silent);
        let mut open = Vec::new();
        for _ in 0..20 {
            let (end, connection, _) = port.connect(STRANGER, 1_000).await;
            open.push((end, connection));
        }
        assert_eq!(port.gate.lock().len(), 8);
        assert!(!is_cut(&mut peer).await && !is_cut(&mut late).await);
        drop(open);
        assert_eq!(port.gate.lock().len(), 2, "a connection that ends leaves its place");
    }

    #[tokio::test]
    async fn a_client_that_does_not_begin_is_cut_and_its_task_is_woken() {
        let limits = ConnectionLimits { max_connections: 8, max_opening: 4, opening_timeout: PATIENCE };
        let port = Port::open(limits).await;
        let (_begun_end, mut begun, _) = port.connect(PEER, PREFACE_BYTES as usize).await;
        let (_short_end, mut short, _) = port.connect(PEER, PREFACE_BYTES as usize - 1).await;
        let waiting = tokio::spawn(async move { short.read_u8().await.map_err(|error| error.kind()) });
        tokio::task::yield_now().await;
        let now = Instant::now();
        let due = port.gate.sweep(now).expect("one is opening");
        assert!(due > now && !waiting.is_finished());
        assert_eq!(port.gate.sweep(due), None);
        let ended = tokio::time::timeout(PATIENCE, waiting).await.expect("woken").expect("no panic");
        assert_eq!(ended, Err(io::ErrorKind::ConnectionAborted));
        assert!(!is_cut(&mut begun).await);
    }
}
