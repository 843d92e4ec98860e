//! `raftkv get`, `put`, `delete` and `list`, over the native surface.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, StatusCode};
use raftkv_kv::Value;
use serde::Deserialize;

use crate::args::ClientArgs;
use crate::consistency::Consistency;
use crate::failure::Failure;
use crate::output::{self, Format};
use crate::reach::send;
use raftkv_client::{Answer, Request, encode, fresh_key};

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const MSGPACK: HeaderValue = HeaderValue::from_static("application/msgpack");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const ANY: HeaderValue = HeaderValue::from_static("*");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// A value that is bytes, and no text: these bytes in base64.
const BYTES: &str = "bytes_base64";
/// Entries asked for at a time when everything is listed.
const PAGE: u64 = 1_000;

/// Arguments of `raftkv get`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv get greeting               print the value
  raftkv get greeting -o json       print value and revision
  raftkv get image > image.png      write a binary value to a file")]
pub(crate) struct GetArgs {
    /// Key to read
    key: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Consistency level of the read
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `raftkv put`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv put greeting hello                  store a text
  raftkv put user/1 '{\"name\":\"Ada\"}' --json  store a JSON value
  raftkv put image --file image.png          store the bytes of a file
  date | raftkv put now --file -             read the value from stdin
  raftkv put lock me --if-absent             create the key or fail
  raftkv put greeting hi --if-revision 7     compare-and-set by revision")]
pub(crate) struct PutArgs {
    /// Key to write
    key: String,
    /// Value to store: text, or JSON with --json
    #[arg(required_unless_present = "file", conflicts_with = "file", allow_hyphen_values = true)]
    value: Option<String>,
    /// Read the value from FILE, or from stdin if FILE is -. Stored as bytes unless --json or --text is given
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Parse the value as JSON
    #[arg(long, conflicts_with = "text")]
    json: bool,
    /// Store the file as text
    #[arg(long)]
    text: bool,
    /// Write only if the key does not exist
    #[arg(long, conflicts_with = "if_revision")]
    if_absent: bool,
    /// Write only if the key is at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Idempotency key: requests with the same key are applied once [default: random]
    #[arg(long, value_name = "NAME")]
    idempotency_key: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `raftkv delete`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  raftkv delete greeting --if-revision 7")]
pub(crate) struct DeleteArgs {
    /// Key to delete
    key: String,
    /// Write only if the key is at this revision
    #[arg(long, value_name = "REVISION")]
    if_revision: Option<u64>,
    /// Idempotency key: requests with the same key are applied once [default: random]
    #[arg(long, value_name = "NAME")]
    idempotency_key: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    #[command(flatten)]
    client: ClientArgs,
}

/// Arguments of `raftkv list`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "\
Examples:
  raftkv list --prefix user/            print key, tab, value
  raftkv list --keys-only --limit 10    print the first ten keys
  raftkv list -o json                   print one JSON object per line")]
pub(crate) struct ListArgs {
    /// Only keys with this prefix
    #[arg(long, default_value = "")]
    prefix: String,
    /// Maximum number of entries [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Print keys without values
    #[arg(long)]
    keys_only: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    output: Format,
    /// Consistency level of the read
    #[arg(long, value_enum, default_value_t = Consistency::Linearizable)]
    consistency: Consistency,
    #[command(flatten)]
    client: ClientArgs,
}

/// Prints a value.
pub(crate) async fn get(args: GetArgs) -> Result<(), Failure> {
    let path = format!("{}?consistency={}", path(&args.key)?, args.consistency.name());
    // MsgPack is the value itself: nothing is lost on the way to our own JSON.
    let headers: &[_] = if args.output == Format::Json { &[(ACCEPT, MSGPACK)] } else { &[] };
    let request = Request { method: Method::GET, path, headers, body: Bytes::new(), is_repeatable: true };
    let answer = send(args.client.retry(), &args.client.client(), &request).await?;
    let answer = found(answer, &args.key)?;
    match args.output {
        Format::Text => output::raw(&answer.body),
        Format::Json => output::line(entry_json(&args.key, &answer)?),
    }
}

/// Stores a value.
pub(crate) async fn put(args: PutArgs) -> Result<(), Failure> {
    let (content_type, body) = value(&args)?;
    let mut headers = vec![(CONTENT_TYPE, content_type)];
    if args.if_absent {
        headers.push((IF_NONE_MATCH, ANY));
    }
    conditions(&mut headers, args.if_revision, args.idempotency_key.as_deref())?;
    let path = path(&args.key)?;
    let request = Request { method: Method::PUT, path, headers: &headers, body, is_repeatable: true };
    let answer = send(args.client.retry(), &args.client.client(), &request).await?;
    done(&answer, args.output, |outcome| {
        format!("{} at revision {}", if outcome.created { "created" } else { "stored" }, outcome.revision)
    })
}

/// Removes a key.
pub(crate) async fn delete(args: DeleteArgs) -> Result<(), Failure> {
    let mut headers = Vec::new();
    conditions(&mut headers, args.if_revision, args.idempotency_key.as_deref())?;
    let (path, body) = (path(&args.key)?, Bytes::new());
    let request = Request { method: Method::DELETE, path, headers: &headers, body, is_repeatable: true };
    let answer = send(args.client.retry(), &args.client.client(), &request).await?;
    let answer = found(answer, &args.key)?;
    done(&answer, args.output, |outcome| format!("deleted at revision {}", outcome.revision))
}

/// Prints keys, page after page.
pub(crate) async fn list(args: ListArgs) -> Result<(), Failure> {
    let client = args.client.client();
    let mut left = args.limit.unwrap_or(u64::MAX);
    let mut cursor: Option<String> = None;
    let mut stdout = std::io::BufWriter::new(std::io::stdout().lock());
    loop {
        let mut path = format!("/v1/kv?limit={}&consistency={}", left.min(PAGE), args.consistency.name());
        if !args.prefix.is_empty() {
            path.push_str(&format!("&prefix={}", encode(&args.prefix)));
        }
        if args.keys_only {
            path.push_str("&keys_only=true");
        }
        if let Some(cursor) = &cursor {
            path.push_str(&format!("&cursor={}", encode(cursor)));
        }
        let request = Request { method: Method::GET, path, headers: &[], body: Bytes::new(), is_repeatable: true };
        // Each page has the whole time: there may be many.
        let answer = send(args.client.retry(), &client, &request).await?;
        if answer.status != StatusCode::OK {
            return Err(Failure::of(&answer));
        }
        let page: Page = serde_json::from_slice(&answer.body)
            .map_err(|error| Failure::failed(format!("the listing cannot be understood: {error}")))?;
        let count = page.entries.len() as u64;
        for entry in page.entries {
            let entry = with_bytes(entry);
            match args.output {
                Format::Json => writeln!(stdout, "{entry}")?,
                Format::Text => writeln!(stdout, "{}", entry_text(&entry))?,
            }
        }
        // What there is so far is shown before the next page is waited for.
        stdout.flush()?;
        left = left.saturating_sub(count);
        cursor = page.next_cursor;
        if cursor.is_none() || left == 0 {
            return Ok(());
        }
    }
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
struct Page {
    entries: Vec<serde_json::Value>,
    next_cursor: Option<String>,
}

/// What a write did.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Outcome {
    revision: u64,
    created: bool,
}

fn path(key: &str) -> Result<String, Failure> {
    if key.is_empty() {
        return Err(Failure::usage("the key is empty"));
    }
    Ok(format!("/v1/kv/{}", encode(key)))
}

fn value(args: &PutArgs) -> Result<(HeaderValue, Bytes), Failure> {
    let body = match (&args.value, &args.file) {
        (Some(value), _) => value.clone().into_bytes(),
        (None, Some(file)) => read(file).map_err(|error| Failure::io(format!("read {}", file.display()), &error))?,
        (None, None) => return Err(Failure::usage("no value given")),
    };
    let content_type = if args.json {
        JSON
    } else if args.file.is_some() && !args.text {
        OCTETS
    } else {
        TEXT
    };
    Ok((content_type, body.into()))
}

fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    if file.as_os_str() != "-" {
        return std::fs::read(file);
    }
    let mut bytes = Vec::new();
    std::io::stdin().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn conditions(
    headers: &mut Vec<(HeaderName, HeaderValue)>,
    revision: Option<u64>,
    idempotency_key: Option<&str>,
) -> Result<(), Failure> {
    if let Some(revision) = revision {
        headers.push((IF_MATCH, HeaderValue::try_from(format!("\"{revision}\"")).map_err(Failure::usage)?));
    }
    // Always one: an attempt whose answer is lost is made again.
    let key = match idempotency_key {
        Some(key) => HeaderValue::try_from(key).map_err(Failure::usage)?,
        None => fresh_key(),
    };
    headers.push((IDEMPOTENCY_KEY, key));
    Ok(())
}

fn found(answer: Answer, key: &str) -> Result<Answer, Failure> {
    match answer.status {
        // With its code: that there is nothing at this path says nothing about the key.
        StatusCode::NOT_FOUND if answer.code().as_deref() == Some("key_not_found") => {
            Err(Failure::failed(format!("no such key: {key}")))
        }
        status if status.is_success() => Ok(answer),
        _ => Err(Failure::of(&answer)),
    }
}

fn done(answer: &Answer, format: Format, say: impl Fn(&Outcome) -> String) -> Result<(), Failure> {
    if !answer.status.is_success() {
        return Err(Failure::of(answer));
    }
    match format {
        Format::Json => output::line(String::from_utf8_lossy(&answer.body)),
        Format::Text => {
            let mut outcome: Outcome = serde_json::from_slice(&answer.body).unwrap_or_default();
            outcome.revision = answer.revision().unwrap_or(outcome.revision);
            output::line(say(&outcome))
        }
    }
}

/// An answer with a MsgPack value, as JSON in the form that a listing has, too.
fn entry_json(key: &str, answer: &Answer) -> Result<String, Failure> {
    let name = serde_json::to_string(key).map_err(Failure::failed)?;
    let revision = answer.revision().unwrap_or_default();
    let created =
        answer.headers.get("raftkv-create-revision").and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let value = Value::from_stored(answer.body.clone());
    let value = match (value.to_json(), value.as_bin()) {
        (Some(json), _) => format!("\"value\":{}", String::from_utf8_lossy(&json)),
        (None, Some(bytes)) => format!("\"{BYTES}\":\"{}\"", STANDARD.encode(bytes)),
        // What JSON cannot say exactly, as MsgPack.
        (None, None) => format!("\"value_base64\":\"{}\"", STANDARD.encode(&answer.body)),
    };
    let created = created.map(|revision| format!(",\"create_revision\":{revision}")).unwrap_or_default();
    Ok(format!("{{\"key\":{name},{value},\"revision\":{revision}{created}}}"))
}

/// A listing has every value that JSON cannot say as MsgPack. One that is just bytes is shown as these bytes.
fn with_bytes(mut entry: serde_json::Value) -> serde_json::Value {
    let msgpack = entry.get("value_base64").and_then(|value| STANDARD.decode(value.as_str()?).ok());
    let bytes = msgpack.and_then(|msgpack| Some(STANDARD.encode(Value::from_stored(msgpack).as_bin()?)));
    if let (Some(bytes), Some(fields)) = (bytes, entry.as_object_mut()) {
        fields.remove("value_base64");
        fields.insert(BYTES.to_owned(), bytes.into());
    }
    entry
}

/// An entry of a listing as a line: the key, and after a tab the value.
fn entry_text(entry: &serde_json::Value) -> String {
    let text =
        |name: &str| entry.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let base64 = |name: &str| text(name).map(|value| format!("base64:{value}"));
    let key = text("key").or_else(|| base64("key_base64")).unwrap_or_default();
    match text("value")
        .or_else(|| base64(BYTES))
        .or_else(|| text("value_base64").map(|value| format!("msgpack:{value}")))
    {
        Some(value) => format!("{key}\t{value}"),
        None => key,
    }
}

#[cfg(test)]
mod tests {
    use hyper::HeaderMap;

