//! [`Plan`]: which nodes and routers there are, and where they listen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use raftkv_runtime::grpc::Endpoint;
use serde::{Deserialize, Serialize};

use super::args::{DEFAULT_HTTP_PORT, DEFAULT_NODES};
use super::ports::{PICKED, Ports, loopback};
use crate::failure::Failure;

/// The management port of the first node, where the other commands look when told nothing.
pub(super) const DEFAULT_MANAGEMENT_PORT: u16 = 6000;
/// The raft port of the first node.
const DEFAULT_RAFT_PORT: u16 = 8088;
/// The port of the first router of a cluster that began without one, whose nodes have the ports from 8080 on: a router's own
/// default, where the other commands look first.
const LATE_ROUTER_PORT: u16 = 8_000;
/// The port of the first node for routers.
const DEFAULT_GROUP_PORT: u16 = 50_053;
/// The socket with the longest name in a node's directory.
const LONGEST_SOCKET: &str = "sidecar.sock";

/// What is asked for; what is not stays as it is, or becomes the default.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) groups: Option<u16>,
    /// In each group.
    pub(super) nodes: Option<u16>,
    pub(super) routers: Option<u16>,
    pub(super) http_port: Option<u16>,
}

/// The decisions that stay the same from run to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) nodes: Vec<NodePlan>,
    #[serde(default)]
    pub(super) routers: Vec<RouterPlan>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) http_port: u16,
    pub(super) management_port: u16,
    pub(super) raft_port: u16,
    /// For routers; 0 = not decided, in plans of older versions.
    #[serde(default)]
    pub(super) group_port: u16,
    /// Not kept: the whole directory may be moved.
    #[serde(skip)]
    pub(super) dir: PathBuf,
    /// Not kept here: the node's directory says so.
    #[serde(skip)]
    pub(super) killed: bool,
    /// Not kept here: its group says so. It runs, and serves nothing until it is taken in again.
    #[serde(skip)]
    pub(super) removed: bool,
}

/// One shard router.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RouterPlan {
    pub(super) name: String,
    pub(super) http_port: u16,
    /// For its log; not kept.
    #[serde(skip)]
    pub(super) dir: PathBuf,
}

impl Plan {
    /// Continues `resumed` or makes a new plan. Ports that were not decided are picked among the free ones.
    pub(super) fn make(dir: &Path, resumed: Option<Plan>, wanted: Wanted) -> Result<Self, Failure> {
        let is_new = resumed.is_none();
        let mut plan = resumed.unwrap_or_default();
        let (groups, routers) = plan.sizes(dir, &wanted)?;
        let mut ports = Ports::new(plan.ports(), wanted.http_port != Some(0));
        for node in plan.nodes.iter_mut().filter(|node| node.group_port == 0) {
            node.group_port = ports.any()?;
        }
        // Routers come first: theirs is the address that clients know.
        let mut offset = 0..;
        let mut http = |ports: &mut Ports| match (wanted.http_port, offset.next()) {
            (None, Some(offset)) if is_new => Ok(ports.fixed(DEFAULT_HTTP_PORT + offset)),
            _ => ports.any(),
        };
        // One that was started on any free ports may be one of many: familiar ones would collide.
        let had_any_ports = plan.nodes.iter().any(|node| PICKED.contains(&node.http_port));
        for number in plan.routers.len()..routers {
            let late = u16::try_from(number).ok().and_then(|number| LATE_ROUTER_PORT.checked_add(number));
            let http_port = match late {
                Some(late) if !is_new && !had_any_ports && wanted.http_port.is_none() => ports.prefer(late)?,
                _ => http(&mut ports)?,
            };
            plan.routers.push(RouterPlan { name: format!("router{}", number + 1), http_port, dir: PathBuf::new() });
        }
        let is_sharded = !plan.routers.is_empty();
        for (number, size) in groups.iter().enumerate() {
            let group = format!("g{}", number + 1);
            for _ in plan.of_group(&group).count()..*size {
                let offset = u16::try_from(plan.nodes.len()).unwrap_or(u16::MAX);
                let node = NodePlan {
                    name: plan.next_name(&group, is_sharded),
                    http_port: http(&mut ports)?,
                    management_port: ports.prefer(DEFAULT_MANAGEMENT_PORT + offset)?,
                    raft_port: ports.prefer(DEFAULT_RAFT_PORT + offset)?,
                    group_port: ports.prefer(DEFAULT_GROUP_PORT + offset)?,
                    group: group.clone(),
                    dir: PathBuf::new(),
                    killed: false,
                    removed: false,
                };
                plan.nodes.push(node);
            }
        }
        plan.place(dir, wanted.http_port.filter(|base| *base != 0))?;
        Ok(plan)
    }

