//! [`BulkLoad`]: writes much data in few requests.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use rmpv::Value;

use crate::client::Client;

/// Batches in flight: enough to keep a group busy, few enough to bound memory.
const CONCURRENCY: usize = 6;
/// Attempts per batch: covers elections and back-pressure of the node.
const ATTEMPTS: u32 = 200;
/// Pause between attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Puts in batches over `/v1/batch`, as MsgPack.
#[derive(Debug, Clone)]
pub struct BulkLoad {
    /// Number of puts.
    pub puts: u64,
    /// Number of distinct keys; with more puts than keys, values are overwritten.
    pub keys: u64,
    /// Size of each value; values are incompressible.
    pub value_bytes: usize,
    /// Puts per batch.
    pub batch: u64,
    /// Prefix of the keys.
    pub prefix: String,
}

impl BulkLoad {
    /// Sends all puts, spread over `clients`. Returns the elapsed time.
    pub async fn run(&self, clients: &[Client]) -> anyhow::Result<Duration> {
        let start = Instant::now();
        futures::stream::iter((0..self.puts.div_ceil(self.batch)).map(anyhow::Ok))
            .try_for_each_concurrent(CONCURRENCY, |batch| async move {
                let numbers = batch * self.batch..((batch + 1) * self.batch).min(self.puts);
                let client = &clients[batch as usize % clients.len()];
                self.send(client, numbers).await
            })
            .await?;
        Ok(start.elapsed())
    }

    async fn send(&self, client: &Client, numbers: std::ops::Range<u64>) -> anyhow::Result<()> {
        let count = numbers.end - numbers.start;
        let ops = numbers.map(|number| {
            Value::Map(vec![
                ("op".into(), "put".into()),
                ("key".into(), self.key(number % self.keys).into()),
                ("value".into(), Value::Binary(self.value(number))),
            ])
        });
        let mut body = Vec::new();
        rmpv::encode::write_value(&mut body, &Value::Map(vec![("operations".into(), Value::Array(ops.collect()))]))?;
        let body = bytes::Bytes::from(body);
        let mut last = String::new();
        for _ in 0..ATTEMPTS {
            // A failed batch may have been applied in part. A retry is safe because the values are the same.
            let request = client
                .request(Method::POST, "/v1/batch?timeout=20s")
                .header("content-type", "application/msgpack")
                .header("accept", "application/json")
                .body(body.clone());
            match Client::send(request).await {
                Ok(answer) if answer.status.is_success() => {
                    let results = answer.json()?;
                    let results = results["results"].as_array().context("a batch has results")?;
                    let done = results.iter().filter(|result| result["status"] == 200).count() as u64;
                    ensure!(done == count, "{done} of {count} operations were done: {answer}");
                    return Ok(());
                }
                Ok(answer) if answer.status.is_client_error() && answer.status != 429 => {
                    anyhow::bail!("a batch is refused: {answer}");
                }
                Ok(answer) => last = answer.to_string(),
                Err(error) => last = format!("{error:#}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
        anyhow::bail!("a batch failed {ATTEMPTS} times, last: {last}")
    }

    /// Checks that `client` serves the last value of every `step`th key.
    pub async fn check(&self, client: &Client, step: usize) -> anyhow::Result<()> {
        futures::stream::iter((0..self.keys.min(self.puts)).step_by(step))
            .map(|number| async move {
                // The last round over all keys may be incomplete.
                let rounds = (self.puts - 1 - number) / self.keys;
                let expected = self.value(number + rounds * self.keys);
                let answer = client.get(&self.key(number)).await?.success().context(self.key(number))?;
                ensure!(answer.body == expected, "{} has a wrong value", self.key(number));
                Ok(())
            })
            .buffer_unordered(16)
            .try_collect()
            .await
    }

    /// Total bytes of all values.
    pub fn bytes(&self) -> u64 {
        self.puts * self.value_bytes as u64
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number:08}", self.prefix)
    }

    /// Depends on the number only, so that a later check can compute the same value.
    fn value(&self, number: u64) -> Vec<u8> {
        // xorshift64*: fast, and incompressible like random data.
        let mut state = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut value = Vec::with_capacity(self.value_bytes + 8);
        while value.len() < self.value_bytes {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            value.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
        }
        value.truncate(self.value_bytes);
        value
    }
}
