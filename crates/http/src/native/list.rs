//! `GET /v1/kv`: a part of the key space, page by page.

use std::io::Write;
use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use raftkv_backend::{Backend, Entry, ListRequest};
use raftkv_kv::write_json_string;
use serde::Serialize;

use crate::app::App;
use crate::cursor::{Cursor, range_fingerprint};
use crate::documented::NativeList;
use crate::negotiate::{Accept, Format};
use crate::pieces::Pieces;
use crate::problem::Problem;
use crate::query::{Query, invalid};
use crate::reply::{CONSISTENCY, JSON, MSGPACK, consistency_name, reply};

/// Entries in a page when the client does not say.
const DEFAULT_LIMIT: usize = 100;

/// No client's key is below it: the first byte 0x00 is reserved for the system's own keys, which are never listed.
pub(super) const FIRST_KEY: &[u8] = &[0x01];

/// The store's revision that the listing saw.
const STORE_REVISION: HeaderName = HeaderName::from_static("raftkv-store-revision");

/// A page of a listing, as JSON tells it.
#[derive(Serialize, utoipa::ToSchema)]
#[allow(dead_code)] // Describes the body, which is written by hand because values are already encoded.
pub(crate) struct ListResult {
    /// In key order.
    entries: Vec<ListEntry>,
    /// Pass it as `cursor` to get the next page; null = that was all.
    #[schema(required = true)]
    next_cursor: Option<String>,
    /// The store's revision that the page was read at; 0 where it spans several groups.
    store_revision: u64,
}

/// An entry of a listing, as JSON tells it.
#[derive(Serialize, utoipa::ToSchema)]
#[allow(dead_code)]
pub(crate) struct ListEntry {
    /// The key, where it is UTF-8.
    #[schema(nullable = false)]
    key: Option<String>,
    /// The key's bytes in base64, where it is not UTF-8.
    #[schema(nullable = false)]
    key_base64: Option<String>,
    /// The value, unless only keys were asked for.
    value: Option<serde_json::Value>,
    /// The value's MsgPack in base64, where JSON cannot say it exactly.
    #[schema(nullable = false)]
    value_base64: Option<String>,
    /// Rises with every change of the key.
    revision: u64,
    /// The revision at which the key was created.
    create_revision: u64,
    /// When it expires, in milliseconds since the Unix epoch; left out when never.
    #[schema(nullable = false)]
    expires_at_ms: Option<u64>,
}

/// All methods of the path.
pub(crate) async fn handle<B: Backend>(app: Arc<App<B>>, parts: Parts, _body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::GET | Method::HEAD => list_values(&app, &parts).await,
        _ => Err(Problem::method_not_allowed("GET, HEAD")),
    }
}