    /// Nodes in each group, and how many routers.
    fn sizes(&self, dir: &Path, wanted: &Wanted) -> Result<(Vec<usize>, usize), Failure> {
        let refuse = |had: usize, what: &str, asked: usize| {
            let dir = dir.display();
            Failure::usage(format!("{dir} has {had} {what}, more than {asked}; name another directory with --dir"))
        };
        let had_groups = self.group_names().len();
        let groups = wanted.groups.map_or(had_groups.max(1), usize::from);
        if groups < had_groups {
            return Err(refuse(had_groups, "groups", groups));
        }
        let mut sizes = Vec::with_capacity(groups);
        for number in 1..=groups {
            let had = self.of_group(&format!("g{number}")).count();
            let default = if had > 0 { had } else { sizes.first().copied().unwrap_or(usize::from(DEFAULT_NODES)) };
            let nodes = wanted.nodes.map_or(default, usize::from);
            if nodes < had {
                return Err(refuse(had, &format!("nodes in g{number}"), nodes));
            }
            sizes.push(nodes);
        }
        let had_routers = self.routers.len();
        let default = if groups > 1 { had_routers.max(1) } else { had_routers };
        let routers = wanted.routers.map_or(default, usize::from);
        if routers < had_routers {
            return Err(refuse(had_routers, "routers", routers));
        }
        if groups > 1 && routers == 0 {
            return Err(Failure::usage("several groups need a router: leave out --routers 0"));
        }
        Ok((sizes, routers))
    }

    /// Where everything is, and the HTTP ports when a base for them was given.
    fn place(&mut self, dir: &Path, base: Option<u16>) -> Result<(), Failure> {
        let routers = self.routers.iter_mut().map(|router| (&router.name, &mut router.http_port, &mut router.dir));
        let nodes = self.nodes.iter_mut().map(|node| (&node.name, &mut node.http_port, &mut node.dir));
        for ((name, port, place), offset) in routers.chain(nodes).zip(0..) {
            *place = dir.join(name);
            if let Some(base) = base {
                *port = base
                    .checked_add(offset)
                    .ok_or_else(|| Failure::usage(format!("--http-port {base} leaves no port for {name}")))?;
            }
        }
        for node in &self.nodes {
            // Bound by the processes; here the error can say what to do before anything has started.
            Endpoint::unix(node.dir.join(LONGEST_SOCKET)).map_err(|error| Failure::usage(format!("--dir: {error}")))?;
        }
        Ok(())
    }

    /// `node4` continues a group that began without routers, `g2n1` tells group and number.
    fn next_name(&self, group: &str, is_sharded: bool) -> String {
        let number = self.of_group(group).count() + 1;
        match self.of_group(group).next() {
            Some(first) if first.name.starts_with("node") => format!("node{number}"),
            None if !is_sharded => format!("node{number}"),
            _ => format!("{group}n{number}"),
        }
    }

    fn ports(&self) -> BTreeSet<u16> {
        let of_nodes =
            self.nodes.iter().flat_map(|node| [node.http_port, node.management_port, node.raft_port, node.group_port]);
        of_nodes.chain(self.routers.iter().map(|router| router.http_port)).collect()
    }

    /// The nodes of a group.
    pub(super) fn of_group<'a>(&'a self, group: &'a str) -> impl Iterator<Item = &'a NodePlan> {
        self.nodes.iter().filter(move |node| node.group == group)
    }

    /// The names of the groups, with how many nodes each has.
    pub(super) fn group_names(&self) -> BTreeMap<&str, usize> {
        let mut groups = BTreeMap::new();
        for node in &self.nodes {
            *groups.entry(node.group.as_str()).or_default() += 1;
        }
        groups
    }

    /// The nodes that run.
    pub(super) fn live(&self) -> impl Iterator<Item = &NodePlan> {
        self.nodes.iter().filter(|node| !node.killed)
    }

    /// The nodes that serve, as far as is known: members of their groups.
    pub(super) fn serving(&self) -> impl Iterator<Item = &NodePlan> {
        self.live().filter(|node| !node.removed)
    }

    /// Whether every port can be had, so that a conflict is told before anything starts.
    pub(super) fn check_ports(&self) -> Result<(), Failure> {
        let of_routers = self.routers.iter().map(|router| (router.http_port, "HTTP", &router.name));
        let of_nodes = self.live().flat_map(|node| {
            [
                (node.http_port, "HTTP", &node.name),
                (node.management_port, "management", &node.name),
                (node.raft_port, "raft", &node.name),
                (node.group_port, "router", &node.name),
            ]
        });
        for (port, of, name) in of_routers.chain(of_nodes) {
            if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                let advice = match of {
                    "HTTP" => "choose others with --http-port, or any free ones with --http-port 0",
                    _ => "stop what uses it, or name another directory with --dir",
                };
                let message = format!("{of} port {port} of {name} cannot be used ({error}); {advice}");
                return Err(Failure::unavailable(message));
            }
        }
        Ok(())
    }
}

impl NodePlan {
    pub(super) fn http(&self) -> String {
        loopback(self.http_port)
    }

    pub(super) fn management(&self) -> String {
        loopback(self.management_port)
    }

    pub(super) fn raft(&self) -> String {
        loopback(self.raft_port)
    }

    /// Where routers reach it.
    pub(super) fn group_address(&self) -> String {
        loopback(self.group_port)
    }
}

impl RouterPlan {
    pub(super) fn http(&self) -> String {
        loopback(self.http_port)
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
