//! [`Calls`]: counts what the calls of a connection hold, so that its [`Gate`](super::gate::Gate) can bound that.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::{Body as HttpBody, Bytes, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use super::gate::{Client, OpenCall};

/// What comes before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Has the calls of a server counted.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallsLayer;

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, inner: S) -> Calls<S> {
        Calls { inner }
    }
}

/// A service whose calls are counted where they come by a connection that is bounded.
#[derive(Debug, Clone)]
pub struct Calls<S> {
    inner: S,
}

impl<S> Service<Request<Body>> for Calls<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Answer>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Answer>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let client = request.extensions().get::<Option<Client>>().cloned().flatten();
        let Some(client) = client else {
            let answering = self.inner.call(request);
            return async move { Ok(answering.await?.map(|body| Answer { body, call: None })) }.boxed();
        };
        let call = client.begin_call();
        let request =
            request.map(|body| Body::new(Asked { body, client, is_busy: false, message: Message::default() }));
        let answering = self.inner.call(request);
        async move {
            let response = answering.await?;
            Ok(response.map(|body| Answer { body, call: Some(call) }))
        }
        .boxed()
    }
}

/// The body of a request. What is received for it counts as held until it waits for more, but for the messages that were taken whole.
struct Asked {
    body: Body,
    client: Client,
    is_busy: bool,
    message: Message,
}

/// How far a message has come.
#[derive(Default)]
struct Message {
    /// Bytes of it that have been seen, with its prefix.
    seen: u64,
    /// Those of the prefix.
    prefix: [u8; PREFIX_BYTES],
}

impl Message {
    /// Sees more bytes of a body; returns how many more belong to messages that are whole.
    fn see(&mut self, mut data: &[u8]) -> u64 {
        let mut whole = 0;
        while !data.is_empty() {
            let step = match self.missing_of_prefix() {
                0 => usize::try_from(self.length() - self.seen).unwrap_or(usize::MAX).min(data.len()),
                missing => {
                    let step = missing.min(data.len());
                    let at = PREFIX_BYTES - missing;
                    self.prefix[at..at + step].copy_from_slice(&data[..step]);
                    step
                }
            };
            self.seen += step as u64;
            data = &data[step..];
            if self.missing_of_prefix() == 0 && self.seen == self.length() {
                whole += self.seen;
                self.seen = 0;
            }
        }
        whole
    }

    fn missing_of_prefix(&self) -> usize {
        PREFIX_BYTES.saturating_sub(usize::try_from(self.seen).unwrap_or(usize::MAX))
    }

    fn length(&self) -> u64 {
        let [_, length @ ..] = self.prefix;
        PREFIX_BYTES as u64 + u64::from(u32::from_be_bytes(length))
    }
}

impl Asked {
    fn on_data(&mut self, data: &[u8]) {
        if !std::mem::replace(&mut self.is_busy, true) {
            self.client.becomes_busy();
        }
        let before = self.message.seen;
        let whole = self.message.see(data);
        self.client.took(whole, before, self.message.seen);
    }

    fn on_wait(&mut self) {
        if std::mem::take(&mut self.is_busy) {
            self.client.waits();
        }
    }
}

impl HttpBody for Asked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let poll = Pin::new(&mut this.body).poll_frame(cx);
        match &poll {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    this.on_data(data);
                }
            }
            // A part of a message is in memory while the rest is waited for.
            Poll::Pending if this.message.seen > 0 => {}
            Poll::Pending | Poll::Ready(_) => this.on_wait(),
        }
        poll
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.client.took(0, self.message.seen, 0);
        self.on_wait();
    }
}

