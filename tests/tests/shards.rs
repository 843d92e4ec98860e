//! The sharded store as its users meet it: values keep their types, requests are repeated safely, moves can be cancelled,
//! routers and groups come and go.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use raftkv_kv::SlotSet;
use raftkv_tests::{Client, Contents, Put, Shards, eventually, eventually_within, figure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const JSON: &str = "application/json";
/// Beyond a deadline: scheduling on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

fn ravels_samples() -> [(&'static str, Value); 3] {
    [
        ("the_answer", json!(42)),
        ("dogegod", json!("Elon Musk")),
        ("hello_friend", json!({"elliot": "Rami Malek", "darlene": "Carly Chaikin"})),
    ]
}

async fn ravel_get(client: &Client, key: &str) -> anyhow::Result<Value> {
    client.post("/get", JSON, json!({"key": key}).to_string()).await?.expect(StatusCode::OK)?.json()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ravels_requests_keep_their_types_through_a_restart_of_everything() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(2).start().await?;
    let [first, second] = &shards.clients()[..] else { anyhow::bail!("two routers") };
    for (key, value) in ravels_samples() {
        // Ravel's pages use both names.
        let field = if key == "dogegod" { "val" } else { "value" };
        let answer = first.post("/put", JSON, json!({"key": key, field: value}).to_string()).await?;
        ensure!(answer.clone().expect(StatusCode::OK)?.json()? == json!({"msg": "ok"}), "{answer}");
    }
    for round in ["before", "after"] {
        for client in [first, second] {
            for (key, value) in ravels_samples() {
                let got = ravel_get(client, key).await?;
                ensure!(got == json!({"key": key, "val": value}), "{round} the restart {key} is {got}");
            }
        }
        if round == "before" {
            shards.restart().await?;
        }
    }
    let gone = first.post("/delete", JSON, json!({"key": "dogegod"}).to_string()).await?;
    ensure!(gone.clone().expect(StatusCode::OK)?.json()? == json!({"msg": "ok"}), "{gone}");
    second.post("/get", JSON, json!({"key": "dogegod"}).to_string()).await?.expect(StatusCode::NOT_FOUND)?;
    shards.spread().await?;
    shards.finish().await
}

/// Other types, other surfaces, lists and batches: one store, whichever router is asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_and_lists_span_groups() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(2).nodes(1).start().await?;
    let [first, second] = &shards.clients()[..] else { anyhow::bail!("two routers") };
    let puts: Vec<_> = (0..500).map(|n| json!({"op": "put", "key": format!("list/{n:04}"), "value": n})).collect();
    let answer = first.post("/v1/batch", JSON, json!({"operations": puts}).to_string()).await?.success()?.json()?;
    let results = answer["results"].as_array().context("results")?;
    ensure!(results.len() == 500 && results.iter().all(|result| result["status"] == 200), "{answer}");

    let (mut keys, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let client = if pages % 2 == 0 { second } else { first };
        let page = client.get_path(&format!("/v1/kv?prefix=list/&limit=70{cursor}")).await?.success()?.json()?;
        for entry in page["entries"].as_array().context("entries")? {
            let number = keys.len();
            ensure!(entry["key"] == format!("list/{number:04}") && entry["value"] == number, "{number}: {entry}");
            keys.push(entry["key"].clone());
        }
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    ensure!(keys.len() == 500 && pages == 8, "{} keys on {pages} pages", keys.len());
    let spread = shards.spread().await?;
    ensure!(spread.len() == 500, "{} keys", spread.len());
    nodes_answer_for_other_groups(&shards).await?;
    for group in shards.groups() {
        let held = group.node(1).group_peer()?.held().await?;
        ensure!(held.keys.len() > 100, "a group holds only {} of 500 keys", held.keys.len());
    }
    shards.finish().await
}

/// A node that knows routers answers for every key, and lists all of them.
async fn nodes_answer_for_other_groups(shards: &Shards) -> anyhow::Result<()> {
    let routers: Vec<_> = shards.routers().iter().map(|router| router.http_address().to_string()).collect();
    for group in shards.groups() {
        let node = group.node(1);
        // The first address is nobody's.
        node.engine().set_env("RAFTKV_ROUTER", format!("127.0.0.1:1,{}", routers.join(",")));
        node.engine().crash();
        eventually("the node is back", || node.ready()).await?;
        let client = node.client();
        for number in (0..500).step_by(25) {
            let key = format!("list/{number:04}");
            ensure!(client.get(&key).await?.json()? == number, "{key} at {}", node.name());
            client.put(&key, number.to_string()).await?.acked()?;
        }
        let listed = Contents::keys(&client, "list/", "linearizable").await?;
        ensure!(listed.len() == 500, "{} lists {} keys", node.name(), listed.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_request_is_answered_from_the_record_that_moved_along() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(2).nodes(1).start().await?;
    let (admin, clients) = (shards.admin(), shards.clients());
    let slots = admin.slots_of(1).await?.first(300);
    let keys = Shards::keys_in(&slots, "once-", 20);
    let mut revisions = Vec::new();
    for key in &keys {
        revisions.push(clients[0].put_with(key, "first", "", Some(key)).await.acked()?);
        // A repeat must not undo this.
        clients[1].put(&format!("{key}-other"), "x").await?.acked()?;
    }
    let later = clients[0].put(&keys[0], "later").await?.acked()?;
    ensure!(later > revisions[0]);
    // There and, with nothing forgotten, on to where they came from.
    for to in [2, 1] {
        admin.done(admin.move_slots(&slots, to).await?).await?;
        for ((key, revision), client) in keys.iter().zip(&revisions).zip(clients.iter().cycle()) {
            match client.put_with(key, "first", "", Some(key)).await {
                Put::Acked { revision: again, replayed: true } if again == *revision => {}
                other => anyhow::bail!("{key}, put at {revision}, moved to group {to}, repeated: {other:?}"),
            }
        }
        let now = clients[1].get(&keys[0]).await?;
        ensure!(now.text()? == "later" && now.revision()? == later, "a repeat undid a later write: {now}");
        // Another request under the same key is refused, as before the move.
        let other = clients[0].request(Method::PUT, &format!("/v1/kv/{}", keys[1])).header("idempotency-key", &keys[1]);
        let refused = Client::send(other.body("another")).await?;
        ensure!(refused.problem_code() == "idempotency_key_reused", "{refused}");
        // Revisions go on above those that came along.
        let revision = clients[0].put(&keys[2], format!("in {to}")).await?.acked()?;
        ensure!(revision > revisions[2], "revision {revision} after {}", revisions[2]);
        revisions[2] = clients[0].put_with(&keys[2], "first", "", Some(&keys[2])).await.acked()?;
    }
    shards.spread().await?;
    shards.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_move_is_cancelled_before_it_is_committed_and_goes_on_after() -> anyhow::Result<()> {
    let shards = Shards::builder()
        .groups(2)
        .routers(1)
        .nodes(1)
        .router_env("RAFTKV_MOVE_PAUSE_AT", "copy-page:2000")
        .start()
        .await?;
    let admin = shards.admin();
    let client = shards.router(1).client();
    let slots = admin.slots_of(1).await?.first(200);
    let keys = Shards::keys_in(&slots, "k-", 100);
    for key in &keys {
        client.put(key, "before").await?.acked()?;
    }
    let before = shards.spread().await?;
    let operation = admin.move_slots(&slots, 2).await?;
    at_step(&shards, operation, "copying").await?;
    client.put(&keys[0], "meanwhile").await?.acked()?;
    admin.cancel(operation).await?.success()?;
    let over = admin.over(operation).await?;
    ensure!(over.state == "cancelled", "{over:?}");
    ensure!(admin.slots_of(1).await?.contains_all(&slots), "the slots are not where they were");
    ensure!(client.get(&keys[0]).await?.text()? == "meanwhile");
    let after = shards.spread().await?;
    ensure!(after.len() == before.len(), "{}", before.difference(&after));

    // A move of the same slots works afterwards; cancelled when it is committed, it goes on.
    shards.restart_routers("RAFTKV_MOVE_PAUSE_AT", "release:2000").await?;
    let operation = admin.move_slots(&slots, 2).await?;
    at_step(&shards, operation, "releasing").await?;
    let answer = admin.cancel(operation).await?;
    ensure!(answer.status.is_success() || answer.status == StatusCode::CONFLICT, "{answer}");
    let over = admin.over(operation).await?;
    ensure!(matches!(over.state.as_str(), "done" | "cancelled"), "{over:?}");
    ensure!(admin.slots_of(2).await?.contains_all(&slots), "what was committed was taken back");
    ensure!(client.get(&keys[0]).await?.text()? == "meanwhile");
    let after = shards.spread().await?;
    ensure!(after.len() == before.len(), "{}", before.difference(&after));
    shards.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_router_is_killed_in_the_middle_of_a_move() -> anyhow::Result<()> {
    let shards = Shards::builder()
        .groups(2)
        .routers(1)
        .nodes(1)
        .router_env("RAFTKV_MOVE_PAUSE_AT", "fence:1000")
        .start()
        .await?;
    let (admin, router) = (shards.admin(), shards.router(1));
    let slots = admin.slots_of(2).await?.first(500);
    let keys = Shards::keys_in(&slots, "k-", 100);
    for key in &keys {
        router.client().put(key, key.clone()).await?.acked()?;
    }
    let operation = admin.move_slots(&slots, 1).await?;
    at_step(&shards, operation, "fencing").await?;
    router.process().crash();
    let at = Instant::now();
    eventually("the router is back", || router.ready()).await?;
    let done = admin.done(operation).await?;
    figure("the only router was killed in a move, which ended after", format!("{:.1?}", at.elapsed()));
    ensure!(done.slots_done == slots.len(), "{done:?}");
    for key in &keys {
        ensure!(router.client().get(key).await?.text()? == *key);
    }
    ensure!(shards.spread().await?.len() == keys.len());
    shards.finish().await
}

/// Waits until an operation's move is at a step.
async fn at_step(shards: &Shards, operation: u64, step: &str) -> anyhow::Result<()> {
    eventually(&format!("operation {operation} is at the step {step}"), || async {
        let view = shards.admin().operation(operation).await?;
        if view.is_over() {
            panic!("it is over, and was not seen at {step}: {view:?}");
        }
        ensure!(view.step.as_deref() == Some(step), "{view:?}");
        Ok(())
    })
    .await
}

/// A router that stood still while slots moved knows an old map, and may hold requests for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_router_cannot_write_to_the_old_owner() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(2).nodes(1).start().await?;
    let (stale, fresh, admin) = (shards.router(1), shards.router(2), shards.admin());
    let slots = admin.slots_of(1).await?.first(1_000);
    let keys = Shards::keys_in(&slots, "k-", 40);
    for key in &keys {
        stale.client().put(key, "before").await?.acked()?;
    }
    stale.process().pause()?;
    // Sent before the move; read by the router after it.
    let sent: Vec<_> = keys[..20]
        .iter()
        .map(|key| {
            let (client, key) = (Client::unshared(stale.http_address()), key.clone());
            tokio::spawn(async move { client.put_with(&key, "by the stale router", "?timeout=20s", None).await })
        })
        .collect();
    admin.done(admin.move_slots(&slots, 2).await?).await?;
    for key in &keys[20..] {
        fresh.client().put(key, "by the other one").await?.acked()?;
    }
    // Past all routers: the old owner says that it is not its slot, and does nothing.
    let old = shards.group(1).leader().await?.client();
    for request in [
        old.request(Method::PUT, &format!("/v1/kv/{}", keys[0])).body("?"),
        old.request(Method::GET, &format!("/v1/kv/{}", keys[0])),
    ] {
        Client::send(request).await?.expect(StatusCode::MISDIRECTED_REQUEST)?;
    }
    stale.process().resume()?;
    for (key, sent) in keys.iter().zip(sent) {
        let revision = sent.await?.acked().with_context(|| format!("{key}, through the stale router"))?;
        let read = fresh.client().get(key).await?;
        ensure!(read.text()? == "by the stale router" && read.revision()? == revision, "{key}: {read}");
    }
    for key in &keys[20..] {
        ensure!(stale.client().get(key).await?.text()? == "by the other one", "{key} is read from the old owner");
    }
    ensure!(shards.spread().await?.len() == keys.len());
    shards.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_slots_of_a_lost_group_answer_503_and_the_others_do_not_notice() -> anyhow::Result<()> {
    let shards = Shards::builder().groups(2).routers(1).start().await?;
    let (admin, client) = (shards.admin(), shards.router(1).client());
    let lost = Shards::keys_in(&admin.slots_of(2).await?, "lost-", 20);
    let alive = Shards::keys_in(&admin.slots_of(1).await?, "alive-", 20);
    for key in lost.iter().chain(&alive) {
        client.put(key, key.clone()).await?.acked()?;
    }
    // Someone who uses only what is alive, all the while.
    let others = tokio::spawn({
        let (client, alive) = (client.clone(), alive.clone());
        async move {
            let (mut longest, mut count) = (Duration::ZERO, 0);
            let until = Instant::now() + Duration::from_secs(6);
            for key in alive.iter().cycle() {
                let at = Instant::now();
                client.put_with(key, key.clone(), "?timeout=5s", None).await.acked()?;
                client.get(key).await?.success()?;
                longest = longest.max(at.elapsed());
                count += 1;
                if at > until {
                    break;
                }
            }
            anyhow::Ok((longest, count))
        }
    });
    for node in shards.group(2).nodes() {
        node.kill();
    }
    eventually_within(Duration::from_secs(5), "the router knows", || async {
        client.get_with(&lost[0], "?timeout=500ms").await?.expect(StatusCode::SERVICE_UNAVAILABLE)
    })
    .await?;
    for (timeout, key) in [300, 1_000, 2_000].into_iter().zip(&lost) {
        for request in [
            client.request(Method::GET, &format!("/v1/kv/{key}?timeout={timeout}ms")),
            client.request(Method::PUT, &format!("/v1/kv/{key}?timeout={timeout}ms")).body("lost"),
            client.request(Method::DELETE, &format!("/v1/kv/{key}?timeout={timeout}ms")),
            client.request(Method::GET, &format!("/v1/kv?timeout={timeout}ms")),
        ] {
            let at = Instant::now();
            let answer = Client::send(request).await?;
            let took = at.elapsed();
            ensure!(
                answer.status == StatusCode::SERVICE_UNAVAILABLE && answer.json()?["outcome"] == "not_applied",
                "{answer}"
            );
            ensure!(took < Duration::from_millis(timeout) + SLACK, "a deadline of {timeout} ms was {took:.1?}");
        }
    }
    let (longest, count) = others.await??;
    figure("a group was lost: requests to the other one, and the longest", format!("{count}, {longest:.1?}"));
    ensure!(count > 50 && longest < Duration::from_secs(2), "{count} requests, the longest took {longest:.1?}");

    for node in shards.group(2).nodes() {
        node.start()?;
    }
    let at = Instant::now();
    eventually("the lost group is back", || async { client.get_with(&lost[0], "?timeout=1s").await?.success() })
        .await?;
    figure("the lost group is back after", format!("{:.1?}", at.elapsed()));
    for key in lost.iter().chain(&alive) {
        ensure!(client.get(key).await?.text()? == *key, "{key} is not what it was");
    }
    ensure!(shards.spread().await?.len() == lost.len() + alive.len());
    shards.finish().await
}

/// How long a client waits for slots that move, with others at work.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_pause_of_a_move_is_short() -> anyhow::Result<()> {
    const CLIENTS: usize = 8;
    const MOVES: u16 = 8;
    let shards = Shards::builder().groups(2).routers(2).start().await?;
    let (admin, clients) = (shards.admin(), shards.clients());
    let all = admin.slots_of(1).await?;
    let mut pauses = Vec::new();
    let mut told = Vec::new();
    for number in 0..MOVES {
        let slots: SlotSet = all.iter().skip(usize::from(number) * 200).take(200).collect();
        let going_on = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let workers: Vec<_> = (0..CLIENTS)
            .map(|worker| {
                let keys = Shards::keys_in(&slots, &format!("{number}-{worker}-"), 50);
                let (client, going_on) = (clients[worker % clients.len()].clone(), std::sync::Arc::clone(&going_on));
                tokio::spawn(async move {
                    let mut longest = Duration::ZERO;
                    for key in keys.iter().cycle() {
                        let at = Instant::now();
                        client.put_with(key, "x", "?timeout=10s", None).await.acked()?;
                        longest = longest.max(at.elapsed());
                        if !going_on.load(std::sync::atomic::Ordering::Relaxed) {
                            break;
                        }
                    }
                    anyhow::Ok(longest)
                })
            })
            .collect();
        let done = admin.done(admin.move_slots(&slots, 2).await?).await?;
        going_on.store(false, std::sync::atomic::Ordering::Relaxed);
        told.push(done.longest_pause_ms);
        let mut longest = Duration::ZERO;
        for worker in workers {
            longest = longest.max(worker.await??);
        }
        pauses.push(longest);
    }
    pauses.sort_unstable();
    told.sort_unstable();
    figure("longest wait of a client for a put into slots that move, of each move", format!("{pauses:.0?}"));
    figure("longest pause that each move tells, in milliseconds", format!("{told:?}"));
    ensure!(pauses.iter().all(|pause| *pause < Duration::from_secs(3)), "{pauses:.1?}");
    shards.spread().await?;
    shards.finish().await
}
