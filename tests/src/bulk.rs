//! [`BulkLoad`]: much data in few requests.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::{StreamExt, TryStreamExt};
use reqwest::Method;
use rmpv::Value;

use crate::client::Client;

/// Batches under way at once: enough to keep a group busy, few enough to bound memory.
const CONCURRENCY: usize = 6;
/// A batch is tried again this often: while a leader is being elected, or the node asks for patience.
const ATTEMPTS: u32 = 200;
/// Between attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// Puts in batches over `/v1/batch`, as MsgPack.
#[derive(Debug, Clone)]
pub struct BulkLoad {
    /// How many puts.
    pub puts: u64,
    /// Over how many keys; more puts than keys overwrite.
    pub keys: u64,
    /// Size of each value; its bytes are of no use to a compressor.
    pub value_bytes: usize,
    /// Puts per batch.
    pub batch: u64,
    /// What keys begin with.
    pub prefix: String,
}

impl BulkLoad {
    /// Makes all puts, spread over `clients`. Returns how long it took.
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
            // Which puts of a batch were applied before it failed does not matter: the same values are put again.
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

    /// The last value of every key is served by `client`, checked for every `step`th key.
    pub async fn check(&self, client: &Client, step: usize) -> anyhow::Result<()> {
        futures::stream::iter((0..self.keys.min(self.puts)).step_by(step))
            .map(|number| async move {
                // The last round over all keys may have ended early.
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

    /// Bytes put in all.
    pub fn bytes(&self) -> u64 {
        self.puts * self.value_bytes as u64
    }

    fn key(&self, number: u64) -> String {
        format!("{}{number:08}", self.prefix)
    }

    /// Follows from the number alone, so that it can be checked later.
    fn value(&self, number: u64) -> Vec<u8> {
        // xorshift64*: as good as random to a compressor, and fast.
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
