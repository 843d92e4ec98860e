//! The gRPC service that consensus drives the [`Store`] with.

use crate::store::Store;

/// What of the status the store does not know.
#[derive(Clone, Debug, Default)]
pub struct ServiceInfo {
    /// Address where this engine serves HTTP, as clients reach it.
    pub http_address: String,
    /// Free bytes below which writes are refused; for `disk_nearly_full`.
    pub disk_reserve_bytes: u64,
}

/// Serves `raftkv_proto::state_machine` over a [`Store`].
#[derive(Clone)]
pub struct StateMachineService {
    #[allow(dead_code)]
    store: Store,
    #[allow(dead_code)]
    info: ServiceInfo,
}

impl StateMachineService {
    /// Over `store`.
    pub fn new(store: Store, info: ServiceInfo) -> Self {
        Self { store, info }
    }
}
