//! [`Transport`]: sends HTTP requests to the first of several addresses able to serve the request.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use crate::answer::Answer;
use crate::endpoints::Endpoints;
use crate::error::Error;
use crate::interface::Interface;

/// Connect timeout: within a data centre a longer wait means no host has the address.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Sends requests to the first address able to serve the request.
#[derive(Debug, Clone)]
pub struct Transport {
    interface: Interface,
    endpoints: Endpoints,
    /// Whether a 503 of the first answering address is final.
    first_answer_counts: bool,
    timeout: Duration,
    /// Advice for the user if another program answers.
    hint: Option<&'static str>,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Transport {
    /// `timeout` must be above the server's maximum timeout, or the client never sees the server's timeout error.
    pub fn new(interface: Interface, endpoints: Endpoints, timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT.min(timeout)));
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        let first_answer_counts = interface == Interface::Router;
        Self { interface, endpoints, first_answer_counts, timeout, hint: None, http }
    }

    /// Makes the answer of the first reachable address final, including a 503.
    pub fn of_first_that_answers(self) -> Self {
        Self { first_answer_counts: true, ..self }
    }

    /// Adds advice for the user at the end of messages about another program.
    #[must_use]
    pub fn with_hint(self, hint: &'static str) -> Self {
        Self { hint: Some(hint), ..self }
    }

    /// The addresses.
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// Sends to each address in turn until an answer is final.
    ///
    /// After a refused connection the request was not sent, and the next address is tried. After a 503 the request was
    /// definitely not applied, and the next address is tried, except for routers (the next router may belong to another
    /// store) and after [`of_first_that_answers`](Self::of_first_that_answers). If no address succeeds, the first
    /// answer is reported, not the results of later addresses. A connection broken after the request was sent ends a
    /// change: the outcome is unknown and reported as such.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Answer, Error> {
        let mut refused: Option<Error> = None;
        let (mut silent, mut lost) = (Vec::new(), Vec::new());
        let mut is_resolved = false;
        for endpoint in self.endpoints.urls() {
            let answer = match self.send_to(endpoint, &method, path, headers, body.clone()).await? {
                Attempt::Answered(answer) => answer,
                Attempt::NotReached { why, resolved } => {
                    is_resolved |= resolved;
                    silent.push(why);
                    continue;
                }
                // The request may have been applied; a safe request may be sent to the next address.
                Attempt::Lost(why) if method.is_safe() => {
                    lost.push(why);
                    continue;
                }
                Attempt::Lost(why) => return Err(Error::lost(why)),
            };
            if let Err(stranger) = self.interface.recognise(endpoint, &method, &answer, self.hint) {
                return Err(refused.unwrap_or(stranger));
            }
            if answer.status != StatusCode::SERVICE_UNAVAILABLE || self.first_answer_counts {
                return Ok(answer);
            }
            refused.get_or_insert_with(|| Error::passing(format!("{endpoint}: {}", answer.error().message)));
        }
        let nobody = || match lost.is_empty() {
            true => Error::not_reached(silent.join("; "), is_resolved),
            false => Error::lost([lost, silent].concat().join("; ")),
        };
        Err(refused.unwrap_or_else(nobody))
    }

    /// Like [`send`](Self::send), without headers and body.
    pub async fn get(&self, path: &str) -> Result<Answer, Error> {
        self.send(Method::GET, path, &[], Bytes::new()).await
    }

    async fn send_to(
        &self,
        endpoint: &str,
        method: &Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
        body: Bytes,
    ) -> Result<Attempt, Error> {
        let mut request = Request::builder().method(method).uri(format!("{endpoint}{path}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let request =
            request.body(Full::new(body)).map_err(|error| Error::usage(format!("{endpoint}{path}: {error}")))?;
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
            Ok(Err(ExchangeError::Http { source })) if source.is_connect() => Ok(not_reached(endpoint, &source)),
            Ok(Err(error)) => Ok(Attempt::Lost(format!("{endpoint}: {error}; {}", unknown(method)))),
            Err(_) => {
                Ok(Attempt::Lost(format!("{endpoint}: no answer within {:?}; {}", self.timeout, unknown(method))))
            }
        }
    }
}

enum Attempt {
    Answered(Answer),
    /// The request was not sent.
    NotReached {
        why: String,
        /// Whether the host name resolves.
        resolved: bool,
    },
    /// The request was sent, but no complete answer arrived; with the reason.
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

/// Describes a failed connection in administrator terms: name, port, network.
fn not_reached(endpoint: &str, error: &hyper_util::client::legacy::Error) -> Attempt {
    let causes = causes(error);
    let host = endpoint.parse::<Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    // hyper's connector exposes only this text, not the resolver error.
    let resolved = !causes.contains("dns error");
    let why = match resolved {
        true => format!("{endpoint}: cannot connect{causes}"),
        false => format!("{endpoint}: cannot resolve {host}"),
    };
    Attempt::NotReached { why, resolved }
}

/// Advice after a lost answer.
pub(crate) fn unknown(method: &Method) -> &'static str {
    if method.is_safe() { "try again" } else { "the outcome is unknown: it may have been applied" }
}

/// The chain of sources, including the operating system error.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = String::new();
    let mut source = error.source();
    while let Some(error) = source {
        // hyper's layers repeat the same text.
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
        let client = |interface, addresses: String| {
            Transport::new(interface, addresses.parse().expect("addresses"), Duration::from_secs(10))
        };

        let answer =
            client(Interface::Api, format!("{nobody},{waiting},{serving}")).get("/").await.expect("the third serves");
        assert_eq!((answer.body.as_ref(), answer.revision()), (b"hi".as_ref(), Some(7)));

        // The first answer counts, whatever follows at later addresses.
        for others in [format!("{nobody},{waiting}"), format!("{waiting},{nobody}"), format!("{waiting},{foreign}")] {
            let failure = client(Interface::Api, others).get("/").await.expect_err("none serves");
            assert!(failure.is_temporary());
            assert!(failure.message.contains("no leader (unavailable)"), "{}", failure.message);
        }
        // Another router may belong to another store.
        let answer =
            client(Interface::Router, format!("{nobody},{waiting},{serving}")).get("/").await.expect("answered");
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
        let failure = client(Interface::Api, format!("{foreign},{serving}")).get("/").await.expect_err("a web server");
        assert!(failure.message.contains("is not RaftKV's HTTP API"), "{failure:?}");
        let failure = client(Interface::Api, "nosuch.invalid:1".to_owned()).get("/").await.expect_err("no such host");
        assert!(failure.message.ends_with("cannot resolve nosuch.invalid"), "{failure:?}");
    }
}
