//! [`Client`]: HTTP requests to whichever of several addresses answers.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};
use serde::Deserialize;

use crate::asked::Asked;
use crate::failure::Failure;

/// What stays as it is in a path segment or a query value: RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How long a connection may take to be made: within a data centre, longer means nobody is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// One or more HTTP addresses, separated by commas; `http://` may be left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoints(Vec<String>);

impl Endpoints {
    /// As `http://host:port`, with no slash at the end.
    pub(crate) fn urls(&self) -> &[String] {
        &self.0
    }

    /// As `host:port`.
    pub(crate) fn authorities(&self) -> Vec<String> {
        self.0.iter().map(|url| url.trim_start_matches("http://").to_owned()).collect()
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

impl FromStr for Endpoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let urls: Result<Vec<_>, _> = text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(url).collect();
        let urls = urls?;
        if urls.is_empty() { Err("no address given".to_owned()) } else { Ok(Self(urls)) }
    }
}

fn url(text: &str) -> Result<String, String> {
    if text.starts_with("https://") {
        return Err(format!("{text}: https is not supported; put a proxy in front"));
    }
    let authority = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
    let url = format!("http://{authority}");
    let parsed: Uri = url.parse().map_err(|error| format!("{text}: {error}"))?;
    if parsed.path() != "/" || parsed.query().is_some() {
        return Err(format!("{text}: expected http://host:port, with no path"));
    }
    if parsed.port_u16().is_none() {
        return Err(format!("{text}: the port is missing"));
    }
    Ok(url)
}

/// Percent-encodes a path segment or query value.
pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    percent_encode(bytes.as_ref(), RESERVED).to_string()
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The revision named by the `ETag`.
    pub(crate) fn revision(&self) -> Option<u64> {
        let tag = self.headers.get(hyper::header::ETAG)?.to_str().ok()?;
        tag.trim_start_matches("W/").trim_matches('"').parse().ok()
    }

    /// What programs tell problems apart by; every problem of ours has one.
    pub(crate) fn code(&self) -> Option<String> {
        let is_error = self.status.is_client_error() || self.status.is_server_error();
        is_error.then(|| Problem::of(self).code).flatten()
    }

    /// The limit that was exceeded, where the problem names it.
    pub(crate) fn limit(&self) -> Option<u64> {
        Problem::of(self).limit
    }

    /// Why it is not a success, with the exit code that fits.
    pub(crate) fn failure(&self) -> Failure {
        let problem = Problem::of(self);
        let said = problem.detail.or(problem.error).or(problem.message).or(problem.title);
        let said = said.unwrap_or_else(|| String::from_utf8_lossy(&self.body).trim().to_owned());
        let mut message =
            if said.is_empty() { self.status.to_string() } else { format!("{}: {said}", self.status.as_u16()) };
        let is_unknown = problem.outcome.as_deref() == Some("unknown");
        // Said once: by the server's words, else by ours; the code would say it a third time.
        let says_so = said.contains("outcome") && said.contains("unknown");
        if let Some(code) = problem.code.filter(|code| !(says_so && code.contains("unknown"))) {
            message.push_str(&format!(" ({code})"));
        }
        if is_unknown && !says_so {
            message.push_str("; the outcome is unknown: it may have been applied, or may still be");
        }
        match self.status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::INSUFFICIENT_STORAGE => Failure::unavailable(message),
            status if status.is_server_error() => Failure::unavailable(message),
            _ => Failure::failed(message),
        }
    }
}

/// RFC 9457 problem details, and the bodies of the management API. All of it optional.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    code: Option<String>,
    outcome: Option<String>,
    error: Option<String>,
    message: Option<String>,
    limit: Option<u64>,
}

impl Problem {
    fn of(answer: &Answer) -> Self {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }
}

