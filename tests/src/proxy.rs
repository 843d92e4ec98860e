//! [`Proxy`]: forwards connections to a node's raft port as allowed by the partition.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::partition::{Direction, Flow, Partition};
use crate::probe::{socket_inode, socket_inodes};
use crate::process::Process;

/// Buffer size for each direction of a connection.
const BUFFER_BYTES: usize = 64 * 1024;
/// Packet size on a slow link, so that no connection waits for a whole piece of another.
const PACKET_BYTES: usize = 1_400;
/// Sender number of connections from outside the cluster, such as a test's direct connection. Faults between nodes never affect them.
const OUTSIDE: usize = 0;

/// Processes that open connections, by node number.
pub(crate) type Senders = Arc<Mutex<Vec<(usize, Arc<Process>)>>>;

/// A proxy in front of a node. All connections come from 127.0.0.1, so the sender is identified by the socket.
#[derive(Debug)]
pub(crate) struct Proxy {
    task: JoinHandle<()>,
}

impl Proxy {
    /// Forwards from `at` to `target`, the raft port of node number `node`.
    pub(crate) async fn start(
        at: SocketAddr,
        target: SocketAddr,
        node: usize,
        partition: Partition,
        senders: Senders,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let task = tokio::spawn(async move {
            loop {
                // Running out of file descriptors is temporary; the loop accepts the next connection.
                let Ok((connection, from)) = listener.accept().await else { continue };
                let (partition, senders) = (partition.clone(), Arc::clone(&senders));
                tokio::spawn(async move {
                    let sender = tokio::task::spawn_blocking(move || who_connects(from, at, &senders)).await;
                    let Ok(Some(sender)) = sender else { return };
                    // Broken connections are expected.
                    let _ = carry(connection, target, (sender, node), &partition).await;
                });
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Number of the node that opened a connection; `None` if already closed.
fn who_connects(from: SocketAddr, at: SocketAddr, senders: &Senders) -> Option<usize> {
    let inode = socket_inode(from, at)?;
    let senders = senders.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let owner =
        senders.iter().find(|(_, process)| process.pid().is_some_and(|pid| socket_inodes(pid).contains(&inode)));
    Some(owner.map_or(OUTSIDE, |(node, _)| *node))
}

async fn carry(
    connection: TcpStream,
    target: SocketAddr,
    (sender, node): Direction,
    partition: &Partition,
) -> io::Result<()> {
    let (mut to, mut back) = (partition.watch(sender, node), partition.watch(node, sender));
    // A handshake needs both directions.
    partition.opened(&mut to).await?;
    partition.opened(&mut back).await?;
    let upstream = TcpStream::connect(target).await?;
    connection.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut connection_read, mut connection_write) = connection.into_split();
    let (mut upstream_read, mut upstream_write) = upstream.into_split();
    tokio::select! {
        done = pump(&mut connection_read, &mut upstream_write, to, (sender, node), partition) => done,
        done = pump(&mut upstream_read, &mut connection_write, back, (node, sender), partition) => done,
    }
}

async fn pump(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    mut flow: watch::Receiver<Flow>,
    direction: Direction,
    partition: &Partition,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut closing = flow.clone();
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            _ = closing.wait_for(|flow| *flow == Flow::Closed) => 0,
        };
        if read == 0 {
            // Applies to the end of a connection too, which is a message like any other.
            return partition.opened(&mut flow).await;
        }
        partition.opened(&mut flow).await?;
        partition.fitted(read).await;
        partition.weathered(read).await?;
        let mut rest = &buffer[..read];
        while let Some((packet, others)) = rest.split_at_checked(PACKET_BYTES)
            && partition.carried(direction, packet.len()).await
        {
            to.write_all(packet).await?;
            rest = others;
        }
        // The last packet, or the whole piece without a slow link.
        partition.carried(direction, rest.len()).await;
        to.write_all(rest).await?;
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::partition::Weather;

    #[tokio::test]
    async fn what_is_silent_arrives_later_and_what_is_closed_never() {
        let target = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port");
        let partition = Partition::default();
        let senders = Senders::default();
        let address = target.local_addr().expect("bound");
        let _proxy = Proxy::start(free, address, 1, partition.clone(), senders).await.expect("start");
        let mut near = TcpStream::connect(free).await.expect("connect");
        let (mut far, _) = target.accept().await.expect("accept");

        partition.set(OUTSIDE, 1, Flow::Silent);
        near.write_all(b"x").await.expect("write");
        let mut byte = [0];
        let held = tokio::time::timeout(Duration::from_millis(200), far.read_exact(&mut byte)).await;
        assert!(held.is_err(), "it came through");
        partition.heal();
        far.read_exact(&mut byte).await.expect("it comes through");

        assert!(partition.counts().held > 0, "no piece was held back");

        partition.set_weather(Weather {
            delay: Duration::from_millis(50),
            bytes_per_second: 100,
            ..Weather::default()
        });
        let at = Instant::now();
        near.write_all(b"0123456789").await.expect("write");
        let mut ten = [0; 10];
        far.read_exact(&mut ten).await.expect("it comes through");
        assert!(at.elapsed() >= Duration::from_millis(150), "ten bytes took {:.0?}", at.elapsed());
        let counts = partition.counts();
        assert!(counts.delayed > 0 && counts.limited > 0, "{counts:?}");
        partition.set_weather(Weather::default());

        partition.set_slow_link(1, 10_000);
        let at = Instant::now();
        near.write_all(&[b'x'; 3_000]).await.expect("write");
        far.read_exact(&mut [0; 3_000]).await.expect("it comes through");
        assert!(at.elapsed() >= Duration::from_millis(290), "3,000 bytes took {:.0?}", at.elapsed());
        assert!(partition.counts().slowed >= 2, "{:?}", partition.counts());
        partition.heal();

        partition.set_largest(100);
        near.write_all(&[b'x'; 100]).await.expect("write");
        far.read_exact(&mut [0; 100]).await.expect("what is small comes through");
        near.write_all(&[b'x'; 101]).await.expect("write");
        let held = tokio::time::timeout(Duration::from_millis(200), far.read_exact(&mut byte)).await;
        assert!(held.is_err() && partition.counts().large == 1, "it came through");
        partition.heal();
        far.read_exact(&mut [0; 101]).await.expect("it comes through");

        partition.set(OUTSIDE, 1, Flow::Closed);
        assert_eq!(near.read(&mut byte).await.unwrap_or(0), 0, "the connection is broken");

        partition.heal();
        partition.set_weather(Weather { breaks_one_in: 1, ..Weather::default() });
        let mut near = TcpStream::connect(free).await.expect("connect");
        near.write_all(b"x").await.expect("write");
        assert_eq!(near.read(&mut byte).await.unwrap_or(0), 0, "what is lost breaks the connection");
        assert_eq!(partition.counts().broken, 1);
    }
}
