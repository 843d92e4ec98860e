//! [`Loopback`]: private loopback addresses for a cluster.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, bail};
use rand::RngExt;

use crate::wait::eventually_within;

/// Bound for the lifetime of a reserved block; no program listens on this port.
const RESERVATION_PORT: u16 = 9_999;
/// Blocks tried: there are about 60,000, with few in use.
const ATTEMPTS: usize = 100;
/// Wait for a fixed block held by another test run: longer than any test with a fixed block.
const BLOCK_PATIENCE: Duration = Duration::from_secs(300);
/// Offset from a node's address to the address of the proxy in front.
const PROXY_OFFSET: u8 = 100;

/// A block of 127.0.0.0/8 reserved on this machine for a single cluster. Every node has a separate address with the
/// default ports. A restarted process finds the port free, because outgoing connections come from 127.0.0.1.
#[derive(Debug)]
pub struct Loopback {
    block: [u8; 2],
    _reservation: TcpListener,
}

impl Loopback {
    /// Reserves a random block.
    pub fn reserve() -> anyhow::Result<Self> {
        let mut rng = rand::rng();
        for _ in 0..ATTEMPTS {
            let block = [rng.random_range(10..250), rng.random_range(0..=255)];
            if let Ok(reserved) = Self::bind(block) {
                return Ok(reserved);
            }
        }
        bail!(
            "no block of 127.0.0.0/8 can be bound: is the loopback network up, and may port {RESERVATION_PORT} be used?"
        )
    }

    /// Reserves a fixed block, for data that contains addresses. Waits up to five minutes while another test run holds
    /// the block. Random choices of [`reserve`](Self::reserve) start at 10 in the first number.
    pub async fn reserve_block(block: [u8; 2]) -> anyhow::Result<Self> {
        let what = format!("the block 127.{}.{}.0/24 is free", block[0], block[1]);
        eventually_within(BLOCK_PATIENCE, &what, || async { Self::bind(block).context("another test run may hold it") })
            .await
    }

    fn bind(block: [u8; 2]) -> std::io::Result<Self> {
        let address = Ipv4Addr::new(127, block[0], block[1], 254);
        let reservation = TcpListener::bind(SocketAddr::from((address, RESERVATION_PORT)))?;
        Ok(Self { block, _reservation: reservation })
    }

    /// Address of node number `index`, counted from 1.
    pub fn node(&self, index: usize) -> Ipv4Addr {
        self.address(index as u8)
    }

    /// Address of the proxy in front of node number `index`.
    pub fn proxy(&self, index: usize) -> Ipv4Addr {
        self.address(index as u8 + PROXY_OFFSET)
    }

    fn address(&self, last: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.block[0], self.block[1], last)
    }
}
