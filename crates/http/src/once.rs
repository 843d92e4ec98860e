//! [`check`]: headers that mean one thing and may therefore be there once.

use axum::http::{HeaderMap, HeaderName, header};

use crate::problem::Problem;
use crate::reply::{CONSISTENCY, IDEMPOTENCY_KEY};

/// Those that requests are read by, where this server takes one value: `Content-Encoding` may be a list, of which none but `identity`
/// is understood here. `Content-Length` is checked where the head is parsed; a write's `If-Match` and `If-None-Match`, which are lists
/// on reads, with its other conditions.
const ONCE: [HeaderName; 5] =
    [header::HOST, header::CONTENT_TYPE, header::CONTENT_ENCODING, IDEMPOTENCY_KEY, CONSISTENCY];

/// Refuses a header that is there twice where only one of the two could be followed, even when both say the same: a proxy
/// and this server might follow different ones.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Problem> {
    // Two numbers that the map keeps: most requests have no name twice and are looked at no further.
    if headers.len() == headers.keys_len() {
        return Ok(());
    }
    match ONCE.iter().find(|name| headers.get_all(*name).iter().nth(1).is_some()) {
        None => Ok(()),
        Some(name) => {
            Err(Problem::bad_request("repeated_header", format!("the header {name} is there more than once")))
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(names: &[HeaderName]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(name, HeaderValue::from_static("x"));
        }
        headers
    }

    #[test]
    fn a_header_that_is_no_list_may_be_there_once() {
        assert_eq!(check(&with(&ONCE)), Ok(()));
        assert_eq!(
            check(&with(&[header::ACCEPT, header::ACCEPT, header::IF_NONE_MATCH, header::IF_NONE_MATCH])),
            Ok(())
        );
        for name in ONCE {
            let problem = check(&with(&[header::ACCEPT, name.clone(), name.clone()])).unwrap_err();
            assert_eq!((problem.status.as_u16(), problem.code), (400, "repeated_header"));
            assert!(problem.detail.contains(name.as_str()), "{}", problem.detail);
        }
    }
}
