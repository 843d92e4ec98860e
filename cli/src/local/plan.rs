//! [`Plan`]: which nodes there are, where they listen, and what their processes are told.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use raftkv_runtime::grpc::Endpoint;
use rand::RngExt;
use serde::{Deserialize, Serialize};

use super::args::{DEFAULT_HTTP_PORT, DEFAULT_NODES};
use super::programs::Programs;
use crate::failure::Failure;

/// The management port of the first node, where the other commands look when told nothing.
pub(super) const DEFAULT_MANAGEMENT_PORT: u16 = 6000;
/// The raft port of the first node.
const DEFAULT_RAFT_PORT: u16 = 8088;
/// Where other ports are picked from: below the range from which systems give ports to outgoing connections, any of
/// which might otherwise sit on a node's port when it restarts.
const PICKED_PORTS: std::ops::Range<u16> = 20_000..32_000;
/// How often to pick before giving up.
const PICKS: usize = 1_000;
/// The only group of a local cluster.
const GROUP: &str = "g1";
/// The socket with the longest name in a node's directory.
const LONGEST_SOCKET: &str = "sidecar.sock";

/// The decisions that stay the same from run to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) nodes: Vec<NodePlan>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NodePlan {
    pub(super) name: String,
    pub(super) group: String,
    pub(super) http_port: u16,
    pub(super) management_port: u16,
    pub(super) raft_port: u16,
    /// Not kept: the whole directory may be moved.
    #[serde(skip)]
    pub(super) dir: PathBuf,
}

/// Which of a node's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Engine,
    Sidecar,
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Engine => "engine",
            Role::Sidecar => "sidecar",
        }
    }
}

/// How to start one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessSpec {
    /// Index of its node in the plan.
    pub(super) node: usize,
    pub(super) node_name: String,
    pub(super) role: Role,
    pub(super) program: PathBuf,
    pub(super) launcher: PathBuf,
    pub(super) log: PathBuf,
    /// Set for the process; `None` = removed from what it would inherit.
    pub(super) environment: Vec<(&'static str, Option<String>)>,
}

impl Plan {
    /// Continues `resumed` or makes a new plan. Ports that were not decided are picked among the free ones.
    pub(super) fn make(
        dir: &Path,
        resumed: Option<Plan>,
        nodes: Option<u16>,
        http_port: Option<u16>,
    ) -> Result<Self, Failure> {
        let is_new = resumed.is_none();
        let mut plan = resumed.unwrap_or(Plan { nodes: Vec::new() });
        let had = plan.nodes.len();
        let wanted = nodes.map_or_else(
            || {
                if is_new { usize::from(DEFAULT_NODES) } else { had }
            },
            usize::from,
        );
        if wanted < had {
            return Err(Failure::usage(format!(
                "{} has {had} nodes, more than --nodes {wanted}; name another directory with --dir",
                dir.display()
            )));
        }
        let mut taken: BTreeSet<u16> =
            plan.nodes.iter().flat_map(|node| [node.http_port, node.management_port, node.raft_port]).collect();
        for index in had..wanted {
            // With any port allowed, several clusters may be starting at this moment: familiar ports would collide.
            let familiar = http_port != Some(0);
            let offset = u16::try_from(index).unwrap_or(u16::MAX);
            plan.nodes.push(NodePlan {
                name: format!("node{}", index + 1),
                group: GROUP.to_owned(),
                http_port: match http_port {
                    None if is_new => DEFAULT_HTTP_PORT + offset,
                    _ => pick_port(&mut taken)?,
                },
                management_port: pick_preferred(familiar, DEFAULT_MANAGEMENT_PORT + offset, &mut taken)?,
                raft_port: pick_preferred(familiar, DEFAULT_RAFT_PORT + offset, &mut taken)?,
                dir: PathBuf::new(),
            });
        }
        for (node, offset) in plan.nodes.iter_mut().zip(0..) {
            node.dir = dir.join(&node.name);
            if let Some(base) = http_port.filter(|base| *base != 0) {
                node.http_port = base
                    .checked_add(offset)
                    .ok_or_else(|| Failure::usage(format!("--http-port {base} leaves no port for {}", node.name)))?;
            }
            // Bound by the processes; here the error can say what to do before anything has started.
            Endpoint::unix(node.dir.join(LONGEST_SOCKET)).map_err(|error| Failure::usage(format!("--dir: {error}")))?;
        }
        Ok(plan)
    }

