//! What a plan makes of what was asked for.

use super::super::ports::PICKED;
use super::*;

fn wanted(groups: Option<u16>, nodes: Option<u16>, routers: Option<u16>, http_port: Option<u16>) -> Wanted {
    Wanted { groups, nodes, routers, http_port }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.nodes.iter().map(|node| node.name.as_str()).collect()
}

#[test]
fn the_default_is_three_nodes_on_familiar_http_ports() {
    let plan = Plan::make(Path::new("/d"), None, Wanted::default()).expect("plan");
    let nodes: Vec<_> = plan.nodes.iter().map(|node| (node.name.as_str(), node.group.as_str(), node.http())).collect();
    let at = |port: u16| format!("127.0.0.1:{port}");
    assert_eq!(nodes, [("node1", "g1", at(8080)), ("node2", "g1", at(8081)), ("node3", "g1", at(8082))]);
    assert!(plan.routers.is_empty());
}

#[test]
fn with_groups_the_routers_have_the_first_ports() {
    let plan = Plan::make(Path::new("/d"), None, wanted(Some(2), Some(2), Some(2), None)).expect("plan");
    assert_eq!(names(&plan), ["g1n1", "g1n2", "g2n1", "g2n2"]);
    let http = |ports: &[u16]| ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>();
    assert_eq!(plan.routers.iter().map(RouterPlan::http).collect::<Vec<_>>(), http(&[8080, 8081]));
    assert_eq!(plan.nodes.iter().map(NodePlan::http).collect::<Vec<_>>(), http(&[8082, 8083, 8084, 8085]));
    assert_eq!(plan.routers[1].dir, Path::new("/d/router2"));

    let one = Plan::make(Path::new("/d"), None, wanted(Some(3), Some(1), None, Some(9_000))).expect("plan");
    assert_eq!((one.routers.len(), one.routers[0].http_port, one.nodes[2].http_port), (1, 9_000, 9_003));
    let refused = Plan::make(Path::new("/d"), None, wanted(Some(2), None, Some(0), None)).expect_err("no router");
    assert_eq!(refused.code, 64);
}

#[test]
fn free_ports_are_all_different_and_outside_the_range_of_outgoing_connections() {
    let plan = Plan::make(Path::new("/d"), None, wanted(Some(3), Some(3), Some(2), Some(0))).expect("plan");
    let ports = plan.ports();
    assert_eq!(ports.len(), 9 * 4 + 2);
    assert!(ports.iter().all(|port| PICKED.contains(port)), "{ports:?}");
    plan.check_ports().expect("all free");
}

#[test]
fn resuming_keeps_the_ports_and_a_cluster_may_grow_but_not_shrink() {
    let any = |nodes| wanted(None, nodes, None, Some(0));
    let first = Plan::make(Path::new("/d"), None, any(Some(3))).expect("plan");
    let resumed = Plan::make(Path::new("/d"), Some(first.clone()), Wanted::default()).expect("resume");
    assert_eq!(resumed, first);
    let again = Plan::make(Path::new("/d"), Some(first.clone()), any(None)).expect("any ports are those it has");
    assert_eq!(again, first);
    let grown = Plan::make(Path::new("/d"), Some(first.clone()), wanted(None, Some(5), None, None)).expect("grow");
    assert_eq!((&grown.nodes[..3], grown.nodes.len()), (&first.nodes[..], 5));
    let refused = Plan::make(Path::new("/d"), Some(first.clone()), any(Some(1))).expect_err("shrink");
    assert_eq!(refused.code, 64);
    let moved = wanted(None, None, None, Some(18_080));
    let moved = Plan::make(Path::new("/e"), Some(first), moved).expect("other HTTP ports");
    assert_eq!((moved.nodes[2].http_port, moved.nodes[2].dir.as_path()), (18_082, Path::new("/e/node3")));
}

