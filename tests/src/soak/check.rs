//! Checks after an episode.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, ensure};

use super::chains::last_of;
use super::key_log::KeyLog;
use super::registers::number_of;
use super::sets::check_members;
use super::stats::Stats;
use super::store::Store;
use super::work::Seen;
use crate::client::Client;
use crate::contents::Contents;

/// Threads that check histories.
const THREADS: usize = 2;
/// Time limit for the histories of an episode: low concurrency makes the checks fast; exponential time indicates a bad soak.
const CHECK_PATIENCE: Duration = Duration::from_secs(120);
/// Time limit for the replicas to reach the same position without writes.
const EQUAL_PATIENCE: Duration = Duration::from_secs(60);

/// Entries that must not change between episodes: the value and the revision of each key.
pub(super) type Expected = BTreeMap<String, (serde_json::Value, u64)>;

/// Checks all client observations of an episode against the final state.
pub(super) async fn episode(
    store: &Store,
    prefix: &str,
    mut seen: Seen,
    expected: &mut Expected,
    stats: &Stats,
) -> anyhow::Result<()> {
    let start = Instant::now();
    let clients = store.direct();
    let begin = Instant::now();
    let contents = Contents::read(&clients[0], prefix, "linearizable").await.context("read what is there")?;
    let end = Instant::now();
    let now: Expected = contents
        .entries
        .iter()
        .map(|(key, entry)| (key.clone(), (entry.value.clone().unwrap_or_default(), entry.revision)))
        .collect();

    let texts = |key: &str| -> String {
        let value = now.get(key).map(|(value, _)| value.clone()).unwrap_or_default();
        value.as_str().map(str::to_owned).unwrap_or_default()
    };
    appended(&seen, texts)?;
    counted(&seen, texts)?;
    members(&seen, &now)?;
    // The final read of each key: an acknowledged value is present, or was replaced by another acknowledged value.
    for (key, log) in &mut seen.logs {
        let found = match now.get(key) {
            Some((value, revision)) => Some((last_number(value)?, *revision)),
            None => None,
        };
        log.read(found, begin, end);
    }
    let odd = now.keys().find(|key| !seen.logs.contains_key(*key) && !seen.set.contains_key(*key));
    ensure!(odd.is_none(), "VIOLATION: no client wrote the existing key {odd:?}");
    let operations: usize = seen.logs.values().map(KeyLog::len).sum();
    linearizable(seen.logs, &store.dir()).await?;
    Stats::add(&stats.checked, operations);

    let compared = store.hashes_agree(EQUAL_PATIENCE).await?;
    stats.hashes.fetch_add(compared, std::sync::atomic::Ordering::Relaxed);
    if let Some(shards) = store.shards() {
        // Each key is in exactly one group, which serves the key's slot; each slot is served once.
        shards.spread().await.context("how keys are spread over the groups")?;
    }
    expected.extend(now);
    let spent = start.elapsed().as_micros() as u64;
    stats.checking_us.fetch_add(spent, std::sync::atomic::Ordering::Relaxed);
    Ok(())
}

/// Checks through every node or router that no entry of an earlier episode has changed.
pub(super) async fn everything(store: &Store, expected: &Expected) -> anyhow::Result<()> {
    let mut sources: Vec<(Client, &str)> = store.direct().into_iter().map(|client| (client, "linearizable")).collect();
    if store.shards().is_none() {
        store.groups()[0].converged().await.context("what the nodes serve")?;
        sources.extend(store.direct().into_iter().map(|client| (client, "stale")));
    }
    for (client, consistency) in sources {
        let contents = Contents::read(&client, "e", consistency).await?;
        for (key, (value, revision)) in expected {
            let found =
                contents.entries.get(key).map(|entry| (entry.value.clone().unwrap_or_default(), entry.revision));
            let before = (value.clone(), *revision);
            ensure!(
                found.as_ref() == Some(&before),
                "VIOLATION: {key} was {before:?}, and without a write is {found:?}"
            );
        }
        let odd = contents.entries.keys().find(|key| !expected.contains_key(*key));
        ensure!(odd.is_none(), "VIOLATION: no client wrote the new key {odd:?}");
    }
    Ok(())
}

