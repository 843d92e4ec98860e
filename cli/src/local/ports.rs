//! [`Ports`]: picks free ports, none twice.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use rand::RngExt;

use crate::failure::Failure;

/// Where ports are picked from: below the range from which systems give ports to outgoing connections, any of which might
/// otherwise sit on a node's port when it restarts.
pub(super) const PICKED: std::ops::Range<u16> = 20_000..32_000;
/// How often to pick before giving up.
const PICKS: usize = 1_000;

/// Ports that are given out already.
#[derive(Debug, Default)]
pub(super) struct Ports {
    taken: BTreeSet<u16>,
    /// Whether well-known ports may be used. With any port allowed, several clusters may be starting at this moment, and
    /// familiar ports would collide.
    familiar: bool,
}

impl Ports {
    /// With these taken.
    pub(super) fn new(taken: impl IntoIterator<Item = u16>, familiar: bool) -> Self {
        Self { taken: taken.into_iter().collect(), familiar }
    }

    /// That port, noted as taken.
    pub(super) fn fixed(&mut self, port: u16) -> u16 {
        self.taken.insert(port);
        port
    }

    /// `preferred` when it can be had, else any.
    pub(super) fn prefer(&mut self, preferred: u16) -> Result<u16, Failure> {
        if self.familiar && is_free(preferred) && self.taken.insert(preferred) { Ok(preferred) } else { self.any() }
    }

    /// Any free port.
    pub(super) fn any(&mut self) -> Result<u16, Failure> {
        let mut random = rand::rng();
        for _ in 0..PICKS {
            let port = random.random_range(PICKED);
            if is_free(port) && self.taken.insert(port) {
                return Ok(port);
            }
        }
        Err(Failure::unavailable(format!("no free port between {} and {}", PICKED.start, PICKED.end)))
    }
}

/// As an address on this machine.
pub(super) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}
