//! `POST /v1/batch`: several changes in one request.

use std::sync::Arc;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use raftkv_backend::{Backend, BackendError, ListRequest};
use raftkv_kv::{Command, Limits, Op, Outcome, Precondition, Value};
use serde::Serialize;

use crate::app::{App, operation, written};
use crate::body::read_body;
use crate::documented::NativeBatch;
use crate::fields::{Unknown, elements, envelope_limits, fields, key, malformed, text, value};
use crate::native::list::FIRST_KEY;
use crate::negotiate::{Accept, Format, is_msgpack, media_type};
use crate::problem::{Problem, ProblemOutcome};
use crate::query::Query;
use crate::reply::{IDEMPOTENCY_REPLAYED, MSGPACK, TRUE, json, reply};

/// Several changes, as JSON tells them. In MsgPack keys may be str or bin and values are any value.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // Describes the body, which is read field by field so that values stay as they are.
pub(crate) struct BatchRequest {
    /// Applied in order, each for itself.
    operations: Vec<BatchOperation>,
}

/// One change of a batch.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)]
pub(crate) struct BatchOperation {
    /// What to do.
    op: BatchOp,
    /// The key, where it is UTF-8.
    #[schema(nullable = false, min_length = 1)]
    key: Option<String>,
    /// The key's bytes in base64, where it is not.
    #[schema(nullable = false, min_length = 1)]
    key_base64: Option<String>,
    /// What to put.
    value: Option<serde_json::Value>,
    /// What to put, as MsgPack in base64, where JSON cannot say it.
    #[schema(nullable = false)]
    value_base64: Option<String>,
    /// What must hold.
    #[schema(rename = "if", nullable = false)]
    condition: Option<BatchCondition>,
}

/// What an operation does.
#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
#[allow(dead_code)]
pub(crate) enum BatchOp {
    /// Stores `value`.
    Put,
    /// Removes the key.
    Delete,
}

/// What must hold for an operation: exactly one of these.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)]
pub(crate) struct BatchCondition {
    /// `true`: the key does not exist.
    #[schema(nullable = false)]
    absent: Option<bool>,
    /// `true`: the key exists.
    #[schema(nullable = false)]
    present: Option<bool>,
    /// The key is at this revision.
    #[schema(nullable = false)]
    revision: Option<u64>,
}

/// What became of a batch.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BatchResult {
    /// One per operation, in order.
    results: Vec<OperationResult>,
}

/// What became of one operation.
#[derive(Debug, Default, Serialize, utoipa::ToSchema)]
pub(crate) struct OperationResult {
    /// As the operation would have been answered by itself: 200, 404, 412, 421 or 422; where only a part of the batch could
    /// be done, 429, 503, 504 or 507 as well.
    status: u16,
    /// What programs tell problems apart by; left out with 200.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    code: Option<&'static str>,
    /// The key's revision, or that of the deletion.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revision: Option<u64>,
    /// After a put: whether the key did not exist before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created: Option<bool>,
    /// After a delete: whether there was something to delete.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    existed: Option<bool>,
    /// With 412: the key's revision; 0 = no such key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    current_revision: Option<u64>,
    /// The outcome is that of an earlier request with the same `Idempotency-Key`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    replayed: bool,
    /// With 429, 503, 504 and 507: what became of the operation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    outcome: Option<ProblemOutcome>,
    /// With 429, 503, 504 and 507: what happened, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    detail: Option<String>,
}

/// All methods of the path.
pub(crate) async fn handle<B: Backend>(app: Arc<App<B>>, parts: Parts, body: Body) -> Result<Response, Problem> {
    match parts.method {
        Method::POST => apply_batch(&app, &parts, body).await,
        _ => Err(Problem::method_not_allowed("POST")),
    }
}

