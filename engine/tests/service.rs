//! The gRPC service, over a real connection.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use futures::StreamExt;
use raftkv_engine::disk_guard::DiskGuard;
use raftkv_engine::state_machine::{ServiceInfo, StateMachineService};
use raftkv_kv::{Answer, Proposal};
use raftkv_proto::MAX_MESSAGE_BYTES;
use raftkv_proto::state_machine as pb;
use raftkv_proto::state_machine::state_machine_client::StateMachineClient;
use raftkv_store::{Store, StoreError, StoreOptions};
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::Code;
use tonic::transport::{Channel, Server};

use crate::support::set;

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, StoreOptions { cache_bytes: 8 * 1024 * 1024, ..StoreOptions::default() })
}

async fn serve(store: Store) -> StateMachineClient<Channel> {
    let listener = tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
    let address = listener.local_addr().unwrap();
    // No disk has as much as that.
    let disk = DiskGuard::new(std::env::temp_dir(), Some(u64::MAX)).unwrap();
    let info = ServiceInfo { http_address: "node1:8080".to_owned(), disk: Some(disk) };
    let service = StateMachineService::new(store, info).into_server();
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    StateMachineClient::connect(format!("http://{address}"))
        .await
        .unwrap()
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn entry(index: u64, kind: pb::entry::Kind) -> pb::Entry {
    pb::Entry { index, log_id: format!("log-{index}").into(), clock_ms: 5, kind: Some(kind), group_clock_ms: 0 }
}

fn request(index: u64, proposal: &Proposal) -> pb::ApplyRequest {
    pb::ApplyRequest { entries: vec![entry(index, pb::entry::Kind::Payload(proposal.encode()))] }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_applied_in_a_pipeline_and_a_new_stream_takes_over() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = serve(open(dir.path()).unwrap()).await;
    let requests = (0..200).map(|index| request(index, &Proposal::OpenSession));
    let mut answers = client.apply(futures::stream::iter(requests)).await.unwrap().into_inner();
    for index in 0..200 {
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!(answer.next_index, index + 1);
        let decoded = Answer::decode(&answer.answers[0]).unwrap();
        assert_eq!(decoded, Answer::SessionOpened { session: index + 1 });
    }
    assert!(answers.next().await.is_none());

    let (older, queue) = mpsc::channel(4);
    let mut answers = client.apply(ReceiverStream::new(queue)).await.unwrap().into_inner();
    older.send(request(200, &Proposal::OpenSession)).await.unwrap();
    assert_eq!(answers.next().await.unwrap().unwrap().next_index, 201);
    let (newer, queue) = mpsc::channel(4);
    let mut newer_answers = client.apply(ReceiverStream::new(queue)).await.unwrap().into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::Aborted);
    newer.send(request(201, &Proposal::OpenSession)).await.unwrap();
    assert_eq!(newer_answers.next().await.unwrap().unwrap().next_index, 202);
    newer.send(request(300, &Proposal::OpenSession)).await.unwrap();
    assert_eq!(newer_answers.next().await.unwrap().unwrap_err().code(), Code::FailedPrecondition);

    let position = client.get_position(pb::GetPositionRequest {}).await.unwrap().into_inner();
    assert_eq!(position.next_index, 202);
    assert_eq!(client.persist(pb::PersistRequest {}).await.unwrap().into_inner(), position);
    let status = client.get_status(pb::GetStatusRequest {}).await.unwrap().into_inner();
    assert!(status.disk_nearly_full && status.generation == 1 && status.http_address == "node1:8080");
    assert_eq!(status.position, Some(position));

    let mut odd = entry(202, pb::entry::Kind::Blank(true));
    odd.kind = None;
    let requests = futures::stream::iter([pb::ApplyRequest { entries: vec![odd] }]);
    let mut answers = client.apply(requests).await.unwrap().into_inner();
    assert_eq!(answers.next().await.unwrap().unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_travels_and_a_broken_one_leaves_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let source = open(from.path()).unwrap();
    let mut client = serve(source.clone()).await;
    let batch = Proposal::Batch(raftkv_kv::Batch {
        session: 1,
        sequence: 1,
        acknowledged_below: 0,
        ops: (0..900).map(|i| set(&format!("k{i}"), &"x".repeat(1_000))).collect(),
    });
    let requests = [request(0, &Proposal::OpenSession), request(1, &batch)];
    let answers = client.apply(futures::stream::iter(requests)).await.unwrap().into_inner();
    assert_eq!(answers.count().await, 2);

    let target = open(to.path()).unwrap();
    let mut other = serve(target.clone()).await;
    let chunks = client.snapshot_out(pb::SnapshotOutRequest {}).await.unwrap().into_inner();
    let chunks: Vec<_> = chunks.map(Result::unwrap).collect().await;
    assert!(chunks.len() > 4);

    let cut = chunks[..chunks.len() - 1].to_vec();
    let refused = other.snapshot_in(futures::stream::iter(cut)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    let headless = chunks[1..].to_vec();
    let refused = other.snapshot_in(futures::stream::iter(headless)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let names = fs::read_dir(to.path()).unwrap().map(|item| item.unwrap().file_name().into_string().unwrap());
    let generations = names.filter(|name| name.starts_with("gen-")).count();
    assert_eq!(generations, 1);

    let staged = other.snapshot_in(futures::stream::iter(chunks)).await.unwrap().into_inner();
    let position = other.activate_snapshot(staged).await.unwrap().into_inner();
    assert_eq!(position.next_index, 2);
    assert_eq!(target.state_hash(), source.state_hash());
    let unknown = other.activate_snapshot(pb::StagedSnapshot { token: 77 }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition);
}
