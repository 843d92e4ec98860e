//! [`ProcessSpec`]: how to start one process, and what it is told.

use std::path::PathBuf;

use raftkv_runtime::wipe::Part;

use super::plan::{NodePlan, Plan, RouterPlan};
use super::programs::Programs;

/// Of a router, for who looks for processes that an earlier run left behind: it has no directory of its own.
pub(super) const ROUTER_MARK: &str = "RAFTKV_LOCAL_DIR";

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Of the node with this place in the plan.
    Engine(usize),
    /// Of the node with this place in the plan.
    Sidecar(usize),
    /// The router with this place in the plan.
    Router(usize),
}

impl Role {
    pub(super) fn name(self) -> &'static str {
        match self {
            Role::Engine(_) => "engine",
            Role::Sidecar(_) => "sidecar",
            Role::Router(_) => "router",
        }
    }

    /// Its part of its node, if it is of one.
    pub(super) fn part(self) -> Option<(usize, Part)> {
        match self {
            Role::Engine(node) => Some((node, Part::Engine)),
            Role::Sidecar(node) => Some((node, Part::Sidecar)),
            Role::Router(_) => None,
        }
    }
}

/// How to start one process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ProcessSpec {
    pub(super) role: Role,
    /// For people: `engine of node1`, `router1`.
    pub(super) title: String,
    pub(super) program: PathBuf,
    pub(super) launcher: PathBuf,
    pub(super) log: PathBuf,
    /// Set for the process; `None` = removed from what it would inherit.
    pub(super) environment: Vec<(&'static str, Option<String>)>,
}

impl Plan {
    /// The processes in the order in which they are started. Killed nodes have none.
    pub(super) fn processes(&self, programs: &Programs) -> Vec<ProcessSpec> {
        let mut processes = Vec::with_capacity(self.nodes.len() * 2 + self.routers.len());
        for (index, node) in self.nodes.iter().enumerate().filter(|(_, node)| !node.killed) {
            for (role, program) in [(Role::Engine(index), &programs.engine), (Role::Sidecar(index), &programs.sidecar)]
            {
                processes.push(ProcessSpec {
                    role,
                    title: format!("{} of {}", role.name(), node.name),
                    program: program.clone(),
                    launcher: programs.launcher.clone(),
                    log: node.dir.join(role.name()).with_extension("log"),
                    environment: self.node_environment(node, role),
                });
            }
        }
        for (index, router) in self.routers.iter().enumerate() {
            processes.push(ProcessSpec {
                role: Role::Router(index),
                title: router.name.clone(),
                program: programs.router.clone().unwrap_or_default(),
                launcher: programs.launcher.clone(),
                log: router.dir.join("router.log"),
                environment: self.router_environment(router),
            });
        }
        processes
    }

    /// The group that keeps the shard map: the first.
    fn meta_group(&self) -> &str {
        self.nodes.first().map_or("", |node| node.group.as_str())
    }

    fn node_environment(&self, node: &NodePlan, role: Role) -> Vec<(&'static str, Option<String>)> {
        let mut environment = vec![
            ("NODE_ID", Some(node.name.clone())),
            ("RAFTKV_DATA_DIR", Some(node.dir.display().to_string())),
            ("RAFTKV_HTTP_ADVERTISE", Some(node.http())),
            ("RAFTKV_GROUP_ADVERTISE", Some(node.group_address())),
        ];
        match role {
            Role::Engine(_) => environment.extend([
                ("RAFTKV_HTTP_LISTEN", Some(node.http())),
                ("RAFTKV_GROUP_LISTEN", Some(node.group_address())),
                // To pass on what other groups have to answer.
                ("RAFTKV_ROUTER", self.router_list()),
            ]),
            _ => {
                let is_first = self.of_group(&node.group).next().is_some_and(|first| first.name == node.name);
                // Removed where it does not apply, not just unset: nothing must be inherited from the user's shell.
                let (join, routers, group) = match node.group == self.meta_group() {
                    true => {
                        let join: Vec<_> = self.of_group(&node.group).map(NodePlan::management).collect();
                        (Some(join.join(",")), None, None)
                    }
                    false => (None, self.router_list(), Some(node.group.clone())),
                };
                environment.extend([
                    ("RAFTKV_RAFT_LISTEN", Some(node.raft())),
                    ("RAFTKV_RAFT_ADVERTISE", Some(node.raft())),
                    ("RAFTKV_MANAGEMENT_LISTEN", Some(node.management())),
                    ("RAFTKV_MANAGEMENT_ADVERTISE", Some(node.management())),
                    ("JOIN_ADDR", join),
                    ("RAFTKV_ROUTER", routers),
                    ("RAFTKV_GROUP", group),
                    ("BOOTSTRAP", is_first.then(|| "true".to_owned())),
                ]);
            }
        }
        environment
    }

    /// `None` without routers.
    fn router_list(&self) -> Option<String> {
        let routers: Vec<_> = self.routers.iter().map(RouterPlan::http).collect();
        (!routers.is_empty()).then(|| routers.join(","))
    }

