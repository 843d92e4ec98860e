//! RaftKV's side: the native surface over one HTTP/1.1 connection.

use std::sync::Arc;

use bytes::Bytes;
use hyper::StatusCode;
use rmp::encode::ValueWriteError;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::operation::{Operation, Put, Trouble};
use super::workload::Keyspace;
use crate::consistency::Consistency;

/// More header fields than our servers ever answer with.
const MAX_HEADERS: usize = 32;
/// Larger than any answer to a single operation, so that one read usually takes it whole.
const READ_BYTES: usize = 8 * 1024;

/// One client with its connection.
#[derive(Debug)]
pub(super) struct HttpSession {
    authority: String,
    consistency: Consistency,
    keyspace: Arc<Keyspace>,
    connection: Option<Connection>,
}

/// A connection with one request under way at a time.
///
/// Written by hand on the `httparse` crate: the load shares the machine with what it measures, and a general HTTP client
/// takes twice as long for what is always the same request.
#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    /// Of a request with a batch: the head before it says how long it is.
    body: Vec<u8>,
    answer: Vec<u8>,
}

impl HttpSession {
    pub(super) fn new(authority: String, consistency: Consistency, keyspace: Arc<Keyspace>) -> Self {
        Self { authority, consistency, keyspace, connection: None }
    }

    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    pub(super) async fn perform(&mut self, operation: &Operation) -> Result<(), Trouble> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.authority).await?,
        };
        self.write_request(operation, &mut connection.request, &mut connection.body);
        let (status, body) = connection.exchange().await?;
        // Kept only after a whole answer: what a broken exchange leaves behind is not the next one's.
        self.connection = Some(connection);
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

    /// The benchmark's keys are letters, digits and dashes, which need no encoding in a path.
    fn write_request(&self, operation: &Operation, out: &mut Vec<u8>, body: &mut Vec<u8>) {
        out.clear();
        let host = self.authority.as_bytes();
        match operation {
            Operation::Get(key) => {
                out.extend_from_slice(b"GET /v1/kv/");
                out.extend_from_slice(self.keyspace.key(*key));
                if self.consistency != Consistency::default() {
                    out.extend_from_slice(b"?consistency=");
                    out.extend_from_slice(self.consistency.name().as_bytes());
                }
                write_head(out, host, None);
            }
            Operation::Put(puts) => match puts.as_slice() {
                [put] => {
                    let value = self.keyspace.value(put.key, put.nonce);
                    out.extend_from_slice(b"PUT /v1/kv/");
                    out.extend_from_slice(self.keyspace.key(put.key));
                    write_head(out, host, Some(("application/octet-stream", &value)));
                }
                puts => {
                    write_batch(&self.keyspace, puts, body);
                    out.extend_from_slice(b"POST /v1/batch");
                    write_head(out, host, Some(("application/msgpack", body)));
                }
            },
        }
    }
}

/// All that follows the path.
fn write_head(out: &mut Vec<u8>, host: &[u8], body: Option<(&str, &[u8])>) {
    out.extend_from_slice(b" HTTP/1.1\r\nhost: ");
    out.extend_from_slice(host);
    if let Some((content_type, body)) = body {
        let head = format!("\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n", body.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(body);
    } else {
        out.extend_from_slice(b"\r\n\r\n");
    }
}

impl Connection {
    async fn open(authority: &str) -> Result<Self, Trouble> {
        let stream = TcpStream::connect(authority).await.map_err(|_| Trouble::Connection)?;
        stream.set_nodelay(true).map_err(|_| Trouble::Connection)?;
        Ok(Self { stream, request: Vec::new(), body: Vec::new(), answer: Vec::with_capacity(READ_BYTES) })
    }

    /// Sends the request that was written and reads one whole answer.
    async fn exchange(&mut self) -> Result<(StatusCode, Bytes), Trouble> {
        self.stream.write_all(&self.request).await.map_err(|_| Trouble::Connection)?;
        self.answer.clear();
        loop {
            self.answer.reserve(READ_BYTES);
            match self.stream.read_buf(&mut self.answer).await {
                Ok(0) | Err(_) => return Err(Trouble::Connection),
                Ok(_) => {}
            }
            if let Some((status, start, end)) = parse_head(&self.answer)?
                && self.answer.len() >= end
            {
                return Ok((status, Bytes::copy_from_slice(&self.answer[start..end])));
            }
        }
    }
}

/// The status of an answer and where its body begins and ends; `None` while the head is not whole. Our servers always say
/// how long a body is.
fn parse_head(answer: &[u8]) -> Result<Option<(StatusCode, usize, usize)>, Trouble> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let start = match response.parse(answer) {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Trouble::Malformed),
    };
    let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Trouble::Malformed)?;
    let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length"));
    let length = match length {
        Some(length) => std::str::from_utf8(length.value).ok().and_then(|text| text.parse::<usize>().ok()),
        None => (status == StatusCode::NO_CONTENT).then_some(0),
    };
    Ok(Some((status, start, start + length.ok_or(Trouble::Malformed)?)))
}

/// The body of `POST /v1/batch`.
fn write_batch(keyspace: &Keyspace, puts: &[Put], out: &mut Vec<u8>) {
    out.clear();
    // Writing to memory cannot fail.
    let _ = try_write_batch(keyspace, puts, out);
}

fn try_write_batch(keyspace: &Keyspace, puts: &[Put], out: &mut Vec<u8>) -> Result<(), ValueWriteError> {
    use rmp::encode::{write_array_len, write_bin, write_map_len, write_str};
    write_map_len(out, 1)?;
    write_str(out, "operations")?;
    write_array_len(out, puts.len() as u32)?;
    for put in puts {
        write_map_len(out, 3)?;
        write_str(out, "op")?;
        write_str(out, "put")?;
        write_str(out, "key")?;
        write_bin(out, keyspace.key(put.key))?;
        write_str(out, "value")?;
        write_bin(out, &keyspace.value(put.key, put.nonce))?;
    }
    Ok(())
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
