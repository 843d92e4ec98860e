//! Web pages against a live store: what a browser sends for them changes nothing, and programs are served as before.

use anyhow::ensure;
use raftkv_tests::{Answer, Client, Cluster, Recorded, Sender, Shards, eventually};
use reqwest::{Method, StatusCode};

/// Changes of the group and its nodes, at the management port.
const CHANGES: [&str; 5] = [
    "/leave?peerID=node3",
    "/join?peerID=node9&peerAddress=127.0.0.1:9",
    "/transfer-leader",
    "/snapshot",
    "/kill?peerID=node3",
];
/// Changes of a value, and of the group, at the HTTP API.
const WRITES: [(&str, &str); 6] = [
    ("/v1/batch", r#"{"operations":[{"op":"put","key":"k","value":"of a page"}]}"#),
    ("/store", r#"{"key":"k","value":"of a page"}"#),
    ("/put", r#"{"key":"k","val":"of a page"}"#),
    ("/delete", r#"{"key":"k"}"#),
    ("/v1/storage/key/k", "of a page"),
    ("/raft/remove", r#"{"node_id":"node3"}"#),
];

async fn send(client: &Client, address: &str, request: &Recorded, path: &str, body: &str) -> anyhow::Result<Answer> {
    let mut sent = client.request(request.method.parse::<Method>()?, path);
    for (name, value) in request.headers(address) {
        sent = sent.header(name, value);
    }
    Ok(Client::send(sent.body(body.to_owned())).await?)
}

fn refused(request: &Recorded, path: &str, answer: &Answer) -> anyhow::Result<()> {
    ensure!(answer.status == StatusCode::FORBIDDEN, "{} at {path}: {answer}", request.name);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_of_other_sites_change_nothing_in_a_group() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let node = cluster.node(1);
    let (api, management) = (node.client(), node.management());
    let (api_address, management_address) = (node.http_address().to_string(), node.management_address().to_string());
    api.put("k", "kept").await?.acked()?;
    let (leader, before) = (cluster.leader().await?, node.status().await?);

    for request in Recorded::all().iter().filter(|request| request.sender == Sender::Stranger) {
        for path in CHANGES.into_iter().chain(["/status", "/metrics"]) {
            let answer = send(&management, &management_address, request, path, "").await?;
            refused(request, path, &answer)?;
            ensure!(answer.problem_code() == "cross_site", "{} at {path}: {answer}", request.name);
        }
        for (path, body) in WRITES.into_iter().chain([("/v1/kv/k", ""), ("/readyz", "")]) {
            refused(request, path, &send(&api, &api_address, request, path, body).await?)?;
        }
    }
    // An image of which the browser does not say whose it is.
    for request in Recorded::of(Sender::Browser, "GET") {
        for path in CHANGES.into_iter().filter(|path| !path.starts_with("/kill")) {
            refused(&request, path, &send(&management, &management_address, &request, path, "").await?)?;
        }
        send(&management, &management_address, &request, "/status", "").await?.success()?;
        send(&api, &api_address, &request, "/v1/kv/k", "").await?.success()?;
    }

    let after = node.status().await?;
    ensure!(after.voters() == before.voters() && after.members.len() == 3, "{:?}", after.members);
    ensure!(cluster.leader().await?.name() == leader.name(), "another node leads");
    ensure!(api.get("k").await?.text()? == "kept");
    cluster.converged().await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_join_and_leave_by_get_as_before() -> anyhow::Result<()> {
    let mut cluster = Cluster::builder().start().await?;
    let fourth = cluster.add_node().await?;
    fourth.start()?;
    cluster.whole(4).await?;
    let first = cluster.node(1).management();
    // By GET, as version 0.1.0 took them.
    let left = cluster.node(1).remove("node4").await?.success()?;
    ensure!(left.header("deprecation") == "true", "{:?}", left.headers);
    for path in ["/snapshot", "/transfer-leader?to=node2"] {
        // A member that is behind is not handed leadership over to at once.
        let answer = eventually(path, || async { first.get_path(path).await?.success() }).await?;
        ensure!(answer.header("deprecation") == "true", "{path}: {:?}", answer.headers);
    }
    let known = cluster.node(1).join(cluster.node(2)).await?.success()?;
    ensure!(known.header("deprecation").is_empty(), "{:?}", known.headers);
    let posted = first.post("/snapshot", "application/json", "").await?.success()?;
    ensure!(posted.header("deprecation").is_empty(), "{:?}", posted.headers);
    fourth.kill();
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_refuses_pages_of_other_sites_and_takes_those_of_its_nodes() -> anyhow::Result<()> {
    let shards = Shards::builder().nodes(1).router_env("RAFTKV_ALLOWED_HOSTS", "kv.example").start().await?;
    let router = shards.router(1).client();
    let address = shards.router(1).http_address().to_string();
    router.put("k", "kept").await?.acked()?;
    for request in Recorded::all().iter().filter(|request| request.sender == Sender::Stranger) {
        for (path, body) in WRITES.into_iter().chain([("/v1/cluster/rebalance", ""), ("/v1/cluster", "")]) {
            refused(request, path, &send(&router, &address, request, path, body).await?)?;
        }
    }
    ensure!(router.get("k").await?.text()? == "kept");
    for (host, expected) in [("kv.example", StatusCode::OK), ("kv2.example", StatusCode::FORBIDDEN)] {
        let asked = router.request(Method::GET, "/v1/kv/k").header("host", host).header("accept-language", "en");
        Client::send(asked).await?.expect(expected)?;
    }
    // A request that a node has admitted is passed on, whichever group has the key.
    let node = shards.group(1).node(1);
    node.engine().set_env("RAFTKV_ROUTER", &address);
    node.engine().crash();
    eventually("the node is back", || node.ready()).await?;
    let origin = format!("http://{}", node.http_address());
    for key in ["a", "b", "c", "d", "e", "f"] {
        let put = node.client().request(Method::PUT, &format!("/v1/kv/{key}")).header("origin", &origin);
        Client::send(put.header("sec-fetch-site", "same-origin").body("v")).await?.success()?;
        ensure!(router.get(key).await?.text()? == "v", "{key}");
    }
    shards.finish().await
}