/// Applies several operations in one request.
///
/// It saves round trips and is **not a transaction**: each operation succeeds or fails by itself, other clients' writes
/// may come between, and the answer is 200 with a status for each. With an `Idempotency-Key` each operation has a record
/// of its own, by its position: the same key with another list is refused where the lists differ.
#[utoipa::path(
    post, path = "/v1/batch", tag = "native",
    request_body(
        content((BatchRequest = "application/json"), (BatchRequest = "application/msgpack")),
        description = "JSON or MsgPack by `Content-Type`."
    ),
    params(
        ("timeout" = Option<String>, Query, description = "Like `500ms`, `2s` or `1m`; a bare number is milliseconds. More than the server grants, a minute by default, is 400."),
        ("Idempotency-Key" = Option<String>, Header, description = "Requests with the same one are applied once."),
    ),
    responses(
        (status = 200, description = "What became of each, in the form of the request unless `Accept` says else.", content(
            (BatchResult = "application/json"),
            (BatchResult = "application/msgpack"),
        )),
        NativeBatch,
    )
)]
pub(crate) async fn apply_batch<B: Backend>(app: &App<B>, parts: &Parts, body: Body) -> Result<Response, Problem> {
    let mut query = Query::of(parts)?;
    let ctx = app.context(parts, &mut query)?;
    query.finish()?;
    let idempotency_key = app.idempotency_key(parts)?;
    let media_type = media_type(&parts.headers)?;
    let in_msgpack = match media_type.as_deref() {
        None | Some("application/json" | "application/x-www-form-urlencoded") => false,
        Some(name) if is_msgpack(name) => true,
        Some(name) => {
            let detail = format!("{name} is not taken here; send application/json or application/msgpack");
            return Err(Problem::unsupported_media_type(detail));
        }
    };
    let offers = if in_msgpack { [Format::MsgPack, Format::Json] } else { [Format::Json, Format::MsgPack] };
    let format = Accept::parse(&parts.headers)
        .choose(&offers)
        .ok_or_else(|| Problem::not_acceptable("the results are given as application/json or application/msgpack"))?;
    let body = read_body(body).await?;
    let ops = operations(body, in_msgpack, idempotency_key.as_ref(), app.limits())?;
    let count = ops.len();
    let results: Vec<OperationResult> = if ops.is_empty() {
        // Nothing to apply, but the answer must not come from a node that could apply nothing: it is that to an empty page.
        app.backend.list(ctx, nothing()).await?;
        Vec::new()
    } else {
        let outcomes = app.propose(ctx, ops).await;
        match outcomes {
            Ok(outcomes) => outcomes.into_iter().map(OperationResult::of).collect(),
            Err(BackendError::Partial(results)) => results.into_iter().map(OperationResult::of_either).collect(),
            Err(e) => return Err(Problem::from(e).with_idempotency(idempotency_key.is_some())),
        }
    };
    if results.len() != count {
        return Err(Problem::internal(format!("{} outcomes of {count} operations", results.len())));
    }
    let replayed = results.iter().any(|result| result.replayed);
    let result = BatchResult { results };
    let mut response = match format {
        // A struct of numbers and texts always has a MsgPack form.
        Format::MsgPack => reply(StatusCode::OK, MSGPACK, rmp_serde::to_vec_named(&result).unwrap_or_default()),
        _ => json(StatusCode::OK, &result),
    };
    if replayed {
        response.headers_mut().insert(IDEMPOTENCY_REPLAYED, TRUE);
    }
    Ok(response)
}

/// A range without keys.
fn nothing() -> ListRequest {
    ListRequest {
        start: Bytes::from_static(FIRST_KEY),
        end: Some(Bytes::from_static(FIRST_KEY)),
        limit: 1,
        max_bytes: 1,
        keys_only: true,
    }
}

impl OperationResult {
    fn of(outcome: Outcome) -> Self {
        let (original, replayed) = match outcome {
            Outcome::Replayed(original) => (*original, true),
            outcome => (outcome, false),
        };
        let known = match original {
            Outcome::Set { revision, created } => {
                Self { status: 200, revision: Some(revision), created: Some(created), ..Self::default() }
            }
            Outcome::Deleted { revision, existed: true } => {
                Self { status: 200, revision: Some(revision), existed: Some(true), ..Self::default() }
            }
            Outcome::Deleted { existed: false, .. } => {
                Self { status: 404, code: Some(Problem::key_not_found().code), existed: Some(false), ..Self::default() }
            }
            failed => match written(failed) {
                Ok(_) => Self { status: 200, ..Self::default() },
                Err(problem) => Self::failed(&problem),
            },
        };
        Self { replayed, ..known }
    }

    /// Where operations of one batch go to several groups, some may fail and others not.
    fn of_either(result: Result<Outcome, BackendError>) -> Self {
        match result {
            Ok(outcome) => Self::of(outcome),
            Err(error) => {
                let problem = Problem::from(error);
                Self { outcome: Some(problem.outcome), detail: Some(problem.detail.clone()), ..Self::failed(&problem) }
            }
        }
    }

    fn failed(problem: &Problem) -> Self {
        Self {
            status: problem.status.as_u16(),
            code: Some(problem.code),
            current_revision: problem.current_revision,
            ..Self::default()
        }
    }
}