#[test]
fn groups_and_routers_may_be_added_to_what_there_is() {
    let first = Plan::make(Path::new("/d"), None, wanted(None, Some(2), None, Some(0))).expect("plan");
    let more = wanted(Some(2), None, None, None);
    let grown = Plan::make(Path::new("/d"), Some(first.clone()), more).expect("a second group");
    assert_eq!((&grown.nodes[..2], names(&grown)), (&first.nodes[..], vec!["node1", "node2", "g2n1", "g2n2"]));
    assert_eq!(grown.routers.len(), 1);
    let again = Plan::make(Path::new("/d"), Some(grown.clone()), Wanted::default()).expect("resume");
    assert_eq!(again, grown);
    for fewer in [wanted(Some(1), None, None, None), wanted(None, None, Some(0), None)] {
        assert_eq!(Plan::make(Path::new("/d"), Some(grown.clone()), fewer).expect_err("shrink").code, 64);
    }
    let larger = wanted(None, Some(3), Some(2), None);
    let larger = Plan::make(Path::new("/d"), Some(grown), larger).expect("a node in each");
    assert_eq!(names(&larger), ["node1", "node2", "g2n1", "g2n2", "node3", "g2n3"]);
    assert_eq!(larger.routers.len(), 2);
}

#[test]
fn routers_that_come_later_are_where_the_other_commands_look_for_them() {
    let first = Plan::make(Path::new("/d"), None, wanted(None, Some(1), None, Some(18_080))).expect("plan");
    let grow = || wanted(Some(2), None, Some(2), None);
    // Unless something else has these ports on the machine that runs this test.
    let taken: Vec<_> = [8_000, 8_001].map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()).into();
    let grown = Plan::make(Path::new("/d"), Some(first.clone()), grow()).expect("a second group");
    for ((router, port), taken) in grown.routers.iter().zip([8_000, 8_001]).zip(taken) {
        assert!(taken || router.http_port == port, "{router:?}");
    }
    assert_eq!(grown.nodes[0].http_port, 18_080, "what was there stays");
    let _other = TcpListener::bind((Ipv4Addr::LOCALHOST, 8_000));
    let beside = Plan::make(Path::new("/d"), Some(first), grow()).expect("beside another program");
    assert!(PICKED.contains(&beside.routers[0].http_port), "{beside:?}");
    let any = Plan::make(Path::new("/d"), None, wanted(None, Some(1), None, Some(0))).expect("plan");
    let any = Plan::make(Path::new("/d"), Some(any), grow()).expect("a second group");
    assert!(any.routers.iter().all(|router| PICKED.contains(&router.http_port)), "{any:?}");
}

#[test]
fn a_plan_of_an_older_version_gets_what_it_lacks() {
    let old =
        r#"{"nodes":[{"name":"node1","group":"g1","http_port":28080,"management_port":26000,"raft_port":28088}]}"#;
    let old: Plan = serde_json::from_str(old).expect("readable");
    let plan = Plan::make(Path::new("/d"), Some(old), Wanted::default()).expect("resumed");
    assert!(plan.nodes[0].group_port != 0 && plan.routers.is_empty(), "{plan:?}");
}

#[test]
fn a_directory_too_deep_for_its_sockets_is_refused() {
    let deep = format!("/{}", "d".repeat(100));
    let any = wanted(None, None, None, Some(0));
    let refused = Plan::make(Path::new(&deep), None, any).expect_err("too long");
    assert!(refused.code == 64 && refused.message.contains("shorter"), "{refused:?}");
}

#[test]
fn a_port_in_use_is_told_with_what_to_do() {
    let mut plan = Plan::make(Path::new("/d"), None, wanted(None, Some(1), None, Some(0))).expect("plan");
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind");
    plan.nodes[0].http_port = other.local_addr().expect("address").port();
    let refused = plan.check_ports().expect_err("in use");
    assert!(refused.message.contains("--http-port 0"), "{refused:?}");
}
