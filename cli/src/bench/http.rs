//! RaftKV's side: the native surface over one HTTP/1.1 connection.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::TcpStream;

use super::operation::{Operation, Put, Trouble};
use super::workload::Keyspace;
use crate::consistency::Consistency;

const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const MSGPACK: HeaderValue = HeaderValue::from_static("application/msgpack");

/// One client with its connection.
#[derive(Debug)]
pub(super) struct HttpSession {
    authority: String,
    host: Option<HeaderValue>,
    consistency: Consistency,
    keyspace: Arc<Keyspace>,
    connection: Option<Connection>,
}

/// A connection and the sender of requests on it. Both are driven by the client's own task: a second task for each
/// connection would cost two wake-ups per request, on a machine that the servers may share.
#[derive(Debug)]
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    io: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    /// The other side closed it.
    ended: bool,
}

impl HttpSession {
    pub(super) fn new(authority: String, consistency: Consistency, keyspace: Arc<Keyspace>) -> Self {
        let host = HeaderValue::try_from(&authority).ok();
        Self { authority, host, consistency, keyspace, connection: None }
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) async fn perform(&mut self, operation: &Operation) -> Result<(), Trouble> {
        let request = match operation {
            Operation::Put(puts) => match puts.as_slice() {
                [put] => self.put(put),
                puts => self.batch(puts),
            },
            Operation::Get(key) => self.get(*key),
        };
        let (status, body) = self.exchange(request?).await?;
        match operation {
            Operation::Put(puts) if puts.len() > 1 && status == StatusCode::OK => check_batch(&body, puts.len()),
            Operation::Put(_) if matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT) => {
                Ok(())
            }
            Operation::Get(key) if status == StatusCode::OK => {
                if self.keyspace.is_value_of(*key, &body) {
                    Ok(())
                } else {
                    Err(Trouble::WrongValue)
                }
            }
            Operation::Get(_) if status == StatusCode::NOT_FOUND => Err(Trouble::Missing),
            _ => Err(Trouble::Http(status.as_u16())),
        }
    }

    fn put(&self, put: &Put) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = self.request(Method::PUT, self.path(put.key), self.keyspace.value(put.key, put.nonce))?;
        request.headers_mut().insert(CONTENT_TYPE, OCTETS);
        Ok(request)
    }

    fn get(&self, key: usize) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut path = self.path(key);
        if self.consistency != Consistency::default() {
            path.push_str("?consistency=");
            path.push_str(self.consistency.name());
        }
        self.request(Method::GET, path, Bytes::new())
    }

    fn batch(&self, puts: &[Put]) -> Result<Request<Full<Bytes>>, Trouble> {
        let body = encode_batch(&self.keyspace, puts);
        let mut request = self.request(Method::POST, "/v1/batch".to_owned(), body)?;
        request.headers_mut().insert(CONTENT_TYPE, MSGPACK);
        Ok(request)
    }

    fn path(&self, key: usize) -> String {
        // The benchmark's keys are letters, digits and dashes, which need no encoding.
        format!("/v1/kv/{}", String::from_utf8_lossy(self.keyspace.key(key)))
    }

    fn request(&self, method: Method, path: String, body: Bytes) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = Uri::try_from(path).map_err(|_| Trouble::Malformed)?;
        if let Some(host) = &self.host {
            request.headers_mut().insert(HOST, host.clone());
        }
        Ok(request)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Trouble> {
        let connection = match &mut self.connection {
            Some(connection) if !connection.ended => connection,
            none => none.insert(Connection::open(&self.authority).await?),
        };
        connection.exchange(request).await
    }
}

impl Connection {
    async fn open(authority: &str) -> Result<Self, Trouble> {
        let stream = TcpStream::connect(authority).await.map_err(|_| Trouble::Connection)?;
        stream.set_nodelay(true).map_err(|_| Trouble::Connection)?;
        let (sender, io) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Trouble::Connection)?;
        Ok(Self { sender, io: Box::pin(io), ended: false })
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), Trouble> {
        let Self { sender, io, ended } = self;
        let mut work = pin!(async move {
            sender.ready().await?;
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok::<_, hyper::Error>((status, response.into_body().collect().await?.to_bytes()))
        });
        poll_fn(|cx| {
            if *ended {
                return Poll::Ready(Err(Trouble::Connection));
            }
            if let Poll::Ready(answer) = work.as_mut().poll(cx) {
                return Poll::Ready(answer.map_err(|_| Trouble::Connection));
            }
            ready!(io.as_mut().poll(cx)).ok();
            // The answer may have come with the end. If it did not, it never will; and a connection that has ended must
            // not be polled again.
            *ended = true;
            match work.as_mut().poll(cx) {
                Poll::Ready(answer) => Poll::Ready(answer.map_err(|_| Trouble::Connection)),
                Poll::Pending => Poll::Ready(Err(Trouble::Connection)),
            }
        })
        .await
    }
}