    use super::*;

    #[test]
    fn entries_become_lines() {
        for (entry, line) in [
            (serde_json::json!({"key": "a", "value": "text", "revision": 1}), "a\ttext"),
            (serde_json::json!({"key": "a", "value": {"n": [1, 2.5, null]}}), "a\t{\"n\":[1,2.5,null]}"),
            (serde_json::json!({"key_base64": "/w==", "value_base64": "xAH/"}), "base64:/w==\tbase64:/w=="),
            (serde_json::json!({"key": "a", "value_base64": "gcQB/wE="}), "a\tmsgpack:gcQB/wE="),
            (serde_json::json!({"key": "a", "revision": 1}), "a"),
        ] {
            assert_eq!(entry_text(&with_bytes(entry)), line);
        }
    }

    #[test]
    fn a_value_is_shown_as_json_with_its_revisions() {
        let mut headers = HeaderMap::new();
        headers.insert(hyper::header::ETAG, HeaderValue::from_static("\"7\""));
        headers.insert("raftkv-create-revision", HeaderValue::from_static("3"));
        let answer = |body: &'static [u8]| Answer {
            status: StatusCode::OK,
            headers: headers.clone(),
            body: Bytes::from_static(body),
        };
        let text = entry_json("a\"b", &answer(b"\xa2hi")).expect("json");
        assert_eq!(text, r#"{"key":"a\"b","value":"hi","revision":7,"create_revision":3}"#);
        // Bytes have no exact form in JSON.
        let bytes = entry_json("k", &answer(b"\xc4\x01\xff")).expect("json");
        assert_eq!(bytes, r#"{"key":"k","bytes_base64":"/w==","revision":7,"create_revision":3}"#);
    }

    #[test]
    fn a_missing_key_is_exit_code_1() {
        let answer = |body: &'static str| Answer {
            status: StatusCode::NOT_FOUND,
            headers: HeaderMap::new(),
            body: Bytes::from_static(body.as_bytes()),
        };
        let failure = found(answer(r#"{"code":"key_not_found"}"#), "greeting").expect_err("404");
        assert_eq!((failure.code, failure.message.as_str()), (1, "no such key: greeting"));
        let failure =
            found(answer(r#"{"code":"no_such_route","detail":"there is nothing"}"#), "greeting").expect_err("404");
        assert!(!failure.message.contains("no such key"), "{failure:?}");
    }
}
