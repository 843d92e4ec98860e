//! [`Nodes`]: the addresses of one group, the connections to them, and the one in use.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_proto::group::group_client::GroupClient as Rpc;
use raftkv_proto::{GROUP_HEADER, STORE_HEADER};
use raftkv_runtime::grpc::{self, ChannelOptions, Endpoint};
use tokio::sync::watch;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::Channel;

use crate::data::map::GroupId;

/// Addresses remembered beyond the configured ones: as many nodes as a group may have, and some that came and went.
const MAX_LEARNED: usize = 32;

/// Which group of which store is meant: a node of another one refuses every call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The sharded store.
    pub store: u64,
    /// The group in it.
    pub group: GroupId,
}

/// One address and the connections to it, which are made when first used.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) address: String,
    /// For the streams: small messages that people wait for.
    streams: Channel,
    /// For everything else, pages of keys among it, which would hold up the streams on the same connection.
    calls: Channel,
}

/// All addresses of a group. Cloning shares them.
#[derive(Debug, Clone)]
pub(super) struct Nodes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    identity: Option<(AsciiMetadataValue, AsciiMetadataValue)>,
    known: Mutex<Known>,
    moves: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Known {
    configured: Vec<String>,
    learned: Vec<String>,
    connected: BTreeMap<String, Node>,
    target: Option<Node>,
}

impl Nodes {
    /// Must be called within a tokio runtime.
    pub(super) fn new(configured: Vec<String>, identity: Option<Identity>) -> Self {
        let identity = identity.and_then(|identity| {
            let store = AsciiMetadataValue::try_from(format!("{:016x}", identity.store)).ok()?;
            Some((store, AsciiMetadataValue::from(identity.group)))
        });
        let shared = Shared { identity, known: Mutex::default(), moves: watch::Sender::new(0) };
        let nodes = Self { shared: Arc::new(shared) };
        nodes.set_configured(configured);
        nodes
    }

    /// Replaces the configured addresses; what was learned stays.
    pub(super) fn set_configured(&self, addresses: Vec<String>) {
        let mut known = self.known();
        known.configured = addresses;
        known.forget_connections();
        if known.target.is_none()
            && let Some(first) = known.configured.first().cloned()
        {
            drop(known);
            self.choose(&first);
        }
    }

    /// Adds what a node of the group said of its members; the oldest are forgotten beyond a bound.
    pub(super) fn learn(&self, addresses: impl Iterator<Item = String>) {
        let mut known = self.known();
        for address in addresses {
            if !known.learned.contains(&address) && address.parse::<Endpoint>().is_ok() {
                known.learned.push(address);
            }
        }
        let too_many = known.learned.len().saturating_sub(MAX_LEARNED);
        if too_many > 0 {
            known.learned.drain(..too_many);
            known.forget_connections();
        }
    }

    /// All addresses, the configured ones first, each once.
    pub(super) fn addresses(&self) -> Vec<String> {
        self.known().addresses()
    }

    /// The node in use.
    pub(super) fn target(&self) -> Option<Node> {
        self.known().target.clone()
    }

    /// Uses this address from now on. Says whether that is a change.
    pub(super) fn choose(&self, address: &str) -> bool {
        let Some(node) = self.node(address) else { return false };
        let mut known = self.known();
        if known.target.as_ref().is_some_and(|target| target.address == node.address) {
            return false;
        }
        known.target = Some(node);
        drop(known);
        self.shared.moves.send_modify(|moves| *moves += 1);
        true
    }

    /// Told of every change of the node in use.
    pub(super) fn moves(&self) -> watch::Receiver<u64> {
        self.shared.moves.subscribe()
    }

    /// The node at an address; `None` = it is no address.
    pub(super) fn node(&self, address: &str) -> Option<Node> {
        let mut known = self.known();
        if let Some(node) = known.connected.get(address) {
            return Some(node.clone());
        }
        let endpoint = address.parse().ok()?;
        let connect = || grpc::connect_lazy(&endpoint, ChannelOptions::default()).ok();
        let node = Node { address: address.to_owned(), streams: connect()?, calls: connect()? };
        known.connected.insert(address.to_owned(), node.clone());
        Some(node)
    }

    /// For the streams of a node.
    pub(super) fn streams(&self, node: &Node) -> Rpc<Channel> {
        rpc(node.streams.clone())
    }

    /// For all other calls of a node.
    pub(super) fn calls(&self, node: &Node) -> Rpc<Channel> {
        rpc(node.calls.clone())
    }

    /// A request that names the group.
    pub(super) fn request<T>(&self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        if let Some((store, group)) = &self.shared.identity {
            request.metadata_mut().insert(STORE_HEADER, store.clone());
            request.metadata_mut().insert(GROUP_HEADER, group.clone());
        }
        request
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.shared.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn addresses(&self) -> Vec<String> {
        let mut addresses = self.configured.clone();
        addresses.extend(self.learned.iter().filter(|address| !self.configured.contains(address)).cloned());
        addresses
    }

    /// Closes what is at no address of the group any more.
    fn forget_connections(&mut self) {
        let addresses = self.addresses();
        let target = self.target.as_ref().map(|target| target.address.clone());
        self.connected.retain(|address, _| addresses.contains(address) || target.as_ref() == Some(address));
    }
}

fn rpc(channel: Channel) -> Rpc<Channel> {
    Rpc::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(addresses: &[&str]) -> Vec<String> {
        addresses.iter().map(|address| (*address).to_owned()).collect()
    }

    #[tokio::test]
    async fn learned_addresses_come_after_the_configured_and_outlive_them() {
        let nodes = Nodes::new(texts(&["a:1", "b:1"]), None);
        assert_eq!(nodes.target().unwrap().address, "a:1", "any is better than none");
        nodes.learn(texts(&["b:1", "c:1", "not an address"]).into_iter());
        assert_eq!(nodes.addresses(), ["a:1", "b:1", "c:1"]);
        nodes.set_configured(texts(&["d:1"]));
        assert_eq!(nodes.addresses(), ["d:1", "b:1", "c:1"]);
        nodes.learn((0..MAX_LEARNED).map(|at| format!("n{at}:1")));
        assert_eq!(nodes.addresses().len(), 1 + MAX_LEARNED, "bounded");
    }

    #[tokio::test]
    async fn links_are_told_of_a_change_once() {
        let nodes = Nodes::new(texts(&["a:1"]), Some(Identity { store: 255, group: 7 }));
        let moves = nodes.moves();
        assert!(!nodes.choose("a:1") && nodes.choose("b:1") && !nodes.choose("b:1") && !nodes.choose("nonsense"));
        assert!(moves.has_changed().unwrap());
        let request = nodes.request(());
        assert_eq!(request.metadata().get(STORE_HEADER).unwrap(), "00000000000000ff");
        assert_eq!(request.metadata().get(GROUP_HEADER).unwrap(), "7");
    }
}