/// The body of `POST /v1/batch`.
fn encode_batch(keyspace: &Keyspace, puts: &[Put]) -> Bytes {
    use rmpv::Value;
    let operations = puts
        .iter()
        .map(|put| {
            Value::Map(vec![
                ("op".into(), "put".into()),
                ("key".into(), Value::Binary(keyspace.key(put.key).to_vec())),
                ("value".into(), Value::Binary(keyspace.value(put.key, put.nonce).to_vec())),
            ])
        })
        .collect();
    let mut body = Vec::new();
    // Writing to memory cannot fail.
    let _ = rmpv::encode::write_value(&mut body, &Value::Map(vec![("operations".into(), Value::Array(operations))]));
    body.into()
}

/// What became of a batch.
#[derive(Deserialize)]
struct BatchResult {
    results: Vec<OperationResult>,
}

#[derive(Deserialize)]
struct OperationResult {
    status: u16,
}

/// Each operation of a batch succeeds or fails by itself.
fn check_batch(body: &[u8], expected: usize) -> Result<(), Trouble> {
    let result: BatchResult = rmp_serde::from_slice(body).map_err(|_| Trouble::Malformed)?;
    if result.results.len() != expected {
        return Err(Trouble::Malformed);
    }
    match result.results.iter().find(|result| !matches!(result.status, 200 | 201)) {
        None => Ok(()),
        Some(failed) => Err(Trouble::Http(failed.status)),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::workload::Distribution;
    use super::*;

    fn keyspace() -> Arc<Keyspace> {
        Keyspace::new(10, 20, Distribution::Uniform, 7).expect("keyspace")
    }

    /// Answers each request on one connection with the next of `answers`, then closes it.
    async fn server(answers: Vec<Vec<u8>>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let authority = listener.local_addr().expect("address").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.expect("accept");
            for body in answers {
                let asked = stream.read(&mut [0; 4096]).await.expect("request");
                assert!(asked > 0, "the client went away");
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                stream.write_all(&[head.as_bytes(), &body].concat()).await.expect("answer");
            }
        });
        authority
    }

    #[tokio::test]
    async fn answers_are_checked_on_one_connection_and_its_loss_is_told() {
        let space = keyspace();
        let answers = vec![b"{}".to_vec(), space.value(3, 9).to_vec(), space.value(4, 9).to_vec()];
        let mut session = HttpSession::new(server(answers).await, Consistency::default(), space);
        let put = Operation::Put(vec![Put { key: 3, nonce: 9 }]);
        assert_eq!(session.perform(&put).await, Ok(()));
        assert_eq!(session.perform(&Operation::Get(3)).await, Ok(()));
        assert_eq!(session.perform(&Operation::Get(3)).await, Err(Trouble::WrongValue), "another key's value");
        assert_eq!(session.perform(&Operation::Get(3)).await, Err(Trouble::Connection));
    }

    #[test]
    fn a_batch_succeeds_when_each_of_its_operations_did() {
        let body = |statuses: &[u16]| {
            let results: Vec<_> =
                statuses.iter().map(|status| serde_json::json!({"status": status, "revision": 1})).collect();
            rmp_serde::to_vec_named(&serde_json::json!({"results": results})).expect("encode")
        };
        assert_eq!(check_batch(&body(&[200, 200]), 2), Ok(()));
        assert_eq!(check_batch(&body(&[200, 412]), 2), Err(Trouble::Http(412)));
        assert_eq!(check_batch(&body(&[200]), 2), Err(Trouble::Malformed));
        assert_eq!(check_batch(b"\xc1", 2), Err(Trouble::Malformed));
    }
}