    /// Whether every port can be had, so that a conflict is told before anything starts.
    pub(super) fn check_ports(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            for (port, of) in [(node.http_port, "HTTP"), (node.management_port, "management"), (node.raft_port, "raft")]
            {
                if let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                    let advice = match of {
                        "HTTP" => "choose others with --http-port, or any free ones with --http-port 0",
                        _ => "stop what uses it, or name another directory with --dir",
                    };
                    let message = format!("{of} port {port} of {} cannot be used ({error}); {advice}", node.name);
                    return Err(Failure::unavailable(message));
                }
            }
        }
        Ok(())
    }

    /// The processes in the order in which they are started.
    pub(super) fn processes(&self, programs: &Programs) -> Vec<ProcessSpec> {
        let join: Vec<_> = self.nodes.iter().map(NodePlan::management).collect();
        let join = join.join(",");
        let mut processes = Vec::with_capacity(self.nodes.len() * 2);
        for (index, node) in self.nodes.iter().enumerate() {
            for role in [Role::Engine, Role::Sidecar] {
                processes.push(ProcessSpec {
                    node: index,
                    node_name: node.name.clone(),
                    role,
                    program: match role {
                        Role::Engine => programs.engine.clone(),
                        Role::Sidecar => programs.sidecar.clone(),
                    },
                    launcher: programs.launcher.clone(),
                    log: node.dir.join(role.name()).with_extension("log"),
                    environment: node.environment(role, &join, index == 0),
                });
            }
        }
        processes
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

    fn environment(&self, role: Role, join: &str, bootstrap: bool) -> Vec<(&'static str, Option<String>)> {
        let mut environment = vec![
            ("NODE_ID", Some(self.name.clone())),
            ("RAFTKV_DATA_DIR", Some(self.dir.display().to_string())),
            ("RAFTKV_HTTP_ADVERTISE", Some(self.http())),
        ];
        match role {
            Role::Engine => environment.push(("RAFTKV_HTTP_LISTEN", Some(self.http()))),
            Role::Sidecar => environment.extend([
                ("RAFTKV_RAFT_LISTEN", Some(self.raft())),
                ("RAFTKV_RAFT_ADVERTISE", Some(self.raft())),
                ("RAFTKV_MANAGEMENT_LISTEN", Some(self.management())),
                ("RAFTKV_MANAGEMENT_ADVERTISE", Some(self.management())),
                ("JOIN_ADDR", Some(join.to_owned())),
                ("BOOTSTRAP", bootstrap.then(|| "true".to_owned())),
            ]),
        }
        environment
    }
}

fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn pick_preferred(familiar: bool, preferred: u16, taken: &mut BTreeSet<u16>) -> Result<u16, Failure> {
    if familiar && is_free(preferred) && taken.insert(preferred) { Ok(preferred) } else { pick_port(taken) }
}

