//! [`ApiDoc`]: the description of the interface, made from the handlers.

use utoipa::OpenApi;

use crate::compat::{arima, keva, raftkv, ravel};
use crate::documented::ErrorBody;
use crate::native::{batch, key, list};
use crate::operations;
use crate::problem::ProblemBody;

/// The OpenAPI document.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "RaftKV",
        description = "A replicated key-value store. A request means the same at every node of a group and at every router."
    ),
    paths(
        key::get_value,
        key::head_value,
        key::put_value,
        key::delete_value,
        list::list_values,
        batch::apply_batch,
        raftkv::insert_val,
        raftkv::get_val,
        keva::get_key,
        keva::post_key,
        keva::delete_key,
        arima::store_key,
        arima::fetch_key,
        arima::remove_key,
        arima::raft_join,
        arima::raft_remove,
        arima::raft_stats,
        ravel::put_key,
        ravel::get_key,
        ravel::delete_key,
        operations::healthz,
        operations::readyz,
        operations::metrics,
        operations::openapi,
    ),
    components(schemas(ErrorBody, ProblemBody)),
    tags(
        (name = "native", description = "The interface of RaftKV. Errors are RFC 9457 problems."),
        (name = "RaftKV", description = "For clients of the first RaftKV."),
        (name = "Keva", description = "For clients of Keva."),
        (name = "Arima", description = "For clients of Arima."),
        (name = "Ravel", description = "For clients of Ravel."),
        (name = "operations", description = "Health and metrics."),
    )
)]
pub(crate) struct ApiDoc;
