//! [`Outcome`]: the result of a soak.

use std::fmt;

use anyhow::{Context, ensure};
use serde::Serialize;

use super::plan::Plan;
use super::stats::Stats;

/// Report file, as JSON.
const FILE: &str = "RAFTKV_SOAK_REPORT";

/// The summary of a soak.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// Seed to replay the soak.
    pub seed: String,
    /// Duration since the start of the first store.
    pub seconds: u64,
    /// Number of stores started, each after the end of the previous store.
    pub stores: u64,
    /// Number of completed episodes of faults and checks.
    pub episodes: u64,
    /// Number of answered HTTP requests.
    pub requests: u64,
    /// Number of operations with known outcome.
    pub operations_succeeded: u64,
    /// Number of operations in linearizable histories, including operations with unknown outcome.
    pub operations_checked: u64,
    /// Checked operations per second of the total duration.
    pub checked_per_second: u64,
    /// Changes with unknown outcome.
    pub unknown: u64,
    /// Requests refused without effect.
    pub refused: u64,
    /// Acknowledged counter increments, each applied exactly once.
    pub adds: u64,
    /// Acknowledged appends, each found exactly once.
    pub appends: u64,
    /// Lists compared key by key with the knowledge of the only writer.
    pub lists: u64,
    /// Pairs of replicas with equal state hashes.
    pub replica_hashes_compared: u64,
    /// Number of checks for slots with two owners, without finding any.
    pub owner_checks: u64,
    /// Longest time without a write in a group, in milliseconds.
    pub longest_write_gap_ms: u64,
    /// The faults during the longest write gap.
    pub longest_write_gap_in: String,
    /// Longest time from the end of the faults until every group accepted writes from every client, in milliseconds.
    pub longest_recovery_ms: u64,
    /// The faults before the longest recovery.
    pub longest_recovery_in: String,
    /// Percentage of time spent in checks.
    pub checking_percent: f64,
    /// Kinds of fault, with planned and fired counts.
    pub faults: Vec<FaultCount>,
    /// Kinds not possible on this machine, with the reason.
    pub left_out: Vec<(String, String)>,
    /// Violations; a soak ends with the first.
    pub violations: Vec<String>,
    /// Reasons to reject the run in the absence of violations.
    pub uncovered: Vec<String>,
}

/// Counts of a kind of fault.
#[derive(Debug, Clone, Serialize)]
pub struct FaultCount {
    /// Name of the kind.
    pub kind: String,
    /// Number of planned faults.
    pub planned: u64,
    /// Number of faults with observed effect.
    pub fired: u64,
}

impl Outcome {
    pub(super) fn of(plan: &Plan, stats: &Stats, stores: u64, episodes: u64, error: Option<&anyhow::Error>) -> Self {
        let elapsed = stats.start.elapsed();
        let [gap, recovery] = stats.longest();
        let kinds = stats.kinds();
        let faults: Vec<_> = kinds
            .iter()
            .map(|(kind, planned, fired)| FaultCount { kind: kind.to_string(), planned: *planned, fired: *fired })
            .collect();
        let (mut violations, mut uncovered) = (Vec::new(), Vec::new());
        if let Some(error) = error {
            let text = format!("{error:#}");
            if text.contains("VIOLATION") { &mut violations } else { &mut uncovered }.push(text);
        }
        for count in faults.iter().filter(|count| count.fired < count.planned) {
            uncovered.push(format!("{} was planned {} times and fired {}", count.kind, count.planned, count.fired));
        }
        let (succeeded, least) = (Stats::get(&stats.succeeded), plan.min_operations(elapsed));
        if succeeded < least {
            uncovered.push(format!("{succeeded} operations succeeded; in {elapsed:.0?} it should be {least}"));
        }
        if plan.is_complete() {
            let missing = plan.kinds.iter().filter(|kind| kinds.iter().all(|(known, ..)| known != *kind));
            uncovered.extend(missing.map(|kind| format!("{kind} never came")));
        }
        let checked = Stats::get(&stats.checked);
        Self {
            seed: plan.seed.to_string(),
            seconds: elapsed.as_secs(),
            stores,
            episodes,
            requests: Stats::get(&stats.requests),
            operations_succeeded: succeeded,
            operations_checked: checked,
            checked_per_second: (checked as f64 / elapsed.as_secs_f64()) as u64,
            unknown: Stats::get(&stats.unknown),
            refused: Stats::get(&stats.refused),
            adds: Stats::get(&stats.adds),
            appends: Stats::get(&stats.appended),
            lists: Stats::get(&stats.lists),
            replica_hashes_compared: Stats::get(&stats.hashes),
            owner_checks: Stats::get(&stats.owners),
            longest_write_gap_ms: gap.0.as_millis() as u64,
            longest_write_gap_in: gap.1,
            longest_recovery_ms: recovery.0.as_millis() as u64,
            longest_recovery_in: recovery.1,
            checking_percent: Stats::get(&stats.checking_us) as f64 / elapsed.as_micros() as f64 * 100.0,
            faults,
            left_out: plan.left_out.iter().map(|(kind, why)| (kind.to_string(), why.clone())).collect(),
            violations,
            uncovered,
        }
    }

