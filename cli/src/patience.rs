//! [`Patience`]: sends a request on keys again while that may help: a leader is being elected, a process is starting, a connection
//! broke.

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, StatusCode};
use rand::RngExt;
use tokio::time::Instant;

use crate::client::{Answer, Client};
use crate::failure::{Cause, Failure};
use crate::output;

/// The server gets so long for one attempt at most: what takes longer is asked for again.
pub(crate) const ATTEMPT: Duration = Duration::from_secs(5);
/// The first pause; it doubles each time, and half of it is random.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Who waits for longer is told why.
const TOLD_AFTER: Duration = Duration::from_secs(1);

/// A request that may be sent several times.
pub(crate) struct Request<'a> {
    pub(crate) method: Method,
    /// With a `?` in it: the server's deadline is added.
    pub(crate) path: String,
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    pub(crate) body: Bytes,
    /// It changes nothing, or has an `Idempotency-Key`: if it was done, it is not done again.
    pub(crate) is_repeatable: bool,
}

/// Until when a request is tried.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    until: Instant,
}

/// What to do about what an attempt gave.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the answer.
    Final,
    /// Another attempt may give a better one, after this long at least.
    Again(Duration),
}

impl Patience {
    /// From now on, for so long.
    pub(crate) fn of(total: Duration) -> Self {
        Self { until: Instant::now() + total }
    }

    /// What the server gets for the next attempt. Its unit is the millisecond, and it takes no zero.
    fn attempt(&self, longest: Duration) -> Duration {
        self.until.saturating_duration_since(Instant::now()).min(longest).max(Duration::from_millis(1))
    }

    /// Sends until there is an answer that another attempt would not change, or the time is over: then the last one counts.
    pub(crate) async fn send(&self, client: &Client, request: &Request<'_>) -> Result<Answer, Failure> {
        let (begin, mut pause) = (Instant::now(), FIRST_PAUSE);
        let (mut longest, mut spinner) = (ATTEMPT, None);
        loop {
            let attempt = self.attempt(longest);
            let deadline = format!("timeout={}ms", attempt.as_millis());
            let path = match request.path.contains('?') {
                true => format!("{}&{deadline}", request.path),
                false => format!("{}?{deadline}", request.path),
            };
            let sent = client.send(request.method.clone(), &path, request.headers, request.body.clone()).await;
            if let Some(granted) = sent.as_ref().ok().and_then(|answer| shorter(answer, attempt)) {
                longest = granted;
                continue;
            }
            let Verdict::Again(least) = verdict(&sent, request.is_repeatable) else { return sent };
            let wait = least.max(pause / 2 + pause.mul_f64(rand::rng().random_range(0.0..0.5)));
            if Instant::now() + wait >= self.until {
                return sent;
            }
            if begin.elapsed() >= TOLD_AFTER && spinner.is_none() {
                let why = match &sent {
                    Ok(answer) => answer.failure().message,
                    Err(failure) => failure.message.clone(),
                };
                spinner = Some(output::spinner(format!("trying again: {why}")));
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn verdict(sent: &Result<Answer, Failure>, is_repeatable: bool) -> Verdict {
    let again = Verdict::Again(Duration::ZERO);
    match sent {
        Ok(answer) => match answer.status {
            StatusCode::SERVICE_UNAVAILABLE => again,
            StatusCode::TOO_MANY_REQUESTS => Verdict::Again(retry_after(answer)),
            StatusCode::GATEWAY_TIMEOUT if is_repeatable => again,
            _ => Verdict::Final,
        },
        Err(failure) => match failure.cause {
            Cause::Passing => again,
            // A name that nobody knows is not known in a moment, either.
            Cause::NotReached if failure.message.contains("cannot connect") => again,
            Cause::Lost if is_repeatable => again,
            Cause::NotReached | Cause::Lost | Cause::Stranger | Cause::Other => Verdict::Final,
        },
    }
}

/// The longest time that the server grants, if it refused `asked` as too long.
fn shorter(answer: &Answer, asked: Duration) -> Option<Duration> {
    let limit = answer.limit().filter(|_| answer.status == StatusCode::BAD_REQUEST).map(Duration::from_millis)?;
    (!limit.is_zero() && limit < asked).then_some(limit)
}

fn retry_after(answer: &Answer) -> Duration {
    let seconds = answer.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// An `Idempotency-Key` that no other request has.
pub(crate) fn fresh_key() -> HeaderValue {
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
    use crate::asked::Asked;

    fn answer(status: StatusCode) -> Result<Answer, Failure> {
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
            (Err(Failure::lost("broke")), Verdict::Final, Verdict::Again(Duration::ZERO)),
            (Err(Failure::passing("no leader")), Verdict::Again(Duration::ZERO), Verdict::Again(Duration::ZERO)),
            (Err(Failure::not_reached("a: cannot resolve a")), Verdict::Final, Verdict::Final),
            (Err(Failure::stranger("a web server")), Verdict::Final, Verdict::Final),
        ] {
            assert_eq!(verdict(&sent, false), unnamed, "{sent:?}");
            assert_eq!(verdict(&sent, true), repeatable, "{sent:?}");
        }
    }

    /// Answers its connections one after the other with these; the last one again and again.
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
        let client = Client::new(Asked::Api, address.parse().expect("address"), Duration::from_secs(5));
        let answer = Patience::of(Duration::from_secs(20)).send(&client, &get()).await.expect("in the end");
        assert_eq!((answer.body.as_ref(), asked.load(Ordering::SeqCst)), (b"hi".as_ref(), 4));

        let (address, asked) = serve(&[REFUSED]).await;
        let client = Client::new(Asked::Api, address.parse().expect("address"), Duration::from_secs(5));
        let begin = Instant::now();
        let failure = Patience::of(Duration::from_millis(500)).send(&client, &get()).await.expect_err("never");
        assert!(begin.elapsed() < Duration::from_secs(5) && failure.message.contains("unavailable"), "{failure:?}");
        assert!(asked.load(Ordering::SeqCst) > 2);
    }

    #[tokio::test]
    async fn a_server_that_grants_less_time_is_asked_for_less() {
        const TOO_LONG: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 41\r\nraftkv-node: a\r\nconnection: close\r\n\r\n\
                                {\"code\":\"invalid_parameter\",\"limit\":1000}";
        let (address, asked) = serve(&[TOO_LONG, DONE]).await;
        let client = Client::new(Asked::Api, address.parse().expect("address"), Duration::from_secs(5));
        let answer = Patience::of(Duration::from_secs(20)).send(&client, &get()).await.expect("granted");
        assert_eq!((answer.body.as_ref(), asked.load(Ordering::SeqCst)), (b"hi".as_ref(), 2));

        // The deadline is not what the server does not like.
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
        let client = Client::new(Asked::Api, address.to_string().parse().expect("address"), Duration::from_secs(5));
        let late = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let listener = tokio::net::TcpListener::bind(address).await.expect("bind");
            let (mut stream, _) = listener.accept().await.expect("a client");
            let _ = stream.read(&mut [0; 1024]).await;
            stream.write_all(DONE.as_bytes()).await.expect("answered");
        });
        let answer = Patience::of(Duration::from_secs(20)).send(&client, &get()).await.expect("it has started");
        assert_eq!(answer.body.as_ref(), b"hi");
        late.await.expect("served");
    }

    #[test]
    fn every_key_is_another() {
        assert_ne!(fresh_key(), fresh_key());
    }
}