/// Lists keys in byte order, with their values.
///
/// Each page is read at one moment; pages are read one after the other, so keys that change between them may show in
/// either state. A page ends at `limit` entries or at the server's limit of bytes, whichever comes first, or
/// earlier where thousands of keys in its range were deleted just now. In MsgPack a key that is UTF-8 is a str,
/// another one bin, and a value is itself.
#[utoipa::path(
    get, path = "/v1/kv", tag = "native",
    params(
        ("prefix" = Option<String>, Query, description = "Only keys that begin so. Percent-encoded bytes, like start and end."),
        ("start" = Option<String>, Query, description = "First key, inclusive."),
        ("end" = Option<String>, Query, description = "First key no more listed."),
        ("limit" = Option<u64>, Query, description = "Most entries in the page; 100 unless told."),
        ("cursor" = Option<String>, Query, description = "From the page before, with the same prefix, start and end."),
        ("keys_only" = Option<bool>, Query, description = "Leave the values out."),
        ("consistency" = Option<String>, Query, description = "`linearizable` (default), `quorum` (assumes nothing about clocks) or `stale`."),
        ("timeout" = Option<String>, Query, description = "Like `500ms`, `2s` or `1m`; a bare number is milliseconds. More than the server grants, a minute by default, is 400."),
    ),
    responses(
        (status = 200, description = "A page, as JSON or as MsgPack by `Accept`.", content(
            (ListResult = "application/json"),
            (ListResult = "application/msgpack"),
        )),
        NativeList,
    )
)]
pub(crate) async fn list_values<B: Backend>(app: &App<B>, parts: &Parts) -> Result<Response, Problem> {
    let mut query = Query::of(parts)?;
    let ctx = app.context(parts, &mut query)?;
    let (request, range) = list_request(app, &mut query)?;
    query.finish()?;
    let format = Accept::parse(&parts.headers)
        .choose(&[Format::Json, Format::MsgPack])
        .ok_or_else(|| Problem::not_acceptable("a listing is given as application/json or application/msgpack"))?;
    // A range that nothing can be in is asked for as well: the answer tells the store's revision and that it can be read.
    let read = app.backend.list(ctx, request).await?;
    let next = read.value.next.map(|next| Cursor { next }.encode(range));
    let (content_type, body) = match format {
        Format::MsgPack => (MSGPACK, page_msgpack(read.value.entries, next.as_deref(), read.store_revision)),
        _ => (JSON, page_json(read.value.entries, next.as_deref(), read.store_revision)),
    };
    let mut response = reply(StatusCode::OK, content_type, body);
    let headers = response.headers_mut();
    headers.insert(CONSISTENCY, HeaderValue::from_static(consistency_name(read.consistency)));
    headers.insert(STORE_REVISION, HeaderValue::from(read.store_revision));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    Ok(response)
}

/// The part to list, and the fingerprint of its bounds.
fn list_request<B: Backend>(app: &App<B>, query: &mut Query) -> Result<(ListRequest, u64), Problem> {
    let limits = app.limits();
    let mut bound = |name| {
        let bound = query.take(name)?;
        match &bound {
            Some(bytes) if bytes.len() > limits.max_key_bytes => {
                let detail = format!("{name} has {} bytes; the limit is {}", bytes.len(), limits.max_key_bytes);
                Err(Problem::too_large("key_too_large", detail, limits.max_key_bytes))
            }
            _ => Ok(bound),
        }
    };
    let (prefix, start, end) = (bound("prefix")?, bound("start")?, bound("end")?);
    let range = range_fingerprint(prefix.as_deref(), start.as_deref(), end.as_deref());
    let max = limits.max_list_entries;
    let limit = match query.take_text("limit")? {
        None => DEFAULT_LIMIT.min(max),
        Some(text) => match text.parse::<usize>() {
            Ok(limit) if (1..=max).contains(&limit) => limit,
            _ => {
                let problem = invalid("limit", &format!("it is not a number from 1 to {max}"));
                return Err(Problem { limit: Some(max as u64), ..problem });
            }
        },
    };
    let prefix_end = prefix.as_deref().and_then(after_prefix);
    let mut first = FIRST_KEY.to_vec().max(prefix.unwrap_or_default()).max(start.unwrap_or_default());
    if let Some(cursor) = query.take("cursor")? {
        first = first.max(Cursor::decode(&cursor, range)?.next.to_vec());
    }
    let end = match (end, prefix_end) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    // Bounds that cross are an empty range, too.
    let end = end.map(|end| end.max(first.clone()));
    let request = ListRequest {
        start: first.into(),
        end: end.map(Bytes::from),
        limit,
        max_bytes: limits.max_list_bytes,
        keys_only: query.take_flag("keys_only")?,
    };
    Ok((request, range))
}

/// The first key after all that begin with `prefix`; `None` = there is none.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Bytes beside the key and the value of an entry, in either form.
const ENTRY_OVERHEAD: usize = 96;
/// Bytes beside the entries of a page.
const PAGE_OVERHEAD: usize = 64;

/// About how many bytes an entry takes. Texts that need escapes take more.
fn size(entry: &Entry) -> usize {
    entry.key.as_bytes().len() + entry.value.as_ref().map_or(0, |value| value.as_msgpack().len()) + ENTRY_OVERHEAD
}

/// Room for a page of these.
fn pieces(entries: &[Entry]) -> Pieces {
    Pieces::with_capacity(PAGE_OVERHEAD + entries.iter().map(size).sum::<usize>())
}

