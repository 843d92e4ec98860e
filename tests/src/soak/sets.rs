//! Sets: keys changed by a single client, which therefore knows the expected content of lists.

use std::collections::HashMap;

use anyhow::ensure;
use rand::RngExt;
use rand::seq::SliceRandom;
use reqwest::{Method, StatusCode};

use super::registers::number_of;
use super::stats::Stats;
use super::work::{Member, Outcome, Seen, TIMEOUT, Worker};
use crate::client::encode_key;

/// Keys per set.
const KEYS: usize = 40;
/// Changes between two lists.
const CHANGES: usize = 6;

impl Worker {
    /// Puts, deletes and lists keys of a set.
    pub(super) async fn sets(mut self) -> anyhow::Result<Seen> {
        let prefix = format!("{}s{}/", self.shared.prefix, self.number);
        while self.goes_on() {
            let mut numbers: Vec<_> = (0..KEYS).collect();
            numbers.shuffle(&mut self.rng);
            for number in numbers.into_iter().take(CHANGES) {
                let key = format!("{prefix}{number:02}");
                self.change_member(&key).await?;
            }
            self.list_members(&prefix).await?;
        }
        Ok(self.seen)
    }

    async fn change_member(&mut self, key: &str) -> anyhow::Result<()> {
        let path = format!("/v1/kv/{}?{TIMEOUT}", encode_key(key));
        let value = if self.rng.random_bool(0.6) { Some(self.new_value()) } else { None };
        let request = |client: &crate::client::Client| match value {
            Some(value) => client.request(Method::PUT, &path).body(value.to_string()),
            None => client.request(Method::DELETE, &path),
        };
        // A change with unknown outcome may be applied at any time, so the state of the key stays unknown.
        if self.seen.set.get(key) == Some(&Member::Maybe) {
            return Ok(());
        }
        let (_, outcome) = self.ask(request).await?;
        let member = match (outcome, value) {
            (Outcome::Answer(answer), Some(value)) if answer.status == StatusCode::OK => Member::Is(value),
            (Outcome::Answer(answer), None) if matches!(answer.status, StatusCode::OK | StatusCode::NOT_FOUND) => {
                let was = self.seen.set.get(key).copied().unwrap_or(Member::IsNot);
                ensure!(
                    (answer.status == StatusCode::OK) == matches!(was, Member::Is(_)),
                    "VIOLATION: a delete of {key}, which was {was:?}, was answered {answer}"
                );
                Member::IsNot
            }
            (Outcome::Answer(answer), _) => anyhow::bail!("VIOLATION: a change of {key} was answered {answer}"),
            (Outcome::Refused, _) => return Ok(()),
            (Outcome::Unknown, _) => {
                Stats::add(&self.shared.stats.unknown, 1);
                Member::Maybe
            }
        };
        if member != Member::Maybe {
            self.succeeded(1);
        }
        self.seen.set.insert(key.to_owned(), member);
        Ok(())
    }

    async fn list_members(&mut self, prefix: &str) -> anyhow::Result<()> {
        let Some((_, entries)) = self.listed(prefix).await? else { return Ok(()) };
        let mut listed = HashMap::new();
        let mut before = String::new();
        for (key, value, _) in entries {
            ensure!(key > before, "VIOLATION: {key} is listed after {before}");
            before.clone_from(&key);
            listed.insert(key, number_of(&value)?);
        }
        check_members(&self.seen.set, prefix, &listed)?;
        Stats::add(&self.shared.stats.lists, 1);
        self.succeeded(1);
        Ok(())
    }
}

/// Fails unless the list matches the known keys; keys in an unknown state may be present or absent.
pub(super) fn check_members(
    set: &HashMap<String, Member>,
    prefix: &str,
    listed: &HashMap<String, u64>,
) -> anyhow::Result<()> {
    for (key, member) in set.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let found = listed.get(key);
        match member {
            Member::Is(value) => ensure!(
                found == Some(value),
                "VIOLATION: {key} was acknowledged as {value}, and is listed as {found:?}"
            ),
            Member::IsNot => ensure!(found.is_none(), "VIOLATION: {key} is not there, and is listed as {found:?}"),
            Member::Maybe => {}
        }
    }
    let odd = listed.keys().find(|key| key.starts_with(prefix) && !set.contains_key(*key));
    ensure!(odd.is_none(), "VIOLATION: no client wrote the listed key {odd:?}");
    Ok(())
}