/// Sends requests to the first address that is able to serve them.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    asked: Asked,
    endpoints: Endpoints,
    /// Whether a 503 of the first address that answers is the last word.
    first_answer_counts: bool,
    timeout: Duration,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// `timeout` must lie above the time that the server takes at most, or its own answer is never seen.
    pub(crate) fn new(asked: Asked, endpoints: Endpoints, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        let first_answer_counts = asked == Asked::Router;
        Self { asked, endpoints, first_answer_counts, timeout, http }
    }

    /// The same client, for which the answer of the first address that can be reached counts, a 503, too.
    pub(crate) fn of_first_that_answers(self) -> Self {
        Self { first_answer_counts: true, ..self }
    }

    /// Where it sends to.
    pub(crate) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Sends to each address in turn until one answers.
    ///
    /// A refused connection means that the request was not sent, and the next address is tried. A 503 means that it was
    /// definitely not applied: the next node is tried, too, but not the next router, which may be one of another store, nor an
    /// address that nobody named.
    /// If none does better, the first answer counts, not what later addresses are. A connection that breaks after the
    /// request was sent ends a change: the outcome is unknown, and reported.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, Failure> {
        let mut refused: Option<Failure> = None;
        let (mut silent, mut lost) = (Vec::new(), Vec::new());
        for endpoint in self.endpoints.urls() {
            let answer = match self.send_to(endpoint, &method, path, headers, body.clone()).await? {
                Attempt::Answered(answer) => answer,
                Attempt::NotReached(why) => {
                    silent.push(why);
                    continue;
                }
                // It may have been done; what changes nothing may be asked elsewhere.
                Attempt::Lost(why) if method.is_safe() => {
                    lost.push(why);
                    continue;
                }
                Attempt::Lost(why) => return Err(Failure::lost(why)),
            };
            if let Err(stranger) = self.asked.recognise(endpoint, &method, &answer) {
                return Err(refused.unwrap_or(stranger));
            }
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || self.first_answer_counts {
                return Ok(answer);
            }
            refused.get_or_insert_with(|| Failure::passing(format!("{endpoint}: {}", answer.failure().message)));
        }
        let nobody = || match lost.is_empty() {
            true => Failure::not_reached(silent.join("; ")),
            false => Failure::lost([lost, silent].concat().join("; ")),
        };
        Err(refused.unwrap_or_else(nobody))
    }

    /// As [`send`](Self::send), without headers and body.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer, Failure> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    async fn send_to(
        &self,
        endpoint: &str,
        method: &Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Attempt, Failure> {
        let mut request = Request::builder().method(method).uri(format!("{endpoint}{path}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| Failure::usage(format!("{endpoint}{path}: {error}")))?;
        let exchange = async {
            let response = self.http.request(request).await?;
            let (parts, body) = response.into_parts();
            Ok::<_, ExchangeError>(Answer {
                status: parts.status,
                headers: parts.headers,
                body: body.collect().await?.to_bytes(),
            })
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(Ok(answer)) => Ok(Attempt::Answered(answer)),
            Ok(Err(ExchangeError::Http { source })) if source.is_connect() => {
                Ok(Attempt::NotReached(not_reached(endpoint, &source)))
            }
            Ok(Err(error)) => Ok(Attempt::Lost(format!("{endpoint}: {error}; {}", unknown(method)))),
            Err(_) => {
                Ok(Attempt::Lost(format!("{endpoint}: no answer within {:?}; {}", self.timeout, unknown(method))))
            }
        }
    }
}

enum Attempt {
    Answered(Answer),
    /// The request was not sent; why.
    NotReached(String),
    /// It was sent, and no whole answer came; why.
    Lost(String),
}

#[derive(Debug, thiserror::Error)]
enum ExchangeError {
    #[error("{source}{}", causes(source))]
    Http {
        #[from]
        source: hyper_util::client::legacy::Error,
    },
    #[error("the answer broke off: {0}")]
    Body(#[from] hyper::Error),
}

/// Why no connection was made, in the words of who looks for the cause: the name, the port, the network.
fn not_reached(endpoint: &str, error: &hyper_util::client::legacy::Error) -> String {
    let causes = causes(error);
    let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    // hyper's connector says so, and keeps the resolver's own error.
    match causes.contains("dns error") {
        true => format!("{endpoint}: cannot resolve {host}"),
        false => format!("{endpoint}: cannot connect{causes}"),
    }
}

/// What a lost answer means.
pub(crate) fn unknown(method: &Method) -> &'static str {
    if method.is_safe() { "try again" } else { "the outcome is unknown: it may have been applied" }
}

/// The chain of sources, which hold what went wrong in the operating system.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        // hyper's layers repeat one another.
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_completed_and_checked() {
        let endpoints: Endpoints = "http://a:8080/, b:8081".parse().expect("two addresses");
        assert_eq!(endpoints.urls(), ["http://a:8080", "http://b:8081"]);
        assert_eq!(endpoints.authorities(), ["a:8080", "b:8081"]);
        for wrong in ["", ",", "https://a:1", "http://a:1/v1", "a", "a b:1"] {
            assert!(wrong.parse::<Endpoints>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn keys_are_encoded_so_that_they_stay_one_segment() {
        assert_eq!(encode("a/b c?d%"), "a%2Fb%20c%3Fd%25");
        assert_eq!(encode([0xff, b'.', b'.']), "%FF..");
    }

    #[test]
    fn problems_become_messages_and_exit_codes() {
        let answer = |status, body: &'static str| Answer {
            status,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let refused =
            answer(StatusCode::PRECONDITION_FAILED, r#"{"detail":"revision is 7","code":"precondition_failed"}"#);
        let failure = refused.failure();
        assert_eq!((failure.code, failure.message.as_str()), (1, "412: revision is 7 (precondition_failed)"));

        let lost = answer(StatusCode::GATEWAY_TIMEOUT, r#"{"title":"Timeout","outcome":"unknown"}"#).failure();
        assert_eq!(lost.code, 69);
        assert_eq!(lost.message.matches("unknown").count(), 1, "{}", lost.message);
        for told in [
            r#"{"detail":"the outcome is unknown: the connection broke","code":"outcome_unknown","outcome":"unknown"}"#,
            r#"{"detail":"outcome unknown: the connection broke","code":"unknown"}"#,
        ] {
            let told = answer(StatusCode::GATEWAY_TIMEOUT, told).failure();
            assert_eq!(told.message.matches("unknown").count(), 1, "{}", told.message);
        }

        assert_eq!(answer(StatusCode::BAD_REQUEST, "plain text").failure().message, "400: plain text");
    }

    #[tokio::test]
    async fn the_next_address_is_tried_when_nobody_listens_or_it_is_unavailable() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        async fn serve(answer: &'static str) -> std::net::SocketAddr {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
            let address = listener.local_addr().expect("address");
            tokio::spawn(async move {
                while let Ok((mut stream, _)) = listener.accept().await {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            });
            address
        }
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
        let waiting = serve("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 43\r\n\r\n{\"code\":\"unavailable\",\"detail\":\"no leader\"}").await;
        let serving = serve("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nraftkv-node: a\r\netag: \"7\"\r\n\r\nhi").await;
        let foreign = serve("HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nhi").await;
        let client = |asked, addresses: String| {
            Client::new(asked, addresses.parse().expect("addresses"), Duration::from_secs(10))
        };

        let answer =
            client(Asked::Api, format!("{nobody},{waiting},{serving}")).get("/").await.expect("the third serves");
        assert_eq!((answer.body.as_ref(), answer.revision()), (b"hi".as_ref(), Some(7)));

        // What answered first counts, whatever stands behind the addresses after it.
        for others in [format!("{nobody},{waiting}"), format!("{waiting},{nobody}"), format!("{waiting},{foreign}")] {
            let failure = client(Asked::Api, others).get("/").await.expect_err("none serves");
            assert_eq!(failure.code, 69);
            assert!(failure.message.contains("no leader (unavailable)"), "{}", failure.message);
        }
        // Another router may be one of another store.
        let answer = client(Asked::Router, format!("{nobody},{waiting},{serving}")).get("/").await.expect("answered");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let failure = client(Asked::Api, format!("{foreign},{serving}")).get("/").await.expect_err("a web server");
        assert!(failure.code == 69 && failure.message.contains("is not RaftKV's HTTP API"), "{failure:?}");
        let failure = client(Asked::Api, "nosuch.invalid:1".to_owned()).get("/").await.expect_err("no such host");
        assert!(failure.message.ends_with("cannot resolve nosuch.invalid"), "{failure:?}");
    }
}