    /// Number of fired faults.
    pub fn fired(&self) -> u64 {
        self.faults.iter().map(|count| count.fired).sum()
    }

    /// Writes the report to the file named in the environment, if any.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        let Some(file) = std::env::var_os(FILE) else { return Ok(()) };
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(&file, text + "\n").with_context(|| format!("write {}", file.display()))
    }

    /// Fails unless the soak has no violations and full coverage.
    pub fn verdict(&self) -> anyhow::Result<()> {
        ensure!(self.violations.is_empty(), "{}", self.violations.join("\n"));
        ensure!(
            self.uncovered.is_empty(),
            "nothing wrong was seen, but it does not count: {}",
            self.uncovered.join("; ")
        );
        Ok(())
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |f: &mut fmt::Formatter<'_>, name: &str, value: String| writeln!(f, "  {name:<38} {value}");
        writeln!(f, "soak: summary")?;
        row(f, "seed", self.seed.clone())?;
        row(f, "time", format!("{} s, {} stores, {} episodes", self.seconds, self.stores, self.episodes))?;
        row(f, "operations checked", format!("{}, {} a second", self.operations_checked, self.checked_per_second))?;
        row(f, "operations succeeded", self.operations_succeeded.to_string())?;
        row(f, "requests answered", self.requests.to_string())?;
        row(f, "of unknown outcome, refused", format!("{}, {}", self.unknown, self.refused))?;
        row(f, "adds and appends, each there once", format!("{}, {}", self.adds, self.appends))?;
        row(f, "lists compared key by key", self.lists.to_string())?;
        row(f, "pairs of replicas with equal hashes", self.replica_hashes_compared.to_string())?;
        row(f, "moments with one owner per slot", self.owner_checks.to_string())?;
        row(f, "time spent in checks", format!("{:.0} %", self.checking_percent))?;
        row(f, "longest write gap", format!("{} ms, in {}", self.longest_write_gap_ms, self.longest_write_gap_in))?;
        row(f, "longest recovery", format!("{} ms, after {}", self.longest_recovery_ms, self.longest_recovery_in))?;
        row(f, "faults fired", format!("{} of {} kinds", self.fired(), self.faults.len()))?;
        for count in &self.faults {
            row(f, &format!("  {}", count.kind), count.fired.to_string())?;
        }
        for (kind, why) in &self.left_out {
            row(f, &format!("  {kind}"), format!("LEFT OUT: {why}"))?;
        }
        row(f, "violations", self.violations.len().to_string())?;
        for what in self.violations.iter().chain(&self.uncovered) {
            writeln!(f, "  {what}")?;
        }
        Ok(())
    }
}