fn operations(
    body: Bytes,
    in_msgpack: bool,
    idempotency_key: Option<&Bytes>,
    limits: &Limits,
) -> Result<Vec<Op>, Problem> {
    let (envelope, max) = (envelope_limits(limits), limits.max_batch_ops);
    // Counted before they are read: a million tiny operations would take many times the memory of the body.
    let message = match in_msgpack {
        true => Value::message_from_msgpack(body, &envelope, max)?,
        false => Value::message_from_json(&body, &envelope, max)?,
    };
    let [list] = fields(&message, ["operations"], Unknown::Refuse)?;
    let list = list.ok_or_else(|| malformed("the field operations is missing"))?;
    let elements = elements(&list, limits.max_batch_ops)?;
    let mut bytes = 0;
    let mut ops = Vec::with_capacity(elements.left() as usize);
    for (at, element) in elements.enumerate() {
        let (command, precondition) = parse_operation(&element.to_value(), limits)
            .map_err(|problem| Problem { detail: format!("operation {at}: {}", problem.detail), ..problem })?;
        bytes += command.key().as_bytes().len();
        if let Command::Set { value, .. } = &command {
            bytes += value.as_msgpack().len();
        }
        if bytes > limits.max_batch_bytes {
            let detail = format!("keys and values have more than {} bytes together", limits.max_batch_bytes);
            return Err(Problem::too_large("batch_too_large", detail, limits.max_batch_bytes));
        }
        // No header can hold a zero byte, so no other request's key is ever the same.
        let key = idempotency_key.map(|key| [key, format!("\0{at}").as_bytes()].concat().into());
        ops.push(operation(command, precondition, key));
    }
    Ok(ops)
}

fn parse_operation(element: &Value, limits: &Limits) -> Result<(Command, Option<Precondition>), Problem> {
    let names = ["op", "key", "key_base64", "value", "value_base64", "if"];
    let [op, plain_key, key_base64, plain_value, value_base64, condition] = fields(element, names, Unknown::Refuse)?;
    let key = match (plain_key, key_base64) {
        (key_field, None) => key(key_field, limits)?,
        (None, Some(encoded)) => raftkv_kv::Key::new(base64(encoded, "key_base64")?, limits)?,
        (Some(_), Some(_)) => return Err(malformed("both key and key_base64 are given")),
    };
    let new_value = match (plain_value, value_base64) {
        (None, None) => None,
        (Some(plain), None) => Some(value(plain, limits)?),
        (None, Some(encoded)) => Some(Value::from_msgpack(base64(encoded, "value_base64")?, limits)?),
        (Some(_), Some(_)) => return Err(malformed("both value and value_base64 are given")),
    };
    let precondition = condition.map(|condition| parse_condition(&condition)).transpose()?;
    let command = match (text(&op, "op")?, new_value) {
        ("put", Some(value)) => Command::Set { key, value, expires_at_ms: 0 },
        ("put", None) => return Err(malformed("a put without value")),
        ("delete", None) => Command::Delete { key },
        ("delete", Some(_)) => return Err(malformed("a delete with a value")),
        (other, _) => {
            let detail = format!("unknown op {other:.64?}; there are put and delete");
            return Err(Problem::bad_request("unknown_op", detail));
        }
    };
    Ok((command, precondition))
}

fn parse_condition(condition: &Value) -> Result<Precondition, Problem> {
    const TRUE: &[u8] = &[0xc3];
    let wrong = || malformed(r#"if is one of {"absent":true}, {"present":true}, {"revision":n}"#);
    match fields(condition, ["absent", "present", "revision"], Unknown::Refuse)? {
        [Some(flag), None, None] if flag.as_msgpack() == TRUE => Ok(Precondition::Absent),
        [None, Some(flag), None] if flag.as_msgpack() == TRUE => Ok(Precondition::Present),
        [None, None, Some(revision)] => {
            let revision = rmp::decode::read_int(&mut revision.as_msgpack()).map_err(|_| wrong())?;
            Ok(Precondition::Revision(revision))
        }
        _ => Err(wrong()),
    }
}

fn base64(field: Value, name: &str) -> Result<Vec<u8>, Problem> {
    use base64::Engine;
    let field = Some(field);
    let text = text(&field, name)?;
    base64::engine::general_purpose::STANDARD.decode(text).map_err(|e| malformed(format!("{name} is not base64: {e}")))
}
