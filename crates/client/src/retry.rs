//! [`Retry`]: repeats a request while a retry may succeed: during an election, a process start, or after a broken
//! connection.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use rand::RngExt;
use tokio::time::Instant;

use crate::answer::Answer;
use crate::error::{Error, Kind};
use crate::transport::Transport;

/// Maximum timeout of one attempt; a slower request is sent again.
pub const ATTEMPT: Duration = Duration::from_secs(5);
/// First backoff; doubles each time, and half of the backoff is random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest backoff.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Time until the caller is notified of the reason for retries.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// A request, possibly sent several times.
pub struct Request<'a> {
    /// HTTP method.
    pub method: Method,
    /// Path with optional query; the server's deadline is added as a query parameter.
    pub path: String,
    /// Headers.
    pub headers: &'a [(HeaderName, HeaderValue)],
    /// The whole body.
    pub body: Bytes,
    /// Safe to repeat: the request changes nothing, or has an `Idempotency-Key`.
    pub is_repeatable: bool,
}

/// Deadline of a request with retries.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    until: Instant,
}

/// Decision after an attempt.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The result is final.
    Final,
    /// Another attempt may succeed, after at least this delay.
    Again(Duration),
}

impl Retry {
    /// Retries for `total` from now.
    pub fn within(total: Duration) -> Self {
        Self { until: Instant::now() + total }
    }

    /// Timeout of the next attempt at the server. The unit is milliseconds, and the server rejects zero.
    fn attempt(&self, longest: Duration) -> Duration {
        self.until.saturating_duration_since(Instant::now()).min(longest).max(Duration::from_millis(1))
    }

    /// Sends until an answer is final or the deadline passes; after the deadline the last result counts.
    ///
    /// `notify` is called once with the reason for retries, after the first second.
    ///
    /// # Errors
    /// The last attempt failed, and the deadline has passed or a retry cannot help.
    pub async fn send(
        &self,
        transport: &Transport,
        request: &Request<'_>,
        mut notify: impl FnMut(&str),
    ) -> Result<Answer, Error> {
        let (begin, mut pause) = (Instant::now(), FIRST_PAUSE);
        let (mut longest, mut is_told) = (ATTEMPT, false);
        loop {
            let attempt = self.attempt(longest);
            let deadline = format!("timeout={}ms", attempt.as_millis());
            let path = match request.path.contains('?') {
                true => format!("{}&{deadline}", request.path),
                false => format!("{}?{deadline}", request.path),
            };
            let sent = transport.send(request.method.clone(), &path, request.headers, request.body.clone()).await;
            if let Some(granted) = sent.as_ref().ok().and_then(|answer| shorter(answer, attempt)) {
                longest = granted;
                continue;
            }
            let Verdict::Again(least) = verdict(&sent, request.is_repeatable) else { return sent };
            let wait = least.max(pause / 2 + pause.mul_f64(rand::rng().random_range(0.0..0.5)));
            if Instant::now() + wait >= self.until {
                return sent;
            }
            if begin.elapsed() >= TOLD_AFTER && !is_told {
                let why = match &sent {
                    Ok(answer) => answer.error().message,
                    Err(error) => error.message.clone(),
                };
                notify(&why);
                is_told = true;
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn verdict(sent: &Result<Answer, Error>, is_repeatable: bool) -> Verdict {
    let again = Verdict::Again(Duration::ZERO);
    match sent {
        Ok(answer) => match answer.status {
            StatusCode::SERVICE_UNAVAILABLE => again,
            StatusCode::TOO_MANY_REQUESTS => Verdict::Again(retry_after(answer)),
            StatusCode::GATEWAY_TIMEOUT if is_repeatable => again,
            _ => Verdict::Final,
        },
        Err(error) => match error.kind {
            Kind::Passing => again,
            Kind::NotReached { is_resolved: true } => again,
            Kind::Lost if is_repeatable => again,
            // A host name without an address now has none a moment later.
            Kind::NotReached { .. } | Kind::Lost | Kind::Stranger | Kind::Usage | Kind::Answered { .. } => {
                Verdict::Final
            }
        },
    }
}

/// The longest timeout granted by the server, if the server refused `asked` as too long.
fn shorter(answer: &Answer, asked: Duration) -> Option<Duration> {
    let limit = answer.limit().filter(|_| answer.status == StatusCode::BAD_REQUEST).map(Duration::from_millis)?;
    (!limit.is_zero() && limit < asked).then_some(limit)
}

fn retry_after(answer: &Answer) -> Duration {
    let seconds = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// Makes a unique `Idempotency-Key`.
pub fn fresh_key() -> HeaderValue {
    let text = format!("raftkv-{:032x}", rand::random::<u128>());
    // Hexadecimal digits are a valid header.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("raftkv"))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::HeaderMap;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::interface::Interface;

    fn answer(status: StatusCode) -> Result<Answer, Error> {
        Ok(Answer { status, headers: HeaderMap::new(), body: Bytes::new() })
    }

    #[test]
    fn what_may_pass_is_tried_again_and_what_may_have_been_done_only_where_that_is_no_harm() {
        let again = Verdict::Again(Duration::ZERO);
        for (sent, unnamed, repeatable) in [
            (answer(StatusCode::OK), Verdict::Final, Verdict::Final),
            (answer(StatusCode::PRECONDITION_FAILED), Verdict::Final, Verdict::Final),
            (answer(StatusCode::INSUFFICIENT_STORAGE), Verdict::Final, Verdict::Final),
            (answer(StatusCode::INTERNAL_SERVER_ERROR), Verdict::Final, Verdict::Final),
            (answer(StatusCode::SERVICE_UNAVAILABLE), again, Verdict::Again(Duration::ZERO)),
            (answer(StatusCode::TOO_MANY_REQUESTS), Verdict::Again(Duration::ZERO), Verdict::Again(Duration::ZERO)),
            (answer(StatusCode::GATEWAY_TIMEOUT), Verdict::Final, Verdict::Again(Duration::ZERO)),
            (Err(Error::lost("broke")), Verdict::Final, Verdict::Again(Duration::ZERO)),
            (Err(Error::passing("no leader")), Verdict::Again(Duration::ZERO), Verdict::Again(Duration::ZERO)),
            (Err(Error::not_reached("a: cannot resolve a", false)), Verdict::Final, Verdict::Final),
            (Err(Error::stranger("a web server")), Verdict::Final, Verdict::Final),
        ] {
            assert_eq!(verdict(&sent, false), unnamed, "{sent:?}");
            assert_eq!(verdict(&sent, true), repeatable, "{sent:?}");
        }
    }

    /// Answers connections in order with `answers`, repeating the last answer.
    async fn serve(answers: &'static [&'static str]) -> (String, Arc<AtomicUsize>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let number = counter.fetch_add(1, Ordering::SeqCst).min(answers.len() - 1);
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answers[number].as_bytes()).await;
            }
        });
        (address, asked)
    }

