//! [`Router`]: a shard router as a process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;

use crate::admin::Admin;
use crate::client::Client;
use crate::process::Process;

/// A router, running or stopped, without data on disk.
#[derive(Debug)]
pub struct Router {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    pub(crate) process: Arc<Process>,
}

impl Router {
    /// Router name, as told to other routers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// HTTP address.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// The process, to kill, pause or restart.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// A client of the store, through this router.
    pub fn client(&self) -> Client {
        Client::new(self.http)
    }

    /// A client of `/v1/cluster`.
    pub fn admin(&self) -> Admin {
        Admin::new(self.client())
    }

    /// Checks readiness; the error holds the reason.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.client().get_path("/readyz").await?.success().with_context(|| format!("{} is not ready", self.name))?;
        Ok(())
    }
}
