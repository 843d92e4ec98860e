//! [`dial`]: a TCP connection to a name that may have several addresses, some of which nobody answers at.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::task::JoinSet;
use tonic::transport::Uri;

/// An address that has not answered by then does not hold up the next one (RFC 8305, section 5). It may still win.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Connects to the host and port of `uri`, whichever of its addresses answers first. `prepare` sets up each socket. The caller bounds
/// the time of all attempts together.
pub(super) async fn dial(uri: &Uri, prepare: fn(&TcpSocket) -> io::Result<()>) -> io::Result<TcpStream> {
    let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let addresses = lookup_host((host, uri.port_u16().unwrap_or(80))).await?;
    let stream = first(alternating(addresses), prepare).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// In their order, but one family after the other: the addresses of a family that leads nowhere do not all come first.
fn alternating(addresses: impl Iterator<Item = SocketAddr>) -> VecDeque<SocketAddr> {
    let addresses: Vec<_> = addresses.collect();
    let is_v6_first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut ours, mut others): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == is_v6_first);
    let mut mixed = VecDeque::new();
    while !ours.is_empty() || !others.is_empty() {
        mixed.extend(ours.pop_front());
        mixed.extend(others.pop_front());
    }
    mixed
}

/// The first connection that is made. The others are given up.
async fn first(
    mut addresses: VecDeque<SocketAddr>,
    prepare: fn(&TcpSocket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let mut attempts = JoinSet::new();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.spawn(attempt(address, prepare));
        }
        let ended = match addresses.is_empty() {
            true => attempts.join_next().await,
            false => match tokio::time::timeout(ATTEMPT_DELAY, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            },
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last = error,
            Some(Err(error)) => last = io::Error::other(error),
            None => return Err(last),
        }
    }
}

async fn attempt(address: SocketAddr, prepare: fn(&TcpSocket) -> io::Result<()>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    prepare(&socket)?;
    socket.connect(address).await
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// An address whose queue of connections is full, so that the kernel drops what asks for one; with what fills it.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind");
        let listener = socket.listen(1).expect("listen");
        let address = listener.local_addr().expect("bound");
        let mut queue = Vec::new();
        while let Ok(stream) = tokio::time::timeout(ATTEMPT_DELAY, TcpStream::connect(address)).await {
            queue.push(stream.expect("a place in the queue"));
            assert!(queue.len() < 16, "the queue has an end");
        }
        (address, listener, queue)
    }

    async fn connect(addresses: &[SocketAddr]) -> io::Result<SocketAddr> {
        let connected = first(addresses.iter().copied().collect(), |_| Ok(()));
        let stream = tokio::time::timeout(PATIENCE, connected).await.expect("an end in time")?;
        stream.peer_addr()
    }

    #[tokio::test]
    async fn an_address_that_does_not_answer_holds_up_the_next_for_a_moment_only() {
        let (silent, _listener, _queue) = silent().await;
        let answering = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let answers = answering.local_addr().expect("bound");
        let began = Instant::now();
        assert_eq!(connect(&[silent, silent, answers]).await.expect("the third answers"), answers);
        let took = began.elapsed();
        // A SYN that was dropped is sent again after a second.
        assert!(took >= 2 * ATTEMPT_DELAY && took < Duration::from_secs(1), "{took:?}");
    }

    #[tokio::test]
    async fn after_an_address_that_refuses_the_next_is_tried_at_once() {
        let closed = TcpListener::bind("127.0.0.1:0").await.expect("bind").local_addr().expect("bound");
        let answering = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let answers = answering.local_addr().expect("bound");
        let began = Instant::now();
        assert_eq!(
            connect(&[closed, closed, closed, closed, closed, answers]).await.expect("the last answers"),
            answers
        );
        assert!(began.elapsed() < ATTEMPT_DELAY, "{:?}", began.elapsed());

        let refused = connect(&[closed, closed]).await.expect_err("nobody listens");
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect(&[]).await.expect_err("no address").kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_host_and_the_port_are_those_of_the_uri() {
        for host in ["127.0.0.1", "localhost", "[::1]"] {
            // A machine may have no IPv6.
            let Ok(listener) = TcpListener::bind((host.trim_matches(['[', ']']), 0)).await else { continue };
            let uri = format!("http://{host}:{}", listener.local_addr().expect("bound").port());
            let stream = dial(&uri.parse().expect("a URI"), |socket| socket.set_send_buffer_size(1 << 14)).await;
            assert!(stream.expect("connect").nodelay().expect("an option"), "{host}");
        }
    }

    #[test]
    fn families_take_turns() {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect::<Vec<_>>();
        let mixed = alternating(list(&["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "2.2.2.2:1"]).into_iter());
        assert_eq!(mixed, list(&["[::1]:1", "1.1.1.1:1", "[::2]:1", "2.2.2.2:1", "[::3]:1"]));
        assert_eq!(alternating(std::iter::empty()), list(&[]));
    }
}
