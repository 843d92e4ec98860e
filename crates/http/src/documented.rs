//! The problems that a request may be answered with, as the description of the interface lists them: one list for all
//! requests of a kind, so that no handler forgets one, and each in the form of its surface.

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{Content, ObjectBuilder, Ref, RefOr, Response, ResponseBuilder, schema::Type};

/// The body of a problem as Keva, Ravel and Arima tell it.
#[derive(utoipa::ToSchema)]
#[allow(dead_code)] // Describes the body, which borrows its text where it is written.
pub(crate) struct ErrorBody {
    /// What happened, for people.
    error: String,
}

/// Bytes as they are.
#[derive(utoipa::ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code)] // Describes a body.
pub(crate) struct Octets(Vec<u8>);

/// How a surface tells a problem.
#[derive(Debug, Clone, Copy)]
enum Form {
    /// `application/problem+json`.
    Problem,
    /// `{error}`.
    Error,
    /// `text/plain`.
    Text,
    /// A status only: the answer to HEAD.
    Bare,
}

impl Form {
    fn response(self, status: u16) -> Response {
        let response = ResponseBuilder::new().description(meaning(status));
        let json = |name| Content::new(Some(Ref::from_schema_name(name)));
        match self {
            Self::Error | Self::Text if status == HEAD_TOO_LARGE => {
                response.content("application/problem+json", json("ProblemBody"))
            }
            Self::Problem => response.content("application/problem+json", json("ProblemBody")),
            Self::Error => response.content("application/json", json("ErrorBody")),
            Self::Text => {
                let text = ObjectBuilder::new().schema_type(Type::String).build();
                response.content("text/plain", Content::new(Some(text)))
            }
            Self::Bare => response,
        }
        .build()
    }

    fn responses(self, lists: &[&[u16]]) -> BTreeMap<String, RefOr<Response>> {
        let statuses = lists.iter().copied().flatten();
        statuses.map(|&status| (status.to_string(), self.response(status).into())).collect()
    }
}

/// What a status says of any request, but for those that say more themselves.
fn meaning(status: u16) -> &'static str {
    match status {
        400 => "Malformed: nothing was done.",
        403 => "A browser sends it for a page of another site, or by a host name that is not known: nothing was done.",
        404 => "No such key.",
        406 => "There, but not in an accepted form.",
        408 => "The body came too slowly: nothing was done.",
        409 => "Refused by the group: nothing was done.",
        412 => "The condition does not hold: nothing was done.",
        413 => "Too large: nothing was done. The body names the limit.",
        415 => "A body of this type is not taken here.",
        421 => "The key is another group's, and no router is known here: nothing was done.",
        422 => "The Idempotency-Key was used with another request: nothing was done.",
        431 => {
            "The head is too large: nothing was done. The body is a problem on every surface, because the path was not read."
        }
        429 => "Shed before any work: try again.",
        500 => "A fault of the server.",
        503 => "Not now; definitely not applied.",
        504 => "The outcome is unknown.",
        507 => "The disk is nearly full: nothing was done.",
        _ => "See the body.",
    }
}

/// Refused before its path is known, and so the same on all surfaces.
const HEAD_TOO_LARGE: u16 = 431;
/// Of every request for keys.
const ANY: &[u16] = &[400, 403, 413, 421, 429, HEAD_TOO_LARGE, 500, 503];
/// Of every request with a body, and of every one that may be passed on with one.
const BODY: &[u16] = &[408, 504];
/// Of every write.
const WRITE: &[u16] = &[422, 507];
/// Where the body has a type.
const TYPED: &[u16] = &[415];
/// Of a read of one key.
const ABSENT: &[u16] = &[404, 406];
/// Of requests with conditions.
const CONDITIONAL: &[u16] = &[412];
/// Of a listing and of the results of a batch, which are there in two forms.
const NEGOTIATED: &[u16] = &[406];
/// What Arima tells where others tell 400, 404, 406, 409, 412, 413 or 415.
const ARIMA: &[u16] = &[403, 421, 422, 429, HEAD_TOO_LARGE, 500, 503];

/// Adds the refusal of browsers, as a problem, to the requests of a description that do not name it.
pub(crate) fn describe_browsers(description: &mut utoipa::openapi::OpenApi) {
    for item in description.paths.paths.values_mut() {
        let operations =
            [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.head, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            let responses = &mut operation.responses.responses;
            responses.entry("403".to_owned()).or_insert_with(|| Form::Problem.response(403).into());
        }
    }
}

macro_rules! documented {
    ($($(#[$doc:meta])* $name:ident = $form:ident($($list:expr),*);)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl IntoResponses for $name {
            fn responses() -> BTreeMap<String, RefOr<Response>> {
                Form::$form.responses(&[$($list),*])
            }
        }
    )*};
}

documented! {
    /// `GET /v1/kv/{key}`.
    NativeRead = Problem(ANY, ABSENT, CONDITIONAL);
    /// `HEAD /v1/kv/{key}`.
    NativeHead = Bare(ANY, ABSENT, CONDITIONAL);
    /// `GET /v1/kv`.
    NativeList = Problem(ANY, NEGOTIATED);
    /// Writes of one key at `/v1/kv`.
    NativeWrite = Problem(ANY, BODY, WRITE, CONDITIONAL);
    /// A body of any type that there is.
    NativeTyped = Problem(TYPED);
    /// A key that is not there.
    NativeAbsent = Problem(&[404]);
    /// `POST /v1/batch`.
    NativeBatch = Problem(ANY, BODY, TYPED, NEGOTIATED, &[507]);
    /// Health, metrics and the description.
    Operations = Problem(&[403]);
    /// `GET /get-val`.
    TextRead = Text(ANY, ABSENT);
    /// `POST /insert-val`.
    TextWrite = Text(ANY, BODY, WRITE, TYPED);
    /// Keva's reads.
    KevaRead = Error(ANY);
    /// Keva's writes.
    KevaWrite = Error(ANY, BODY, WRITE);
    /// Ravel's reads, which have a body.
    RavelRead = Error(ANY, BODY, TYPED, ABSENT);
    /// Ravel's writes.
    RavelWrite = Error(ANY, BODY, TYPED, WRITE);
    /// Arima's reads.
    ArimaRead = Error(ARIMA);
    /// Arima's writes, and its changes of membership.
    ArimaWrite = Error(ARIMA, BODY, &[507]);
}
