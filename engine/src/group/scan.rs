//! Listings, system keys, and pages of an export.

use std::time::Instant;

use bytes::Bytes;
use raftkv_backend::{Consistency, ListRequest};
use raftkv_kv::Limits;
use raftkv_proto::group as pb;
use raftkv_store::{Export, ExportError, Store};
use tonic::Status;

use super::{read, status};
use crate::backend::{EngineBackend, read_failed};

/// Maximum size of a listing page, keys and values together.
pub(super) const MAX_LIST_BYTES: u64 = 16 * 1024 * 1024;
/// Default size of an export page.
const EXPORT_BYTES: usize = 1024 * 1024;
/// Maximum size of an export page: a page must fit in one log entry of the target group, beside other traffic.
pub(super) const MAX_EXPORT_BYTES: usize = 4 * 1024 * 1024;

/// Lists one page of the keys served by this group.
pub(super) async fn list(
    backend: &EngineBackend,
    request: pb::ListRequest,
    deadline: Instant,
) -> Result<pb::ListResponse, Status> {
    let consistency = read::consistency(request.consistency)?;
    let most = Limits::default().max_list_entries;
    let asked = ListRequest {
        start: request.start,
        end: request.end,
        limit: (request.limit as usize).clamp(1, most),
        max_bytes: usize::try_from(request.max_bytes.clamp(1, MAX_LIST_BYTES)).unwrap_or(usize::MAX),
        keys_only: request.keys_only,
    };
    let page = || async {
        let asked = asked.clone();
        let scan = move |store: &Store| (store.revision(), store.list_served(&asked));
        let (store_revision, listed) = backend.scan(deadline, scan).await?;
        Ok((listed.map_err(read_failed)?, store_revision))
    };
    let read = backend.barriers().read(consistency, deadline, page).await;
    let ((page, served), store_revision) = read.map_err(status::of_backend)?;
    let range = |&(first, last): &(u16, u16)| pb::SlotRange { first: first.into(), last: last.into() };
    Ok(pb::ListResponse {
        entries: page.entries.into_iter().map(read::entry).collect(),
        next: page.next,
        store_revision,
        served: served.ranges().iter().map(range).collect(),
    })
}

/// Reads a system key linearizably.
pub(super) async fn system_key(
    backend: &EngineBackend,
    key: &Bytes,
    deadline: Instant,
) -> Result<pb::SystemKey, Status> {
    let get = || async { backend.store().system_key(key).map_err(read_failed) };
    let read = backend.barriers().read(Consistency::Linearizable, deadline, get).await;
    let (version, value) = read.map_err(status::of_backend)?.unwrap_or_default();
    Ok(pb::SystemKey { version, value })
}

/// Reads one page of an export.
pub(super) async fn export(
    backend: &EngineBackend,
    request: pb::ExportRequest,
    deadline: Instant,
) -> Result<pb::ExportPage, Status> {
    let max_bytes = match request.max_bytes as usize {
        0 => EXPORT_BYTES,
        asked => asked.min(MAX_EXPORT_BYTES),
    };
    let export = Export { move_id: request.move_id, cursor: request.cursor, max_bytes };
    let page = || async {
        let export = export.clone();
        match backend.scan(deadline, move |store| store.export(&export)).await? {
            Err(ExportError::Store(error)) => Err(read_failed(error)),
            page => Ok(page),
        }
    };
    let read = backend.barriers().read(Consistency::Linearizable, deadline, page).await;
    let exported = read.map_err(status::of_backend)?.map_err(|error| match error {
        ExportError::NotExporting(_) => Status::failed_precondition(error.to_string()),
        ExportError::BadCursor => Status::invalid_argument(error.to_string()),
        ExportError::Store(_) => Status::internal(error.to_string()),
    })?;
    Ok(pb::ExportPage {
        records: exported.page.encode(),
        cursor: exported.cursor,
        keys: exported.keys,
        base_done: exported.base_done,
        changes_done: exported.changes_done,
        changes_total: exported.changes_total,
    })
}
