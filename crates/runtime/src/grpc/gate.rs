//! [`Gate`]: bounds the connections of a TCP port and what they hold, so that strangers can take neither its memory nor the file
//! descriptors of the process.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::CONNECTION_WINDOW_BYTES;
use crate::network::network;
use crate::reminder::Reminder;

/// What a client of HTTP/2 sends before anything else, in bytes (RFC 9113, section 3.4). A client that has sent less is still opening its
/// connection.
const PREFACE_BYTES: u64 = 24;
/// A connection that has received so much more is a reason to look at what all of them hold.
const LOOK_BYTES: u64 = 256 * 1024;
/// What a port may hold for its clients by default: several times what all peers have on their way at a time.
const HELD_BYTES: u64 = 256 * 1024 * 1024;
/// Beyond so many times that, the connections of clients that do read are closed, too: several peers may read large pages over one link.
pub(super) const HELD_FOR_READERS: u64 = 2;
/// A client reads if it has taken something of its answers within so long.
const SPARED: Duration = Duration::from_secs(1);

/// Bounds of the connections of one port.
///
/// A port that is full takes new connections and calls all the same: another connection is closed for each, of the address that has the
/// most. A peer has a handful and sends and reads all the time, so a stranger's connections displace one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Connections at a time.
    pub max_connections: usize,
    /// Of these, connections whose client has not sent the preface of HTTP/2 yet.
    pub max_opening: usize,
    /// How long a client may take to send it. A SYN and a preface may wait behind the data of a slow link, for seconds.
    pub opening_timeout: Duration,
    /// Calls at a time, of all connections together. A stream is one call for as long as it is open.
    pub max_calls: usize,
    /// Bytes that the port holds for its clients, of all connections together: of requests that are not whole or not taken, and of answers
    /// that are not read.
    pub max_held_bytes: u64,
}

impl ConnectionLimits {
    /// As many as given, a quarter of the connections opening, for ten seconds each.
    pub const fn of(max_connections: usize, max_calls: usize) -> Self {
        Self {
            max_connections,
            max_opening: max_connections.div_ceil(4),
            opening_timeout: Duration::from_secs(10),
            max_calls,
            max_held_bytes: HELD_BYTES,
        }
    }
}

/// The places of one port. Its lock is taken when a connection or a call begins or ends, and for what is large; never for a small message.
#[derive(Debug)]
pub(super) struct Gate {
    /// Where it listens, for those who read the log.
    port: String,
    limits: ConnectionLimits,
    places: Mutex<Vec<Arc<Place>>>,
    /// Of all places.
    calls: AtomicUsize,
    reminder: Mutex<Reminder>,
}

/// What the gate knows of a connection.
#[derive(Debug)]
pub(super) struct Place {
    /// With IPv6 the network of its client.
    address: IpAddr,
    opened: Instant,
    /// Bytes; stored by the connection's own task only.
    received: AtomicU64,
    calls: AtomicUsize,
    /// Bytes of answers that HTTP/2 has been given and has not sent yet.
    unread: AtomicU64,
    /// Milliseconds after `opened` since which its client has taken nothing of it.
    waits_since: AtomicU64,
    taken: Mutex<Taken>,
    is_cut: AtomicBool,
    /// Of the connection's task, which has to end when it is cut.
    waker: AtomicWaker,
}

/// How far the calls of a connection have taken what was received. As long as each call waits for more there is nothing else to take.
#[derive(Debug, Default)]
struct Taken {
    /// Requests that do not wait for more, for their calls are busy; and answers that are not sent, because of which calls take nothing.
    busy: usize,
    /// Bytes received before the first of these, and those of whole messages since.
    bytes: u64,
    /// Bytes that calls have taken of messages that are not whole.
    parts: u64,
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
    /// There were too many calls, and it had the most.
    Calls,
    /// The port held too much for its clients, and the most for this one.
    Held,
}

impl Cut {
    fn name(self) -> &'static str {
        match self {
            Self::Slow => "slow_opening",
            Self::Opening => "too_many_opening",
            Self::Full => "too_many",
            Self::Calls => "too_many_calls",
            Self::Held => "too_much_held",
        }
    }
}

