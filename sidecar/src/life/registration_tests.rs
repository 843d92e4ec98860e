//! Against a small HTTP server that says what a router would.

use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;

use super::*;

type Asked = Arc<Mutex<Vec<serde_json::Value>>>;

/// A router that gives the same answer to everybody, and what it was asked.
async fn router(status: StatusCode, body: &'static str) -> (String, Asked) {
    let asked = Asked::default();
    let answer = move |State(asked): State<Asked>, question: bytes::Bytes| async move {
        let question = serde_json::from_slice(&question).expect("JSON");
        asked.lock().unwrap_or_else(PoisonError::into_inner).push(question);
        (status, body)
    };
    let routes = axum::Router::new().route(ROUTE, post(answer)).with_state(asked.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address").to_string();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (address, asked)
}

async fn nobody() -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    listener.local_addr().expect("address").to_string()
}

fn registrar(routers: &[&String], group: Option<&str>) -> Registrar {
    let identity = Identity {
        raft_id: 7,
        name: "n1".to_owned(),
        raft_address: "n1:8088".to_owned(),
        management_address: "n1:6000".to_owned(),
        http_address: "n1:8080".to_owned(),
        group_address: "n1:50053".to_owned(),
    };
    let registration = Registration::new(&identity, true, group.map(str::to_owned));
    Registrar::new(routers.iter().map(|router| (*router).clone()).collect(), registration).expect("client")
}

#[tokio::test]
async fn a_router_is_told_everything_and_understood() {
    let (address, asked) =
        router(StatusCode::OK, r#"{"assignment":"join","group":2,"join":["a:6000","b:6000"],"new":1}"#).await;
    let answer = registrar(&[&address], Some("g2")).ask().await;
    assert_eq!(answer, Ok(Assignment::Join { group: 2, join: vec!["a:6000".to_owned(), "b:6000".to_owned()] }));
    let asked = asked.lock().expect("lock").clone();
    let expected = serde_json::json!({"name": "n1", "bootstrap": true, "raft_address": "n1:8088",
        "management_address": "n1:6000", "group_address": "n1:50053", "group": "g2"});
    assert_eq!(asked, [expected]);

    let (address, asked) = router(StatusCode::OK, r#"{"assignment":"bootstrap","group":3}"#).await;
    assert_eq!(registrar(&[&address], None).ask().await, Ok(Assignment::Bootstrap { group: 3 }));
    assert!(asked.lock().expect("lock")[0].get("group").is_none(), "no wish, no field");

    let (address, _) = router(StatusCode::ACCEPTED, r#"{"assignment":"wait","reason":"no group needs a node"}"#).await;
    let wait = Assignment::Wait { reason: "no group needs a node".to_owned() };
    assert_eq!(registrar(&[&address], None).ask().await, Ok(wait));
}

#[tokio::test]
async fn the_next_router_is_asked_when_one_is_silent_busy_or_mad() {
    let silent = nobody().await;
    let (busy, _) = router(StatusCode::SERVICE_UNAVAILABLE, "{}").await;
    let (mad, _) = router(StatusCode::OK, "hello").await;
    let (good, _) = router(StatusCode::OK, r#"{"assignment":"bootstrap","group":3}"#).await;
    let answer = registrar(&[&silent, &busy, &mad, &good], None).ask().await;
    assert_eq!(answer, Ok(Assignment::Bootstrap { group: 3 }));

    let Err(RegistrationError::NoAnswer(reason)) = registrar(&[&silent, &busy, &mad], None).ask().await else {
        panic!("nobody had an answer");
    };
    for part in [silent.as_str(), "refused", "503", "makes no sense"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
}

#[tokio::test]
async fn a_refusal_is_told_in_the_routers_words() {
    let (address, _) = router(
        StatusCode::CONFLICT,
        r#"{"status":409,"title":"Conflict","detail":"another node has this name","code":"name_taken"}"#,
    )
    .await;
    let silent = nobody().await;
    let error = registrar(&[&address, &silent], None).ask().await.expect_err("refused");
    let detail = "another node has this name".to_owned();
    assert_eq!(error, RegistrationError::Refused { router: address, detail });
}

#[tokio::test]
async fn a_group_without_nodes_is_waited_for() {
    let (address, _) = router(StatusCode::OK, r#"{"assignment":"join","group":2,"join":[]}"#).await;
    let answer = registrar(&[&address], None).ask().await;
    assert!(matches!(answer, Ok(Assignment::Wait { reason }) if reason.contains("group 2")));
}