fn pick_port(taken: &mut BTreeSet<u16>) -> Result<u16, Failure> {
    let mut random = rand::rng();
    for _ in 0..PICKS {
        let port = random.random_range(PICKED_PORTS);
        if is_free(port) && taken.insert(port) {
            return Ok(port);
        }
    }
    Err(Failure::unavailable(format!("no free port between {} and {}", PICKED_PORTS.start, PICKED_PORTS.end)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs() -> Programs {
        Programs { engine: "/bin/engine".into(), sidecar: "/bin/sidecar".into(), launcher: "/bin/raftkv".into() }
    }

    fn variable<'a>(spec: &'a ProcessSpec, name: &str) -> Option<&'a str> {
        spec.environment.iter().find(|(key, _)| *key == name)?.1.as_deref()
    }

    #[test]
    fn the_default_is_three_nodes_on_familiar_http_ports() {
        let plan = Plan::make(Path::new("/d"), None, None, None).expect("plan");
        let nodes: Vec<_> = plan.nodes.iter().map(|node| (node.name.as_str(), node.http())).collect();
        let at = |port: u16| format!("127.0.0.1:{port}");
        assert_eq!(nodes, [("node1", at(8080)), ("node2", at(8081)), ("node3", at(8082))]);
    }

    #[test]
    fn free_ports_are_all_different_and_outside_the_range_of_outgoing_connections() {
        let plan = Plan::make(Path::new("/d"), None, Some(9), Some(0)).expect("plan");
        let ports: Vec<_> =
            plan.nodes.iter().flat_map(|node| [node.http_port, node.management_port, node.raft_port]).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), 27);
        assert!(ports.iter().all(|port| PICKED_PORTS.contains(port)), "{ports:?}");
        plan.check_ports().expect("all free");
    }

    #[test]
    fn resuming_keeps_the_ports_and_a_cluster_may_grow_but_not_shrink() {
        let first = Plan::make(Path::new("/d"), None, Some(3), Some(0)).expect("plan");
        let resumed = Plan::make(Path::new("/d"), Some(first.clone()), None, None).expect("resume");
        assert_eq!(resumed, first);
        let again =
            Plan::make(Path::new("/d"), Some(first.clone()), None, Some(0)).expect("any ports are those it has");
        assert_eq!(again, first);
        let grown = Plan::make(Path::new("/d"), Some(first.clone()), Some(5), None).expect("grow");
        assert_eq!((&grown.nodes[..3], grown.nodes.len()), (&first.nodes[..], 5));
        let refused = Plan::make(Path::new("/d"), Some(first.clone()), Some(1), None).expect_err("shrink");
        assert_eq!(refused.code, 64);
        let moved = Plan::make(Path::new("/e"), Some(first), None, Some(18_080)).expect("other HTTP ports");
        assert_eq!((moved.nodes[2].http_port, moved.nodes[2].dir.as_path()), (18_082, Path::new("/e/node3")));
    }

    #[test]
    fn each_process_is_told_what_it_needs() {
        let plan = Plan::make(Path::new("/d"), None, Some(2), Some(0)).expect("plan");
        let processes = plan.processes(&programs());
        let [engine1, sidecar1, _, sidecar2] = processes.as_slice() else { panic!("{processes:?}") };

        assert_eq!((engine1.role, engine1.program.as_path()), (Role::Engine, Path::new("/bin/engine")));
        assert_eq!(engine1.log, Path::new("/d/node1/engine.log"));
        assert_eq!(variable(engine1, "NODE_ID"), Some("node1"));
        assert_eq!(variable(engine1, "RAFTKV_DATA_DIR"), Some("/d/node1"));
        assert_eq!(variable(engine1, "RAFTKV_HTTP_LISTEN"), Some(plan.nodes[0].http().as_str()));
        assert_eq!(variable(engine1, "RAFTKV_HTTP_ADVERTISE"), Some(plan.nodes[0].http().as_str()));

        let join = format!("{},{}", plan.nodes[0].management(), plan.nodes[1].management());
        for (sidecar, node) in [(sidecar1, &plan.nodes[0]), (sidecar2, &plan.nodes[1])] {
            assert_eq!(variable(sidecar, "JOIN_ADDR"), Some(join.as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_RAFT_LISTEN"), Some(node.raft().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_RAFT_ADVERTISE"), Some(node.raft().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_MANAGEMENT_LISTEN"), Some(node.management().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_MANAGEMENT_ADVERTISE"), Some(node.management().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_HTTP_ADVERTISE"), Some(node.http().as_str()));
        }
        assert_eq!(variable(sidecar1, "BOOTSTRAP"), Some("true"));
        // Removed, not just unset: it must not be inherited from the user's shell.
        assert!(sidecar2.environment.contains(&("BOOTSTRAP", None)));
    }

    #[test]
    fn a_directory_too_deep_for_its_sockets_is_refused() {
        let deep = format!("/{}", "d".repeat(100));
        let refused = Plan::make(Path::new(&deep), None, None, Some(0)).expect_err("too long");
        assert!(refused.code == 64 && refused.message.contains("shorter"), "{refused:?}");
    }

    #[test]
    fn a_port_in_use_is_told_with_what_to_do() {
        let mut plan = Plan::make(Path::new("/d"), None, Some(1), Some(0)).expect("plan");
        let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
        plan.nodes[0].http_port = other.local_addr().expect("address").port();
        let refused = plan.check_ports().expect_err("in use");
        assert!(refused.message.contains("--http-port 0"), "{refused:?}");
    }
}
