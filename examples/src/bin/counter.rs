//! A counter that several writers increment at once. Each increment is a compare-and-set on the revision of the key, so no increment is
//! lost and none is counted twice.

use anyhow::{Context, Result};
use clap::Parser;
use raftkv_client::{Client, Condition, Endpoints, Written};
use tokio::task::JoinSet;

/// Increment a counter from several writers with compare-and-set.
#[derive(Debug, Parser)]
struct Args {
    /// HTTP address of a node or router; separate several by commas
    #[arg(long, env = "RAFTKV_ENDPOINT", default_value = "http://127.0.0.1:8080,http://127.0.0.1:8000")]
    endpoint: Endpoints,
    /// Key of the counter
    #[arg(long, default_value = "examples/counter")]
    key: String,
    /// Number of concurrent writers
    #[arg(long, default_value_t = 4)]
    writers: u32,
    /// Increments of each writer
    #[arg(long, default_value_t = 25)]
    increments: u32,
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let client = Client::new(args.endpoint);
    let before = read(&client, &args.key).await?;
    let mut writers = JoinSet::new();
    for _ in 0..args.writers {
        let (client, key) = (client.clone(), args.key.clone());
        writers.spawn(async move {
            for _ in 0..args.increments {
                increment(&client, &key).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer??;
    }
    let after = read(&client, &args.key).await?;
    println!("{} writers added {} to the counter: it is {after}", args.writers, after - before);
    Ok(())
}

async fn read(client: &Client, key: &str) -> Result<u64> {
    Ok(client.get::<u64>(key).await.context("read the counter")?.map_or(0, |entry| entry.value))
}

/// Adds one. A writer that loses the race reads the new value and tries again.
async fn increment(client: &Client, key: &str) -> Result<()> {
    loop {
        let (value, condition) = match client.get::<u64>(key).await? {
            Some(entry) => (entry.value, Condition::Revision(entry.revision)),
            None => (0, Condition::Absent),
        };
        if let Written::Applied { .. } = client.put(key, &(value + 1), condition).await? {
            return Ok(());
        }
    }
}