fn page_json(entries: Vec<Entry>, next: Option<&str>, store_revision: u64) -> Pieces {
    let mut page = pieces(&entries);
    page.room(PAGE_OVERHEAD).extend_from_slice(b"{\"entries\":[");
    for (at, entry) in entries.into_iter().enumerate() {
        let out = page.room(size(&entry));
        if at > 0 {
            out.push(b',');
        }
        entry_json(&entry, out);
    }
    let out = page.room(PAGE_OVERHEAD + next.map_or(0, str::len));
    out.extend_from_slice(b"],\"next_cursor\":");
    match next {
        // A cursor is base64: nothing in it wants escaping. Writing to memory cannot fail.
        Some(cursor) => _ = write!(out, "\"{cursor}\""),
        None => out.extend_from_slice(b"null"),
    }
    let _ = write!(out, ",\"store_revision\":{store_revision}}}");
    page
}

fn entry_json(entry: &Entry, out: &mut Vec<u8>) {
    match std::str::from_utf8(entry.key.as_bytes()) {
        Ok(key) => {
            out.extend_from_slice(b"{\"key\":");
            write_json_string(key, out);
        }
        Err(_) => _ = write!(out, "{{\"key_base64\":\"{}\"", STANDARD.encode(entry.key.as_bytes())),
    }
    if let Some(value) = &entry.value {
        let before = out.len();
        out.extend_from_slice(b",\"value\":");
        if !value.write_json(out) {
            out.truncate(before);
            let _ = write!(out, ",\"value_base64\":\"{}\"", STANDARD.encode(value.as_msgpack()));
        }
    }
    let _ = write!(out, ",\"revision\":{},\"create_revision\":{}", entry.revision, entry.create_revision);
    if entry.expires_at_ms != 0 {
        let _ = write!(out, ",\"expires_at_ms\":{}", entry.expires_at_ms);
    }
    out.push(b'}');
}

fn page_msgpack(entries: Vec<Entry>, next: Option<&str>, store_revision: u64) -> Pieces {
    use rmp::encode::{write_array_len, write_map_len, write_nil, write_str, write_uint};
    let mut page = pieces(&entries);
    let out = page.room(PAGE_OVERHEAD);
    // Writing to memory cannot fail.
    let _ = write_map_len(out, 3);
    let _ = write_str(out, "entries");
    let _ = write_array_len(out, entries.len() as u32);
    for entry in entries {
        entry_msgpack(&entry, page.room(size(&entry)));
    }
    let out = page.room(PAGE_OVERHEAD + next.map_or(0, str::len));
    let _ = write_str(out, "next_cursor");
    match next {
        Some(cursor) => _ = write_str(out, cursor),
        None => _ = write_nil(out),
    }
    let _ = write_str(out, "store_revision");
    let _ = write_uint(out, store_revision);
    page
}

fn entry_msgpack(entry: &Entry, out: &mut Vec<u8>) {
    use rmp::encode::{write_bin, write_map_len, write_str, write_uint};
    let fields = 3 + u32::from(entry.value.is_some()) + u32::from(entry.expires_at_ms != 0);
    // Writing to memory cannot fail.
    let _ = write_map_len(out, fields);
    let _ = write_str(out, "key");
    let _ = match std::str::from_utf8(entry.key.as_bytes()) {
        Ok(key) => write_str(out, key),
        Err(_) => write_bin(out, entry.key.as_bytes()),
    };
    if let Some(value) = &entry.value {
        let _ = write_str(out, "value");
        out.extend_from_slice(value.as_msgpack());
    }
    for (name, number) in [("revision", entry.revision), ("create_revision", entry.create_revision)] {
        let _ = write_str(out, name);
        let _ = write_uint(out, number);
    }
    if entry.expires_at_ms != 0 {
        let _ = write_str(out, "expires_at_ms");
        let _ = write_uint(out, entry.expires_at_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b"a").unwrap(), b"b");
        assert_eq!(after_prefix(b"a\xff\xff").unwrap(), b"b");
        assert_eq!(after_prefix(b"\xff\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
