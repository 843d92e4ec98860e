//! Stores every key once, so that reads find something of this run.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use super::operation::{Operation, Put, Trouble};
use super::target::Target;
use super::workload::Keyspace;
use crate::failure::Failure;
use crate::output;

/// Attempts for each key: a leader may just be changing.
const ATTEMPTS: u32 = 50;
const PAUSE: Duration = Duration::from_millis(100);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// `batch` keys a request. Fails when one cannot be stored.
pub(super) async fn run(target: &Target, keyspace: &Arc<Keyspace>, clients: u32, batch: u32) -> Result<(), Failure> {
    let spinner =
        output::spinner(format!("{}: loading {} keys", target.name(), output::thousands(keyspace.len() as u64)));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (target, keyspace) = (target.clone(), Arc::clone(keyspace));
        tasks.spawn(async move {
            let mut session = target.session(client, &keyspace);
            let (batch, clients) = (batch as usize, clients as usize);
            for first in (client as usize * batch..keyspace.len()).step_by(clients * batch) {
                let keys = first..(first + batch).min(keyspace.len());
                // The nonce 0 is no client's of a round.
                let operation = Operation::Put(keys.map(|key| Put { key, nonce: 0 }).collect());
                let mut attempt = 0;
                loop {
                    let done = tokio::time::timeout(REQUEST_TIMEOUT, session.perform(&operation)).await;
                    let Err(trouble) = done.unwrap_or(Err(Trouble::Timeout)) else {
                        break;
                    };
                    attempt += 1;
                    if attempt >= ATTEMPTS {
                        return Err(trouble);
                    }
                    session.disconnect();
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Ok(())
        });
    }
    let mut outcome = Ok(());
    while let Some(done) = tasks.join_next().await {
        let done = done.map_err(|error| Failure::failed(format!("loading failed: {error}")))?;
        if let Err(trouble) = done {
            outcome = Err(Failure::unavailable(format!("{}: cannot load the keys: {trouble}", target.name())));
            tasks.abort_all();
            break;
        }
    }
    spinner.finish_and_clear();
    outcome
}
