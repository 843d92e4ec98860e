//! [`Meter`]: how many bytes of a connection have reached the other host.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint as TonicEndpoint, Uri};

use super::counted::Counted;
use super::dial::dial;

/// The sockets of this process's network namespace, with the bytes that wait in each.
const SOCKETS_V4: &str = "/proc/self/net/tcp";
/// The same, of IPv6.
const SOCKETS_V6: &str = "/proc/self/net/tcp6";

/// Measures the newest connection of a channel. Cheap to clone; clones measure the same channel.
///
/// What a process has written is in the kernel's buffer, and says nothing about the path. The kernel tells how much of it the
/// other host has not acknowledged; the rest has certainly passed.
#[derive(Debug, Clone, Default)]
pub struct Meter {
    connection: Arc<Mutex<Option<Connection>>>,
}

#[derive(Debug, Clone)]
struct Connection {
    number: u64,
    local: SocketAddr,
    remote: SocketAddr,
    written: Arc<AtomicU64>,
}

/// What the meter shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Rises with each connection that the channel makes.
    pub connection: u64,
    /// Bytes of this connection that the other host has acknowledged.
    pub acknowledged: u64,
    /// Bytes written that it has not.
    pub outstanding: u64,
}

impl Meter {
    /// Of the newest connection; `None` while there is none. Reads a table of the kernel: for whoever suspects something, and
    /// off the async threads.
    pub fn read(&self) -> Option<Reading> {
        let Connection { number, local, remote, written } = self.lock().clone()?;
        // In this order, so that what is written meanwhile does not look acknowledged.
        let written = written.load(Ordering::Acquire);
        let table = if local.is_ipv4() { SOCKETS_V4 } else { SOCKETS_V6 };
        let outstanding = outstanding_in(&std::fs::read_to_string(table).ok()?, local, remote)?;
        Some(Reading { connection: number, acknowledged: written.saturating_sub(outstanding), outstanding })
    }

    fn begin(&self, stream: &TcpStream) -> io::Result<Arc<AtomicU64>> {
        let (local, remote, written) = (stream.local_addr()?, stream.peer_addr()?, Arc::<AtomicU64>::default());
        let mut connection = self.lock();
        let number = connection.as_ref().map_or(0, |last| last.number) + 1;
        *connection = Some(Connection { number, local, remote, written: Arc::clone(&written) });
        Ok(written)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Connection>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A channel over TCP that connects on its first use, and again after each loss; `meter` measures what it sends. Must be
/// called within a tokio runtime.
pub fn connect_lazy_metered(endpoint: &TonicEndpoint, meter: Meter) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(move |uri: Uri| {
        let meter = meter.clone();
        async move {
            let stream = dial(&uri, |_| Ok(())).await?;
            let written = meter.begin(&stream)?;
            io::Result::Ok(TokioIo::new(Counted::new(stream, written)))
        }
    }))
}

/// Bytes that were written to the socket and not acknowledged, from a table as `/proc/net/tcp`.
fn outstanding_in(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let ends = format!(" {} {} ", hex(local), hex(remote));
    let line = table.lines().find(|line| line.contains(&ends))?;
    // After the addresses: state, then the bytes to send and those to be read.
    let queues = line.split_once(&ends)?.1.split(' ').nth(1)?;
    u64::from_str_radix(queues.split_once(':')?.0, 16).ok()
}

/// An address as in that table: words in the byte order of the machine.
fn hex(address: SocketAddr) -> String {
    let word =
        |bytes: &[u8]| bytes.try_into().map(u32::from_ne_bytes).map(|word| format!("{word:08X}")).unwrap_or_default();
    let ip: String = match address {
        SocketAddr::V4(v4) => word(&v4.ip().octets()),
        SocketAddr::V6(v6) => v6.ip().octets().chunks(4).map(word).collect(),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_the_other_host_has_not_taken_is_outstanding() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            // A machine may have no IPv6.
            let Ok(listener) = tokio::net::TcpListener::bind(host).await else { continue };
            let meter = Meter::default();
            assert_eq!(meter.read(), None, "no connection yet");
            let stream = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connect");
            let (mut other, _) = listener.accept().await.expect("accept");
            let written = meter.begin(&stream).expect("both ends are known");
            let mut metered = Counted::new(stream, written);
            metered.write_all(&[7; 1_000]).await.expect("write");
            other.read_exact(&mut [0; 1_000]).await.expect("read");
            let reading = meter.read().expect("a connection");
            assert_eq!(reading, Reading { connection: 1, acknowledged: 1_000, outstanding: 0 });

            // More than both kernels hold: the rest waits for a reader that does not read.
            let piece = vec![7; 1 << 20];
            let full = std::time::Duration::from_millis(300);
            while tokio::time::timeout(full, metered.write_all(&piece)).await.is_ok() {}
            let reading = meter.read().expect("a connection");
            assert!(reading.outstanding > 0 && reading.acknowledged > 1_000, "{reading:?}");
        }
    }

    #[test]
    fn a_line_of_the_kernel_s_table_is_found_by_both_ends() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when\n   0: 0100007F:1F90 00000000:0000 0A \
                     00000000:00000003 00:00000000\n   1: 0100007F:1F90 0200007F:C350 01 000023A1:00000000 01:00000019\n";
        let at = |text: &str| text.parse::<SocketAddr>().expect("an address");
        if cfg!(target_endian = "little") {
            assert_eq!(outstanding_in(table, at("127.0.0.1:8080"), at("127.0.0.2:50000")), Some(0x23A1));
            assert_eq!(outstanding_in(table, at("127.0.0.1:8080"), at("127.0.0.2:50001")), None);
            assert_eq!(hex(at("[::1]:80")), "00000000000000000000000001000000:0050");
        }
    }
}
