//! What clients rely on, against a live group of three: the same on every node, leader or not.

use anyhow::{Context, ensure};
use raftkv_tests::{Answer, Client, Cluster, Contents};
use reqwest::{Method, StatusCode};
use rmpv::Value;

const MSGPACK: &str = "application/msgpack";
const JSON: &str = "application/json";

fn encoded(value: &Value) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    rmpv::encode::write_value(&mut bytes, value)?;
    Ok(bytes)
}

fn map(fields: &[(&str, Value)]) -> Value {
    Value::Map(fields.iter().map(|(name, value)| ((*name).into(), value.clone())).collect())
}

async fn put_typed(client: &Client, key: &str, content_type: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
    let request = client.request(Method::PUT, &format!("/v1/kv/{key}")).header("content-type", content_type);
    Ok(Client::send(request.body(body)).await?)
}

async fn get_as(client: &Client, key: &str, accept: &str) -> anyhow::Result<Answer> {
    let request = client.request(Method::GET, &format!("/v1/kv/{key}")).header("accept", accept);
    Ok(Client::send(request).await?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_surface_works_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    for writer in cluster.nodes() {
        for reader in cluster.nodes() {
            let key = format!("from-{}-to-{}", writer.name(), reader.name());
            let (writer, reader) = (writer.client(), reader.client());
            raftkv_surface(&writer, &reader, &key).await.context("RaftKV")?;
            keva_surface(&writer, &reader, &key).await.context("Keva")?;
            arima_surface(&writer, &reader, &key).await.context("Arima")?;
            ravel_surface(&writer, &reader, &key).await.context("Ravel")?;
        }
    }
    let stats = cluster.node(2).client().get_path("/raft/stats").await?.success()?.json()?;
    ensure!(stats["data"].is_object(), "{stats}");
    // One store behind all of them.
    let (one, two) = (cluster.node(1).client(), cluster.node(2).client());
    one.post("/put", JSON, r#"{"key":"shared","val":"by Ravel"}"#).await?.success()?;
    ensure!(two.get("shared").await?.text()? == "by Ravel");
    ensure!(two.get_path("/get-val?key=shared").await?.text()? == "by Ravel");
    ensure!(two.get_path("/v1/storage/key/shared").await?.text()? == "by Ravel");
    ensure!(two.get_path("/store/shared").await?.json()?["data"]["value"] == "by Ravel");
    cluster.converged().await?;
    cluster.finish().await
}

async fn raftkv_surface(writer: &Client, reader: &Client, key: &str) -> anyhow::Result<()> {
    let set = map(&[("op", "SET".into()), ("key", key.into()), ("value", "a value".into())]);
    let answer = writer.post("/insert-val", MSGPACK, encoded(&set)?).await?.success()?;
    ensure!(answer.body == "ok", "{answer}");
    let path = format!("/get-val?key={key}");
    ensure!(reader.get_path(&path).await?.text()? == "a value");
    let delete = map(&[("op", "DELETE".into()), ("key", key.into())]);
    ensure!(writer.post("/insert-val", MSGPACK, encoded(&delete)?).await?.text()? == "ok");
    let gone = reader.get_path(&path).await?.expect(StatusCode::NOT_FOUND)?;
    ensure!(gone.body == "Key Not Found", "{gone}");
    Ok(())
}

async fn keva_surface(writer: &Client, reader: &Client, key: &str) -> anyhow::Result<()> {
    let path = format!("/v1/storage/key/{key}");
    let done = writer.post(&path, "text/plain", "a value").await?.expect(StatusCode::OK)?;
    ensure!(done.json()? == serde_json::json!({"done": "true"}), "{done}");
    ensure!(reader.get_path(&path).await?.text()? == "a value");
    Client::send(writer.request(Method::DELETE, &path)).await?.expect(StatusCode::OK)?;
    reader.get_path(&path).await?.expect(StatusCode::NO_CONTENT)?;
    Ok(())
}

async fn arima_surface(writer: &Client, reader: &Client, key: &str) -> anyhow::Result<()> {
    let body = serde_json::json!({"key": key, "value": {"deep": [1, 2.5, null]}});
    writer.post("/store", JSON, body.to_string()).await?.expect(StatusCode::OK)?;
    let path = format!("/store/{key}");
    let found = reader.get_path(&path).await?.success()?.json()?;
    ensure!(found["data"]["value"] == body["value"], "{found}");
    Client::send(writer.request(Method::DELETE, &path)).await?.expect(StatusCode::OK)?;
    reader.get_path(&path).await?.expect(StatusCode::UNPROCESSABLE_ENTITY)?;
    Ok(())
}

async fn ravel_surface(writer: &Client, reader: &Client, key: &str) -> anyhow::Result<()> {
    let key_and_value = serde_json::json!({"key": key, "val": 42});
    let answer = writer.post("/put", JSON, key_and_value.to_string()).await?.success()?;
    ensure!(answer.json()? == serde_json::json!({"msg": "ok"}), "{answer}");
    let key_alone = serde_json::json!({"key": key}).to_string();
    let found = reader.post("/get", JSON, key_alone.clone()).await?.success()?.json()?;
    ensure!(found == key_and_value, "{found}");
    writer.post("/delete", JSON, key_alone.clone()).await?.success()?;
    let gone = reader.post("/get", JSON, key_alone).await?.expect(StatusCode::NOT_FOUND)?;
    ensure!(gone.json()?["error"].is_string(), "{gone}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_native_surface_keeps_types_conditions_and_promises_on_every_node() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    for (writer, reader) in [(1, 2), (2, 3), (3, 1)] {
        let (writer, reader) = (cluster.node(writer).client(), cluster.node(reader).client());
        types_are_kept(&writer, &reader).await?;
        conditions_hold(&writer, &reader).await?;
        a_repeat_is_answered_from_memory(&writer, &reader).await?;
        batches_and_lists_agree(&writer, &reader).await?;
    }
    cluster.converged().await?;
    cluster.finish().await
}

async fn types_are_kept(writer: &Client, reader: &Client) -> anyhow::Result<()> {
    let values = [
        Value::Nil,
        true.into(),
        i64::MIN.into(),
        u64::MAX.into(),
        9_007_199_254_740_993_u64.into(),
        Value::F32(0.1),
        Value::F64(-1.0),
        "text ✓".into(),
        Value::Binary(vec![0, 255, 128]),
        Value::Array(vec![1.into(), Value::Nil, "x".into()]),
        Value::Map(vec![(1.into(), "one".into()), ("list".into(), Value::Array(vec![Value::F64(0.5)]))]),
    ];
    for value in values {
        let bytes = encoded(&value)?;
        put_typed(writer, "typed", MSGPACK, bytes.clone()).await?.success()?;
        let found = get_as(reader, "typed", MSGPACK).await?.success()?;
        ensure!(found.body == bytes, "{value} came back as {found}");
    }
    let json = r#"{"big":18446744073709551615,"exact":9007199254740993,"list":[0.1,true,null]}"#;
    put_typed(writer, "typed", JSON, json.into()).await?.success()?;
    let found = reader.get("typed").await?.success()?;
    ensure!(found.content_type() == JSON && found.text()? == json, "{found}");
    put_typed(writer, "typed", "image/png", vec![137, 80, 78]).await?.success()?;
    let found = reader.get("typed").await?.success()?;
    ensure!(found.content_type() == "application/octet-stream" && found.body[..] == [137, 80, 78], "{found}");
    writer.put("typed", "plain").await?.acked()?;
    let found = reader.get("typed").await?.success()?;
    ensure!(found.content_type() == "text/plain" && found.body == "plain", "{found}");
    Ok(())
}

async fn conditions_hold(writer: &Client, reader: &Client) -> anyhow::Result<()> {
    let put_if = |name: &'static str, value: String| async move {
        let request = writer.request(Method::PUT, "/v1/kv/conditional").header(name, value).body("new");
        Client::send(request).await
    };
    let first = put_if("if-none-match", "*".into()).await?.success()?.revision()?;
    put_if("if-none-match", "*".into()).await?.expect(StatusCode::PRECONDITION_FAILED)?;
    put_if("if-match", format!("\"{}\"", first + 1_000_000)).await?.expect(StatusCode::PRECONDITION_FAILED)?;
    let second = put_if("if-match", format!("\"{first}\"")).await?.success()?.revision()?;
    ensure!(second > first, "revision {second} after {first}");
    let found = reader.get("conditional").await?.success()?;
    ensure!(
        found.revision()? == second && found.header("raftkv-revision") == second.to_string(),
        "{:?}",
        found.headers
    );
    let unchanged = reader.request(Method::GET, "/v1/kv/conditional").header("if-none-match", format!("\"{second}\""));
    Client::send(unchanged).await?.expect(StatusCode::NOT_MODIFIED)?;
    writer.delete("conditional").await?.success()?;
    let gone = reader.get("conditional").await?.expect(StatusCode::NOT_FOUND)?;
    ensure!(gone.problem_code() == "key_not_found", "{gone}");
    writer.delete("conditional").await?.expect(StatusCode::NOT_FOUND)?;
    Ok(())
}

async fn a_repeat_is_answered_from_memory(writer: &Client, reader: &Client) -> anyhow::Result<()> {
    let name = format!("idempotent-{}", rand::random::<u64>());
    let first = writer.put_with("repeated", "1", "", Some(&name)).await.acked()?;
    let other = writer.put("repeated", "2").await?.acked()?;
    // The same request, at another node: the answer it had, and no change.
    let request = reader.request(Method::PUT, "/v1/kv/repeated").header("idempotency-key", &name).body("1");
    let again = Client::send(request).await?.success()?;
    ensure!(again.revision()? == first && again.header("idempotency-replayed") == "true", "{:?}", again.headers);
    let found = reader.get("repeated").await?.success()?;
    ensure!(found.text()? == "2" && found.revision()? == other, "{found}");
    let request = reader.request(Method::PUT, "/v1/kv/repeated").header("idempotency-key", &name).body("3");
    let reused = Client::send(request).await?.expect(StatusCode::UNPROCESSABLE_ENTITY)?;
    ensure!(reused.problem_code() == "idempotency_key_reused", "{reused}");
    Ok(())
}

async fn batches_and_lists_agree(writer: &Client, reader: &Client) -> anyhow::Result<()> {
    let operations: Vec<_> = (0..250)
        .map(|number| serde_json::json!({"op": "put", "key": format!("list/{number:03}"), "value": number}))
        .chain([serde_json::json!({"op": "delete", "key": "list/nothing"})])
        .chain([serde_json::json!({"op": "put", "key": "list/000", "value": 0, "if": {"absent": true}})])
        .collect();
    let body = serde_json::json!({ "operations": operations }).to_string();
    let results = writer.post("/v1/batch", JSON, body).await?.success()?.json()?;
    let statuses: Vec<_> = results["results"].as_array().context("results")?.iter().map(|r| &r["status"]).collect();
    ensure!(statuses.len() == 252 && statuses[..250].iter().all(|status| **status == 200), "{results}");
    ensure!(*statuses[250] == 404 && *statuses[251] == 412, "{results}");

    let listed = Contents::read(reader, "list/", "linearizable").await?;
    ensure!(listed.len() == 250, "{} entries", listed.len());
    for (number, (key, entry)) in listed.entries.iter().enumerate() {
        ensure!(*key == format!("list/{number:03}") && entry.value == Some(number.into()), "{key}: {entry:?}");
    }
    // Page by page, through the cursor, with bounds.
    let (mut cursor, mut keys) = (String::new(), Vec::new());
    loop {
        let path = format!("/v1/kv?start=list/100&end=list/200&limit=7&keys_only=true{cursor}");
        let page = reader.get_path(&path).await?.success()?.json()?;
        let entries = page["entries"].as_array().context("entries")?;
        ensure!(entries.len() <= 7, "{page}");
        keys.extend(entries.iter().filter_map(|entry| entry["key"].as_str().map(str::to_owned)));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<_> = (100..200).map(|number| format!("list/{number:03}")).collect();
    ensure!(keys == expected, "{keys:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeats_conditions_and_empty_ranges_are_answered_as_promised() -> anyhow::Result<()> {
    let cluster = Cluster::builder().partitionable().start().await?;
    let node = cluster.follower().await?;
    let client = node.client();
    let revision = client.put("there", "a value").await?.acked()?;
    let put = |headers: &[(&str, &str)]| {
        let request = client.request(Method::PUT, "/v1/kv/there").body("another value");
        Client::send(headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)))
    };
    let get = |name: &str, value: String| Client::send(client.request(Method::GET, "/v1/kv/there").header(name, value));

    // A repeat is marked, also where the outcome is a refusal.
    let only_new = [("if-none-match", "*"), ("idempotency-key", "only new")];
    let first = put(&only_new).await?.expect(StatusCode::PRECONDITION_FAILED)?;
    ensure!(!first.headers.contains_key("idempotency-replayed"), "{first}");
    let again = put(&only_new).await?.expect(StatusCode::PRECONDITION_FAILED)?;
    ensure!(again.headers.get("idempotency-replayed").is_some_and(|mark| mark == "true"), "{again}");

    let twice = put(&[("idempotency-key", "a"), ("idempotency-key", "b")]).await?.expect(StatusCode::BAD_REQUEST)?;
    ensure!(twice.json()?["code"] == "repeated_header", "{twice}");
    ensure!(client.get("there").await?.revision()? == revision, "a refused request changed something");

    get("if-match", format!("\"{revision}\", \"93\"")).await?.expect(StatusCode::OK)?;
    get("if-match", format!("W/\"{revision}\"")).await?.expect(StatusCode::PRECONDITION_FAILED)?;
    get("if-none-match", format!("W/\"{revision}\", \"93\"")).await?.expect(StatusCode::NOT_MODIFIED)?;

    // An empty range is a read like any other, and so is an empty batch.
    let empty_batch = || client.post("/v1/batch?timeout=1s", JSON, r#"{"operations":[]}"#);
    let page = client.get_path("/v1/kv?start=a&end=a").await?.success()?.json()?;
    ensure!(page["store_revision"] == revision && page["entries"] == serde_json::json!([]), "{page}");
    empty_batch().await?.success()?;
    cluster.isolate(&node);
    let refused = client.get_path("/v1/kv?start=a&end=a&timeout=1s").await?.expect(StatusCode::SERVICE_UNAVAILABLE)?;
    ensure!(refused.json()?["outcome"] == "not_applied", "{refused}");
    empty_batch().await?.expect(StatusCode::SERVICE_UNAVAILABLE)?;
    let stale = client.get_path("/v1/kv?start=a&end=a&consistency=stale").await?.success()?;
    ensure!(stale.headers.get("raftkv-consistency").is_some_and(|served| served == "stale"), "{stale}");
    cluster.heal();
    cluster.whole(3).await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_requests_say_what_is_wrong_and_change_nothing() -> anyhow::Result<()> {
    let cluster = Cluster::builder().start().await?;
    let client = cluster.follower().await?.client();
    let before = client.put("witness", "unharmed").await?.acked()?;
    let deep = [vec![0x91; 1_000], vec![0xc0]].concat();
    let large = encoded(&Value::Binary(vec![1; 1024 * 1024 + 1]))?;
    let long_key = "k".repeat(5_000);
    let set = |value: Value| map(&[("op", "SET".into()), ("key", "bad".into()), ("value", value)]);
    let unknown_op = encoded(&map(&[("op", "INCREMENT".into()), ("key", "bad".into())]))?;
    let trailing = [encoded(&set(1.into()))?, vec![0xc0]].concat();
    // What, how, where, as what, and the status of the answer.
    type Case<'a> = (&'a str, Method, &'a str, &'a str, Vec<u8>, u16);
    let cases: Vec<Case<'_>> = vec![
        ("an empty key", Method::PUT, "/v1/kv/", "text/plain", vec![], 400),
        ("a reserved key", Method::PUT, "/v1/kv/%00x", "text/plain", vec![], 400),
        ("a broken escape", Method::PUT, "/v1/kv/%zz", "text/plain", vec![], 400),
        ("a long key", Method::PUT, &long_key, "text/plain", vec![], 413),
        ("a large value", Method::PUT, "bad", MSGPACK, large, 413),
        ("half a value", Method::PUT, "bad", MSGPACK, vec![0xda, 0xff], 400),
        ("text that is none", Method::PUT, "bad", "text/plain", vec![0xff, 0xfe], 400),
        ("half a JSON", Method::PUT, "bad", JSON, b"{\"a\":".to_vec(), 400),
        ("JSON of two", Method::PUT, "bad", JSON, b"1 2".to_vec(), 400),
        ("a number too large", Method::PUT, "bad", JSON, b"123456789012345678901234567890".to_vec(), 400),
        ("deep nesting", Method::PUT, "bad", MSGPACK, deep.clone(), 400),
        ("deep JSON", Method::PUT, "bad", JSON, [vec![b'['; 1_000], vec![b']'; 1_000]].concat(), 400),
        ("an unknown op", Method::POST, "/insert-val", MSGPACK, unknown_op, 400),
        ("no map", Method::POST, "/insert-val", MSGPACK, encoded(&1.into())?, 400),
        ("something after it", Method::POST, "/insert-val", MSGPACK, trailing, 400),
        ("a deep value", Method::POST, "/insert-val", MSGPACK, deep, 400),
        ("a wrong type", Method::POST, "/insert-val", "image/png", encoded(&set(1.into()))?, 415),
        ("a batch of a wrong type", Method::POST, "/v1/batch", "text/html", b"{}".to_vec(), 415),
        (
            "a batch of an unknown op",
            Method::POST,
            "/v1/batch",
            JSON,
            br#"{"operations":[{"op":"put","key":"bad","value":1},{"op":"add","key":"bad"}]}"#.to_vec(),
            400,
        ),
        ("an unknown parameter", Method::PUT, "/v1/kv/bad?ttl=5", "text/plain", vec![], 400),
        ("a wrong timeout", Method::PUT, "/v1/kv/bad?timeout=soon", "text/plain", vec![], 400),
        ("a wrong method", Method::PATCH, "bad", "text/plain", vec![], 405),
        ("an unknown path", Method::PUT, "/v2/kv/bad", "text/plain", vec![], 404),
    ];
    for (what, method, path, content_type, body, status) in cases {
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/v1/kv/{path}") };
        let request = client.request(method, &path).header("content-type", content_type).body(body);
        let answer = Client::send(request).await.with_context(|| what.to_owned())?;
        ensure!(answer.status == status, "{what}: expected {status}: {answer}");
        if !path.starts_with("/insert-val") {
            let problem = answer.json().with_context(|| what.to_owned())?;
            ensure!(problem["code"].is_string() && problem["outcome"] == "not_applied", "{what}: {problem}");
        }
    }
    half_sent_requests(&cluster).await?;
    let contents = cluster.converged().await?;
    ensure!(contents.len() == 1 && contents.store_revision == before, "something was changed: {contents:?}");
    // Any bytes that are allowed are a key, also those that are no UTF-8.
    let request = client.request(Method::PUT, "/v1/kv/%ff%fe/a%20b").body("bytes");
    Client::send(request).await?.success()?;
    ensure!(cluster.node(1).client().get_path("/v1/kv/%FF%fe%2Fa%20b").await?.text()? == "bytes");
    cluster.finish().await
}

/// Requests that begin and never end take nothing from others, and are not carried out.
async fn half_sent_requests(cluster: &Cluster) -> anyhow::Result<()> {
    use tokio::io::AsyncWriteExt;
    let node = cluster.node(1);
    let mut open = Vec::new();
    for start in
        ["PU", "PUT /v1/kv/bad HTTP/1.1\r\nho", "PUT /v1/kv/bad HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf"]
    {
        for _ in 0..20 {
            let mut connection = tokio::net::TcpStream::connect(node.http_address()).await?;
            connection.write_all(start.as_bytes()).await?;
            open.push(connection);
        }
    }
    ensure!(node.client().get("witness").await?.text()? == "unharmed");
    drop(open);
    Ok(())
}
