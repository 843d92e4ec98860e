//! Errors for people: with their sources, and connections in the words of who looks for the cause.
//!
//! The outermost error of a library often says nothing: "transport error" may be a name that does not resolve, a port
//! where nobody listens, or another program that does.

use std::error::Error;
use std::fmt::Write;
use std::io::{self, ErrorKind};

/// An error and its sources, outermost first. A source that was told already is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    for source in sources(error).skip(1) {
        let said = source.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
    }
    text
}

/// Why `address` (host:port) cannot be talked to: `cannot resolve nosuch.invalid`, `connection refused`, `not a RaftKV
/// peer` and the like, and where none of these is meant the whole [`chain`]. With an empty address no name is named.
pub fn connection(error: &(dyn Error + 'static), address: &str) -> String {
    let said: Vec<String> = sources(error).map(ToString::to_string).collect();
    let says = |words: &[&str]| said.iter().any(|said| words.iter().any(|word| said.contains(word)));
    let kind = sources(error).filter_map(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind).last();
    // The libraries have no types for these two.
    if says(&["dns error", "failed to lookup address"]) {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        return if host.is_empty() { "cannot resolve its name".to_owned() } else { format!("cannot resolve {host}") };
    }
    match kind {
        Some(ErrorKind::ConnectionRefused) => "connection refused".to_owned(),
        Some(ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable) => "no route to it".to_owned(),
        Some(ErrorKind::TimedOut) => "no answer in time".to_owned(),
        _ if says(&["http2 error", "h2 protocol error", "invalid HTTP version", "frame with invalid size"]) => {
            "not a RaftKV peer: what answers does not speak its protocol".to_owned()
        }
        // What speaks another protocol may close without a word, and so does a peer that ends.
        Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
            "the connection was closed: it is stopping, or it is not a RaftKV peer".to_owned()
        }
        _ => chain(error),
    }
}

/// What went wrong with a call: what the other side said, or why it was not reached. As [`connection`].
pub fn call(status: &tonic::Status, address: &str) -> String {
    match status.source() {
        Some(source) => connection(source, address),
        // A server of gRPC that knows nothing of the service.
        None if status.code() == tonic::Code::Unimplemented => {
            format!(
                "not a RaftKV peer: {}",
                if status.message().is_empty() { "unimplemented" } else { status.message() }
            )
        }
        None if status.message().is_empty() => status.code().description().to_owned(),
        None => status.message().to_owned(),
    }
}

fn sources<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{said}")]
    struct Layer {
        said: &'static str,
        source: Option<Box<dyn Error + Send + Sync>>,
    }

    fn layer(said: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Layer {
        Layer { said, source: Some(source.into()) }
    }

    #[test]
    fn sources_are_told_once() {
        let refused = io::Error::from(ErrorKind::ConnectionRefused);
        let error = layer("transport error", layer("tcp connect error", refused));
        assert_eq!(chain(&error), "transport error: tcp connect error: connection refused");
        let told = layer("read a: denied", layer("denied", layer("denied", io::Error::other("why"))));
        assert_eq!(chain(&told), "read a: denied: why");
    }

    #[test]
    fn a_connection_is_told_in_the_words_of_who_looks_for_the_cause() {
        let error = |kind: ErrorKind| layer("transport error", layer("tcp connect error", io::Error::from(kind)));
        assert_eq!(connection(&error(ErrorKind::ConnectionRefused), "a:1"), "connection refused");
        assert_eq!(connection(&error(ErrorKind::HostUnreachable), "a:1"), "no route to it");
        let name = io::Error::other("failed to lookup address information: Name or service not known");
        let name = layer("transport error", layer("dns error", name));
        assert_eq!(connection(&name, "nosuch.invalid:8088"), "cannot resolve nosuch.invalid");
        assert_eq!(connection(&name, ""), "cannot resolve its name");
        let other = layer("transport error", layer("http2 error", io::Error::other("frame with invalid size")));
        assert!(connection(&other, "a:1").starts_with("not a RaftKV peer"));
        let closed = "the connection was closed: it is stopping, or it is not a RaftKV peer";
        assert_eq!(connection(&error(ErrorKind::BrokenPipe), "a:1"), closed);
        let whole = layer("transport error", io::Error::other("the cable is cut"));
        assert_eq!(connection(&whole, "a:1"), "transport error: the cable is cut");
    }

    #[test]
    fn what_the_other_side_said_is_told_as_it_is() {
        assert_eq!(call(&tonic::Status::unavailable("waiting"), "a:1"), "waiting");
        assert!(call(&tonic::Status::unimplemented(""), "a:1").starts_with("not a RaftKV peer"));
    }
}
