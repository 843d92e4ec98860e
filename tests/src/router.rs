//! [`Router`]: a shard router as a process.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;

use crate::admin::Admin;
use crate::client::Client;
use crate::process::Process;

/// A router, running or not. It keeps nothing on disk.
#[derive(Debug)]
pub struct Router {
    pub(crate) name: String,
    pub(crate) http: SocketAddr,
    pub(crate) process: Arc<Process>,
}

impl Router {
    /// Its name, as it tells it to other routers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it serves HTTP.
    pub fn http_address(&self) -> SocketAddr {
        self.http
    }

    /// Its process: to be killed, paused, started again.
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

    /// Whether it says that it is ready, and why not.
    pub async fn ready(&self) -> anyhow::Result<()> {
        self.client().get_path("/readyz").await?.success().with_context(|| format!("{} is not ready", self.name))?;
        Ok(())
    }
}
