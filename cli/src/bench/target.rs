//! [`Target`]: the system under load, and [`Session`]: one client's way to it.

use std::io::Write;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tonic::transport::Channel;

use super::args::BenchArgs;
use super::etcd;
use super::http::HttpSession;
use super::operation::{Operation, Trouble};
use super::workload::Keyspace;
use crate::consistency::Consistency;
use crate::failure::Failure;
use raftkv_client::Endpoints;

/// Clients that share a connection to etcd, as its own benchmark shares them.
const CLIENTS_PER_CHANNEL: u32 = 16;

/// An address that takes no connection within this time is left out, where there are others.
const REACHED_WITHIN: Duration = Duration::from_millis(500);

/// A system that can be put under load.
#[derive(Debug, Clone)]
pub(super) enum Target {
    RaftKv { authorities: Arc<[String]>, consistency: Consistency },
    Etcd { channels: Arc<[Channel]>, serializable: bool },
}

impl Target {
    /// etcd when it is named, else RaftKV. Call within a runtime.
    pub(super) fn from_args(args: &BenchArgs) -> Result<Self, Failure> {
        match &args.etcd {
            Some(endpoints) => Self::etcd(args, endpoints),
            None => Ok(Self::raftkv(args)),
        }
    }

    pub(super) fn raftkv(args: &BenchArgs) -> Self {
        let mut authorities = args.endpoints.authorities();
        // The image names a node's address and a router's, of which a container has one: clients are spread over those that are
        // there. If none is, the run tells why.
        let reached: Vec<_> = authorities.iter().filter(|authority| is_reached(authority)).cloned().collect();
        if !reached.is_empty() && reached.len() < authorities.len() {
            let silent: Vec<_> = authorities.iter().filter(|authority| !reached.contains(authority)).cloned().collect();
            let _ =
                writeln!(std::io::stderr(), "raftkv: cannot connect to {}: not a part of this run", silent.join(", "));
            authorities = reached;
        }
        Self::RaftKv { authorities: authorities.into(), consistency: args.consistency }
    }

    pub(super) fn etcd(args: &BenchArgs, endpoints: &Endpoints) -> Result<Self, Failure> {
        let urls = endpoints.urls();
        let per_endpoint = args.clients.div_ceil(CLIENTS_PER_CHANNEL * urls.len() as u32).max(1);
        let wanted = args.conns.map_or(per_endpoint as usize * urls.len(), |conns| conns as usize);
        let channels: Result<Arc<[_]>, _> = urls.iter().cycle().take(wanted).map(|url| etcd::channel(url)).collect();
        Ok(Self::Etcd { channels: channels?, serializable: args.consistency == Consistency::Stale })
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Target::RaftKv { .. } => "raftkv",
            Target::Etcd { .. } => "etcd",
        }
    }

    /// A client's session. Connects when first used.
    pub(super) fn session(&self, client: u32, keyspace: &Arc<Keyspace>) -> Session {
        let client = client as usize;
        match self {
            Target::RaftKv { authorities, consistency } => {
                let authority = authorities[client % authorities.len()].clone();
                Session::Http(Box::new(HttpSession::new(authority, *consistency, Arc::clone(keyspace))))
            }
            Target::Etcd { channels, serializable } => Session::Etcd(etcd::EtcdSession::new(
                channels[client % channels.len()].clone(),
                *serializable,
                Arc::clone(keyspace),
            )),
        }
    }
}

fn is_reached(authority: &str) -> bool {
    let Ok(mut addresses) = authority.to_socket_addrs() else { return false };
    addresses.any(|address| TcpStream::connect_timeout(&address, REACHED_WITHIN).is_ok())
}

/// Carries out operations one at a time and checks the answers.
#[derive(Debug)]
pub(super) enum Session {
    Http(Box<HttpSession>),
    Etcd(etcd::EtcdSession),
}

impl Session {
    pub(super) async fn perform(&mut self, operation: &Operation) -> Result<(), Trouble> {
        match self {
            Session::Http(session) => session.perform(operation).await,
            Session::Etcd(session) => session.perform(operation).await,
        }
    }

    /// After trouble that ends the connection.
    pub(super) fn disconnect(&mut self) {
        match self {
            Session::Http(session) => session.disconnect(),
            // tonic's channels connect again by themselves.
            Session::Etcd(_) => {}
        }
    }
}