/// The body of an answer. The server boxes bodies itself: a box here would be a second one, on the way of each message.
#[derive(Debug)]
pub struct Answer {
    body: Body,
    /// `None` where its connection has no bounds.
    call: Option<OpenCall>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        match &this.call {
            Some(call) => frame.map_ok(|frame| frame.map_data(|data| Unread::count(data, call.client().clone()))),
            None => frame,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A piece of an answer. It counts as held until HTTP/2 has handed it to the kernel, or has given up its call: only then is it dropped.
struct Unread {
    data: Bytes,
    client: Client,
}

impl Unread {
    fn count(data: Bytes, client: Client) -> Bytes {
        // A client that does not read its answers has its requests left where they are.
        client.becomes_busy();
        client.gave(data.len() as u64);
        Bytes::from_owner(Self { data, client })
    }
}

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        &self.data
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.client.sent(self.data.len() as u64);
        self.client.waits();
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use tonic::server::NamedService;

    use super::super::{ChannelOptions, ConnectionLimits, Endpoint, Listener, connect, server};
    use super::*;

    /// Larger than the window of a stream, so that a part of it waits for its reader.
    const ANSWER_BYTES: usize = 12 * 1024 * 1024;
    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn messages_are_whole_however_they_are_cut() {
        let message = |length: u8| [&[0, 0, 0, 0, length][..], &vec![7; length.into()]].concat();
        let body = [message(0), message(3), message(200)].concat();
        for step in 1..body.len() {
            let mut seen = Message::default();
            let whole: u64 = body.chunks(step).map(|data| seen.see(data)).sum();
            assert_eq!((whole, seen.seen), (body.len() as u64, 0), "{step}");
        }
        let mut seen = Message::default();
        assert_eq!((seen.see(&body[..9]), seen.seen), (5, 4));
        assert_eq!((seen.see(&body[9..20]), seen.seen), (8, 7));
    }

    /// Reads its request and answers with one large piece.
    #[derive(Clone)]
    struct Large;

    impl NamedService for Large {
        const NAME: &'static str = "test.Large";
    }

    impl Service<Request<Body>> for Large {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(Body::new(Piece(Some(Bytes::from(vec![7; ANSWER_BYTES])))))))
        }
    }

    struct Piece(Option<Bytes>);

    impl HttpBody for Piece {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.get_mut().0.take().map(|data| Ok(Frame::data(data))))
        }
    }

    /// How much of an answer comes, and whether that is all.
    async fn read(mut answer: Response<Body>) -> (usize, bool) {
        let mut bytes = 0;
        loop {
            match std::future::poll_fn(|cx| Pin::new(answer.body_mut()).poll_frame(cx)).await {
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, Bytes::len),
                Some(Err(_)) => return (bytes, false),
                None => return (bytes, true),
            }
        }
    }

    #[tokio::test]
    async fn answers_that_nobody_reads_are_bounded() {
        let listener = Listener::bind(&Endpoint::Tcp("127.0.0.1:0".to_owned())).await.expect("bind");
        let endpoint = listener.endpoint().clone();
        let limits = ConnectionLimits { max_held_bytes: 3 * ANSWER_BYTES as u64, ..ConnectionLimits::of(8, 64) };
        let serving =
            tokio::spawn(server().add_service(Large).serve_with_incoming(listener.into_bounded_stream(limits)));
        let (mut reader, mut stranger) = (
            connect(&endpoint, ChannelOptions::default()).await.expect("connect"),
            connect(&endpoint, ChannelOptions::default()).await.expect("connect"),
        );
        let ask = || Request::post("http://test/test.Large/Ask").body(Body::empty()).expect("a request");
        async fn ready(channel: &mut tonic::transport::Channel) {
            std::future::poll_fn(|cx| channel.poll_ready(cx)).await.expect("ready");
        }
        // One after another is read, and so none is held.
        for _ in 0..6 {
            ready(&mut reader).await;
            let answer = reader.call(ask()).await.expect("an answer");
            assert_eq!(read(answer).await, (ANSWER_BYTES, true));
        }
        let mut unread = Vec::new();
        let cut = async {
            loop {
                ready(&mut stranger).await;
                match stranger.call(ask()).await {
                    Ok(answer) => unread.push(answer),
                    Err(_) => break,
                }
                if unread.len() == 8 {
                    break;
                }
            }
            for answer in unread {
                if !read(answer).await.1 {
                    return true;
                }
            }
            false
        };
        assert!(tokio::time::timeout(PATIENCE, cut).await.expect("in time"), "the connection is closed");
        ready(&mut reader).await;
        let answer = reader.call(ask()).await.expect("an answer");
        assert_eq!(read(answer).await, (ANSWER_BYTES, true), "nobody else's is");
        serving.abort();
    }
}