fn last_number(value: &serde_json::Value) -> anyhow::Result<u64> {
    match value.as_str() {
        Some(text) => last_of(text)?.with_context(|| format!("{text:?} holds no number")),
        None => number_of(value),
    }
}

/// Checks that a list contains each acknowledged element once and no refused element, and that lists only grew.
fn appended(seen: &Seen, text_of: impl Fn(&str) -> String) -> anyhow::Result<()> {
    let mut counts: HashMap<&str, HashMap<u64, u32>> = HashMap::new();
    let lists = seen
        .appended
        .iter()
        .chain(&seen.not_appended)
        .map(|(key, _)| key.as_str())
        .chain(seen.texts.keys().map(String::as_str));
    for key in lists {
        if counts.contains_key(key) {
            continue;
        }
        let text = text_of(key);
        if let Some(before) = seen.texts.get(key) {
            ensure!(text.starts_with(before.as_str()), "VIOLATION: {key} was {before:?}, and is {text:?}");
        }
        let mut elements: HashMap<u64, u32> = HashMap::new();
        for element in text.split(',').filter(|element| !element.is_empty()) {
            *elements.entry(element.parse()?).or_default() += 1;
        }
        counts.insert(key, elements);
    }
    for (key, element) in &seen.appended {
        let found = counts[key.as_str()].get(element).copied().unwrap_or_default();
        ensure!(found == 1, "VIOLATION: {element} was appended to {key}, and is there {found} times");
    }
    for (key, element) in &seen.not_appended {
        let is_there = counts[key.as_str()].contains_key(element);
        ensure!(!is_there, "VIOLATION: {element} was refused by {key}, and is there");
    }
    Ok(())
}

/// Checks that each counter equals the number of acknowledged increments.
fn counted(seen: &Seen, text_of: impl Fn(&str) -> String) -> anyhow::Result<()> {
    for (key, adds) in &seen.adds {
        let now = last_of(&text_of(key))?.unwrap_or_default();
        ensure!(now == *adds, "VIOLATION: {adds} adds to {key} were acknowledged, and it is {now}");
    }
    Ok(())
}

fn members(seen: &Seen, now: &Expected) -> anyhow::Result<()> {
    let listed: HashMap<_, _> = now
        .iter()
        .filter(|(key, _)| seen.set.contains_key(*key))
        .map(|(key, (value, _))| Ok((key.clone(), number_of(value)?)))
        .collect::<anyhow::Result<_>>()?;
    check_members(&seen.set, "", &listed)
}

async fn linearizable(logs: HashMap<String, KeyLog>, dir: &Path) -> anyhow::Result<()> {
    let mut shares: Vec<Vec<(String, KeyLog)>> = vec![Vec::new(); THREADS];
    for (number, log) in logs.into_iter().enumerate() {
        shares[number % THREADS].push(log);
    }
    let checks = shares.into_iter().map(|share| {
        tokio::task::spawn_blocking(move || {
            share.into_iter().try_for_each(|(key, log)| log.check().map_err(|wrong| (key, wrong)))
        })
    });
    let checked = tokio::time::timeout(CHECK_PATIENCE, futures::future::try_join_all(checks))
        .await
        .map_err(|_| anyhow!("the checker takes longer than {CHECK_PATIENCE:?}"))??;
    if let Some((key, (why, log))) = checked.into_iter().find_map(Result::err) {
        let file = dir.join("history.txt");
        std::fs::write(&file, format!("{key}: {why}\n{log:#?}\n")).context("keep a history")?;
        return Err(anyhow!("VIOLATION: {key}: {why}; its history is in {}", file.display()));
    }
    Ok(())
}