    fn router_environment(&self, router: &RouterPlan) -> Vec<(&'static str, Option<String>)> {
        let meta: Vec<_> = self.of_group(self.meta_group()).map(NodePlan::group_address).collect();
        let replicas = self.group_names().into_values().max().unwrap_or_default();
        let local = router.dir.parent().map(|dir| dir.display().to_string());
        vec![
            ("RAFTKV_META", Some(meta.join(","))),
            ("RAFTKV_HTTP_LISTEN", Some(router.http())),
            ("RAFTKV_ROUTER_ID", Some(router.name.clone())),
            ("RAFTKV_REPLICAS", Some(replicas.to_string())),
            (ROUTER_MARK, local),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::plan::Wanted;
    use super::*;

    fn programs() -> Programs {
        Programs {
            engine: "/bin/engine".into(),
            sidecar: "/bin/sidecar".into(),
            router: Some("/bin/router".into()),
            launcher: "/bin/raftkv".into(),
        }
    }

    fn plan(groups: u16, nodes: u16) -> Plan {
        let wanted = Wanted { groups: Some(groups), nodes: Some(nodes), routers: None, http_port: Some(0) };
        Plan::make(Path::new("/d"), None, wanted).expect("plan")
    }

    fn variable<'a>(spec: &'a ProcessSpec, name: &str) -> Option<&'a str> {
        spec.environment.iter().find(|(key, _)| *key == name)?.1.as_deref()
    }

    fn find<'a>(processes: &'a [ProcessSpec], title: &str) -> &'a ProcessSpec {
        processes.iter().find(|spec| spec.title == title).expect("there is one")
    }

    #[test]
    fn each_process_of_one_group_is_told_what_it_needs() {
        let plan = plan(1, 2);
        let processes = plan.processes(&programs());
        let [engine1, sidecar1, _, sidecar2] = processes.as_slice() else { panic!("{processes:?}") };

        assert_eq!((engine1.role, engine1.program.as_path()), (Role::Engine(0), Path::new("/bin/engine")));
        assert_eq!(engine1.log, Path::new("/d/node1/engine.log"));
        assert_eq!(variable(engine1, "NODE_ID"), Some("node1"));
        assert_eq!(variable(engine1, "RAFTKV_DATA_DIR"), Some("/d/node1"));
        assert_eq!(variable(engine1, "RAFTKV_HTTP_LISTEN"), Some(plan.nodes[0].http().as_str()));
        assert_eq!(variable(engine1, "RAFTKV_HTTP_ADVERTISE"), Some(plan.nodes[0].http().as_str()));
        assert_eq!(variable(engine1, "RAFTKV_GROUP_LISTEN"), Some(plan.nodes[0].group_address().as_str()));

        let join = format!("{},{}", plan.nodes[0].management(), plan.nodes[1].management());
        for (sidecar, node) in [(sidecar1, &plan.nodes[0]), (sidecar2, &plan.nodes[1])] {
            assert_eq!(variable(sidecar, "JOIN_ADDR"), Some(join.as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_RAFT_LISTEN"), Some(node.raft().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_RAFT_ADVERTISE"), Some(node.raft().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_MANAGEMENT_LISTEN"), Some(node.management().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_MANAGEMENT_ADVERTISE"), Some(node.management().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_HTTP_ADVERTISE"), Some(node.http().as_str()));
            assert_eq!(variable(sidecar, "RAFTKV_GROUP_ADVERTISE"), Some(node.group_address().as_str()));
        }
        assert_eq!(variable(sidecar1, "BOOTSTRAP"), Some("true"));
        assert!(engine1.environment.contains(&("RAFTKV_ROUTER", None)), "there is none");
        for name in ["BOOTSTRAP", "RAFTKV_ROUTER", "RAFTKV_GROUP"] {
            assert!(sidecar2.environment.contains(&(name, None)), "{name} is not inherited");
        }
    }

    #[test]
    fn further_groups_ask_the_router_and_the_router_knows_the_first() {
        let plan = plan(2, 2);
        let processes = plan.processes(&programs());
        assert_eq!(processes.len(), 9);
        let router = find(&processes, "router1");
        let meta = format!("{},{}", plan.nodes[0].group_address(), plan.nodes[1].group_address());
        assert_eq!(variable(router, "RAFTKV_META"), Some(meta.as_str()));
        assert_eq!(variable(router, "RAFTKV_HTTP_LISTEN"), Some(plan.routers[0].http().as_str()));
        assert_eq!((variable(router, "RAFTKV_REPLICAS"), variable(router, ROUTER_MARK)), (Some("2"), Some("/d")));
        assert_eq!(router.program, Path::new("/bin/router"));

        for (name, bootstrap) in [("g2n1", Some("true")), ("g2n2", None)] {
            let sidecar = find(&processes, &format!("sidecar of {name}"));
            assert_eq!(variable(sidecar, "RAFTKV_ROUTER"), Some(plan.routers[0].http().as_str()));
            assert_eq!((variable(sidecar, "RAFTKV_GROUP"), variable(sidecar, "BOOTSTRAP")), (Some("g2"), bootstrap));
            assert!(sidecar.environment.contains(&("JOIN_ADDR", None)), "JOIN_ADDR would win over the router");
        }
        let engine = find(&processes, "engine of g1n1");
        assert_eq!(variable(engine, "RAFTKV_ROUTER"), Some(plan.routers[0].http().as_str()));
        let first = find(&processes, "sidecar of g1n1");
        assert!(first.environment.contains(&("RAFTKV_ROUTER", None)) && variable(first, "JOIN_ADDR").is_some());
    }

    #[test]
    fn a_killed_node_has_no_processes() {
        let mut plan = plan(1, 3);
        plan.nodes[1].killed = true;
        let titles: Vec<_> = plan.processes(&programs()).into_iter().map(|spec| spec.title).collect();
        assert_eq!(titles, ["engine of node1", "sidecar of node1", "engine of node3", "sidecar of node3"]);
    }
}