    const REFUSED: &str =
        "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 22\r\nconnection: close\r\n\r\n{\"code\":\"unavailable\"}";
    const DONE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nraftkv-node: a\r\nconnection: close\r\n\r\nhi";

    fn get() -> Request<'static> {
        let path = "/v1/kv/a?consistency=stale".to_owned();
        Request { method: Method::GET, path, headers: &[], body: Bytes::new(), is_repeatable: true }
    }

    #[tokio::test]
    async fn it_waits_out_an_election_and_not_for_ever() {
        let (address, asked) = serve(&[REFUSED, REFUSED, "", DONE]).await;
        let client = Transport::new(Interface::Api, address.parse().expect("address"), Duration::from_secs(5));
        let answer = Retry::within(Duration::from_secs(20)).send(&client, &get(), |_| {}).await.expect("in the end");
        assert_eq!((answer.body.as_ref(), asked.load(Ordering::SeqCst)), (b"hi".as_ref(), 4));

        let (address, asked) = serve(&[REFUSED]).await;
        let client = Transport::new(Interface::Api, address.parse().expect("address"), Duration::from_secs(5));
        let begin = Instant::now();
        let failure = Retry::within(Duration::from_millis(500)).send(&client, &get(), |_| {}).await.expect_err("never");
        assert!(begin.elapsed() < Duration::from_secs(5) && failure.message.contains("unavailable"), "{failure:?}");
        assert!(asked.load(Ordering::SeqCst) > 2);
    }

    #[tokio::test]
    async fn a_server_that_grants_less_time_is_asked_for_less() {
        const TOO_LONG: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 41\r\nraftkv-node: a\r\nconnection: close\r\n\r\n\
                                {\"code\":\"invalid_parameter\",\"limit\":1000}";
        let (address, asked) = serve(&[TOO_LONG, DONE]).await;
        let client = Transport::new(Interface::Api, address.parse().expect("address"), Duration::from_secs(5));
        let answer = Retry::within(Duration::from_secs(20)).send(&client, &get(), |_| {}).await.expect("granted");
        assert_eq!((answer.body.as_ref(), asked.load(Ordering::SeqCst)), (b"hi".as_ref(), 2));

        // The requested timeout is not the cause of the error.
        for (status, limit, asked, granted) in [
            (StatusCode::BAD_REQUEST, "{\"limit\":1000}", 2000, Some(1000)),
            (StatusCode::BAD_REQUEST, "{\"limit\":1000}", 1000, None),
            (StatusCode::BAD_REQUEST, "{\"limit\":0}", 1000, None),
            (StatusCode::BAD_REQUEST, "{}", 1000, None),
            (StatusCode::PAYLOAD_TOO_LARGE, "{\"limit\":1000}", 2000, None),
        ] {
            let answer = Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(limit.as_bytes()) };
            let granted = granted.map(Duration::from_millis);
            assert_eq!(shorter(&answer, Duration::from_millis(asked)), granted, "{status} {limit} {asked}");
        }
    }

    #[tokio::test]
    async fn who_starts_in_the_meantime_is_found() {
        let address = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
        let client =
            Transport::new(Interface::Api, address.to_string().parse().expect("address"), Duration::from_secs(5));
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let listener = tokio::net::TcpListener::bind(address).await.expect("bind");
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(DONE.as_bytes()).await.expect("answered");
        });
        let answer =
            Retry::within(Duration::from_secs(20)).send(&client, &get(), |_| {}).await.expect("it has started");
        assert_eq!(answer.body.as_ref(), b"hi");
        late.await.expect("served");
    }

    #[test]
    fn every_key_is_another() {
        assert_ne!(fresh_key(), fresh_key());
    }
}