impl Gate {
    pub(super) fn new(port: String, limits: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self {
            port,
            limits,
            places: Mutex::default(),
            calls: AtomicUsize::new(0),
            reminder: Mutex::default(),
        })
    }

    /// Takes a connection in. Returns why another one had to go, if one had to.
    pub(super) fn admit(self: &Arc<Self>, stream: TcpStream, address: IpAddr) -> (Bounded, Option<Cut>) {
        let place = Arc::new(Place {
            address: network(address),
            opened: Instant::now(),
            received: AtomicU64::new(0),
            calls: AtomicUsize::new(0),
            unread: AtomicU64::new(0),
            waits_since: AtomicU64::new(0),
            taken: Mutex::default(),
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
            let weight = |place: &Place| u64::from(*why == Cut::Full || place.is_opening());
            victim(&places, weight).inspect(|at| places.swap_remove(*at).cut(*why)).is_some()
        });
        places.push(Arc::clone(&place));
        drop(places);
        (Bounded { stream, client: Client { gate: Arc::clone(self), place } }, cut)
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

    /// Closes connections until no more is held for the others than may be.
    fn relieve(&self) {
        let most = self.limits.max_held_bytes;
        // Mostly it is less, and one look at it is enough.
        if self.lock().iter().map(|place| place.held()).sum::<u64>() <= most {
            return;
        }
        let now = Instant::now();
        // What is small is no reason to close a connection, however much others hold.
        let of_idle = |place: &Place| match place.held() {
            held if held >= LOOK_BYTES && !place.reads(now) => held,
            _ => 0,
        };
        let cut = self.cut_down(Cut::Held, most, Place::held, of_idle);
        let cut = self.cut_down(Cut::Held, HELD_FOR_READERS * most, Place::held, Place::held).or(cut);
        if let Some(address) = cut {
            self.tell_of("requests that are not taken and answers that are not read", address);
        }
    }

    /// Closes connections, of those that have some `weight`, until those that are left have no more than `most` of something together.
    /// Returns whose was closed last.
    fn cut_down(
        &self,
        why: Cut,
        most: u64,
        held: impl Fn(&Place) -> u64,
        weight: impl Fn(&Place) -> u64,
    ) -> Option<IpAddr> {
        let (mut places, mut last) = (self.lock(), None);
        while places.iter().map(|place| held(place)).sum::<u64>() > most
            && let Some(at) = victim(&places, &weight)
        {
            let place = places.swap_remove(at);
            place.cut(why);
            last = Some(place.address);
        }
        last
    }

    fn tell_of(&self, what: &str, address: IpAddr) {
        let again = self.reminder.lock().unwrap_or_else(PoisonError::into_inner).due(what);
        if let Some(again) = again {
            tracing::warn!(
                %address,
                "{} has reached its limit of {what}: the connection with the most, of the address with the most, is closed{again}",
                self.port
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of the connections that have some weight those of the address that has the most, of these the heaviest, of such the one that has sent
/// the least, the oldest of these.
fn victim(places: &[Arc<Place>], weight: impl Fn(&Place) -> u64) -> Option<usize> {
    let weighed: Vec<_> =
        places.iter().map(|place| weight(place)).enumerate().filter(|(_, weight)| *weight > 0).collect();
    let mut of_address: HashMap<IpAddr, u64> = HashMap::new();
    for &(at, weight) in &weighed {
        *of_address.entry(places[at].address).or_default() += weight;
    }
    let heaviest = weighed.into_iter().max_by_key(|&(at, weight)| {
        let place = &places[at];
        let (received, opened) = (place.received.load(Ordering::Relaxed), place.opened);
        (of_address.get(&place.address).copied(), weight, std::cmp::Reverse((received, opened)))
    });
    heaviest.map(|(at, _)| at)
}

impl Place {
    fn is_opening(&self) -> bool {
        self.received.load(Ordering::Relaxed) < PREFACE_BYTES
    }

    /// Bytes that are held for the client.
    fn held(&self) -> u64 {
        let taken = self.taken();
        let untaken = match taken.busy {
            0 => 0,
            // HTTP/2 itself holds no more than its window. What goes beyond it is headers, on a connection that has been busy for long.
            _ => {
                let most = u64::from(CONNECTION_WINDOW_BYTES) + taken.parts;
                self.received.load(Ordering::Relaxed).saturating_sub(taken.bytes).min(most)
            }
        };
        untaken + self.unread.load(Ordering::Relaxed)
    }

    /// Whether all that is held is answers, and its client reads them.
    fn reads(&self, now: Instant) -> bool {
        let since = self.opened + Duration::from_millis(self.waits_since.load(Ordering::Relaxed));
        now.saturating_duration_since(since) < SPARED && self.held() <= self.unread.load(Ordering::Relaxed)
    }

    /// Something is given to its client, or taken by it.
    fn moves_on(&self) {
        self.waits_since.store(self.opened.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// The socket has taken something. It is of an answer where there are any; a reader of small ones is looked at by nobody.
    fn wrote(&self, poll: &Poll<io::Result<usize>>) {
        if matches!(poll, Poll::Ready(Ok(1..))) && self.unread.load(Ordering::Relaxed) >= LOOK_BYTES {
            self.moves_on();
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
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
        }
        // Looked at whatever has come: a client that sends all the time never has to be waited for.
        if self.is_cut.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        poll
    }
}

/// The client at the other end of a connection: what its calls hold is counted here. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    gate: Arc<Gate>,
    place: Arc<Place>,
}

impl Client {
    /// Whom it belongs to: its address, or the /64 of it.
    pub fn network(&self) -> IpAddr {
        self.place.address
    }

    /// A call begins. Where there are too many, the connection with the most is closed, which may be this one.
    pub(super) fn begin_call(&self) -> OpenCall {
        self.place.calls.fetch_add(1, Ordering::Relaxed);
        let before = self.gate.calls.fetch_add(1, Ordering::Relaxed);
        // Connections that were cut a moment ago have no place any more, and take their calls with them.
        let most = self.gate.limits.max_calls;
        let calls = |place: &Place| place.calls.load(Ordering::Relaxed) as u64;
        if before >= most
            && let Some(address) = self.gate.cut_down(Cut::Calls, most as u64, calls, calls)
        {
            self.gate.tell_of("calls", address);
        }
        OpenCall(self.clone())
    }

    /// A request does not wait for more from now on, or an answer is to be sent.
    pub(super) fn becomes_busy(&self) {
        let mut taken = self.place.taken();
        if taken.busy == 0 {
            taken.bytes = self.place.received.load(Ordering::Relaxed);
        }
        taken.busy += 1;
    }

    /// It does again, or has ended, or is sent.
    pub(super) fn waits(&self) {
        self.place.taken().busy -= 1;
    }

    /// Whole messages of so many bytes were taken, and `after` bytes of one that is not whole, where it were `before`.
    pub(super) fn took(&self, bytes: u64, before: u64, after: u64) {
        let mut taken = self.place.taken();
        taken.parts = taken.parts + after - before;
        // Some of them may have been received before anything was busy.
        taken.bytes = (taken.bytes + bytes).min(self.place.received.load(Ordering::Relaxed));
    }

    /// HTTP/2 is given so many bytes of an answer.
    pub(super) fn gave(&self, bytes: u64) {
        if self.place.unread.fetch_add(bytes, Ordering::Relaxed) < LOOK_BYTES {
            self.place.moves_on();
        }
        if bytes >= LOOK_BYTES / 4 {
            self.gate.relieve();
        }
    }

    /// It has sent them.
    pub(super) fn sent(&self, bytes: u64) {
        self.place.unread.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// A call, until this is dropped.
#[derive(Debug)]
pub(super) struct OpenCall(Client);

impl OpenCall {
    pub(super) fn client(&self) -> &Client {
        &self.0
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.place.calls.fetch_sub(1, Ordering::Relaxed);
        self.0.gate.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that has a place.
#[derive(Debug)]
pub struct Bounded {
    stream: TcpStream,
    client: Client,
}

impl Bounded {
    /// Who is at its other end.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Bounded {
    fn drop(&mut self) {
        let mut places = self.client.gate.lock();
        if let Some(at) = places.iter().position(|place| Arc::ptr_eq(place, &self.client.place)) {
            places.swap_remove(at);
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let already = buf.filled().len();
        let poll = Pin::new(&mut this.stream).poll_read(cx, buf);
        let place = &this.client.place;
        let before = place.received.load(Ordering::Relaxed);
        let received = before + (buf.filled().len() - already) as u64;
        place.received.store(received, Ordering::Relaxed);
        if received / LOOK_BYTES != before / LOOK_BYTES && place.held() > 0 {
            this.client.gate.relieve();
        }
        place.or_cut(poll, cx)
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.client.place.wrote(&poll);
        this.client.place.or_cut(poll, cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.client.place.wrote(&poll);
        this.client.place.or_cut(poll, cx)
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
        gate: Arc<Gate>,
    }

    impl Port {
        async fn open(limits: ConnectionLimits) -> Self {
            Self {
                listener: TcpListener::bind("127.0.0.1:0").await.expect("bind"),
                gate: Gate::new("here".to_owned(), limits),
            }
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
        let limits = ConnectionLimits { max_opening: 4, opening_timeout: PATIENCE, ..ConnectionLimits::of(8, 8) };
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
        let limits = ConnectionLimits { max_opening: 4, opening_timeout: PATIENCE, ..ConnectionLimits::of(8, 8) };
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

    #[tokio::test]
    async fn the_address_for_which_most_is_held_makes_room() {
        // All of them may have read something a moment ago.
        let max_held_bytes = 300_000 / HELD_FOR_READERS;
        let port = Port::open(ConnectionLimits { max_held_bytes, ..ConnectionLimits::of(8, 8) }).await;
        let (mut peer_end, mut peer, _) = port.connect(PEER, 500).await;
        let mut strangers = Vec::new();
        for _ in 0..3 {
            strangers.push(port.connect(STRANGER, 500).await);
        }
        // Answers that are not read. The peer's is the largest, but the stranger has three.
        peer.client().becomes_busy();
        peer.client().gave(90_000);
        for (_, stranger, _) in &strangers {
            stranger.client().gave(80_000);
        }
        assert_eq!(port.gate.lock().len(), 3);
        let mut cut = Vec::new();
        for (_, stranger, _) in &mut strangers {
            cut.push(is_cut(stranger).await);
        }
        assert_eq!(cut.iter().filter(|cut| **cut).count(), 1);
        assert!(!is_cut(&mut peer).await);

        // What is read, and what is taken, is not held.
        peer.client().sent(90_000);
        assert_eq!(peer.client().place.held(), 0);
        let bytes = vec![0; 2 * LOOK_BYTES as usize];
        let mut into = vec![0; bytes.len()];
        let (written, read) = tokio::join!(peer_end.write_all(&bytes), async {
            for piece in into.chunks_mut(10_000) {
                peer.read_exact(piece).await?;
                peer.client().took(piece.len() as u64, 0, 0);
            }
            io::Result::Ok(())
        });
        written.and(read).expect("it has room for what it takes");
        // What is not taken is; without a call that is busy there is nothing to take.
        peer.client().waits();
        assert_eq!(peer.client().place.held(), 0);
        peer.client().becomes_busy();
        let (_, read) = tokio::join!(peer_end.write_all(&bytes), peer.read_exact(&mut into));
        assert_eq!(read.expect_err("too much is held").kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn who_reads_is_spared_for_who_does_not() {
        let most = 4 * LOOK_BYTES;
        let port = Port::open(ConnectionLimits { max_held_bytes: most, ..ConnectionLimits::of(8, 8) }).await;
        let (mut peer_end, mut peer, _) = port.connect(PEER, 500).await;
        let (_stranger_end, mut stranger, _) = port.connect(STRANGER, 500).await;
        peer.client().gave(most - LOOK_BYTES);
        stranger.client().gave(LOOK_BYTES);
        tokio::time::sleep(SPARED + Duration::from_millis(20)).await;
        peer.write_all(&[7; 100]).await.expect("written");
        peer_end.read_exact(&mut [0; 100]).await.expect("read");
        peer.client().gave(LOOK_BYTES);
        assert!(is_cut(&mut stranger).await && !is_cut(&mut peer).await);
        // There is an end to that.
        peer.client().gave(HELD_FOR_READERS * most);
        assert!(is_cut(&mut peer).await);
    }

    #[tokio::test]
    async fn the_address_with_the_most_calls_makes_room_for_others() {
        let port = Port::open(ConnectionLimits::of(8, 8)).await;
        let (_peer_end, mut peer, _) = port.connect(PEER, 500).await;
        let (_stranger_end, mut stranger, _) = port.connect(STRANGER, 500).await;
        let of_peer = peer.client().begin_call();
        let of_stranger: Vec<_> = (0..7).map(|_| stranger.client().begin_call()).collect();
        assert!(!is_cut(&mut stranger).await);
        let another = peer.client().begin_call();
        assert!(is_cut(&mut stranger).await && !is_cut(&mut peer).await);
        drop((of_peer, of_stranger, another));
        assert_eq!(port.gate.calls.load(Ordering::Relaxed), 0);
    }
}
