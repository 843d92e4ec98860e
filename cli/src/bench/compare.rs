//! RaftKV and etcd under the same load, side by side.

use std::sync::Arc;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::args::BenchArgs;
use super::report::{Report, millis};
use super::target::Target;
use super::workload::{Keyspace, Workload};
use super::{measure, verdict};
use crate::failure::Failure;
use crate::output::{self, thousands};

/// Between two measurements: the system that rests now must not be finishing its work in the other's time.
const SETTLE: Duration = Duration::from_secs(1);

/// Medians of a workload's rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Medians {
    throughput: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
}

/// A workload on both systems.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Comparison {
    workload: Workload,
    raftkv: Medians,
    etcd: Medians,
    /// RaftKV's throughput by etcd's: above 1, RaftKV does more.
    throughput_ratio: f64,
    /// RaftKV's latency by etcd's: below 1, RaftKV answers sooner.
    p50_ratio: f64,
    p99_ratio: f64,
    p999_ratio: f64,
}

#[derive(Debug, Serialize)]
struct Outcome<'a> {
    summary: &'a [Comparison],
    rounds: &'a [Report],
}

/// Alternating rounds, so that whatever else the machine does meets both.
pub(super) async fn run(args: &BenchArgs, keyspace: &Arc<Keyspace>) -> Result<(), Failure> {
    let Some(etcd) = &args.etcd else {
        return Err(Failure::usage("--compare needs --etcd"));
    };
    let targets = [Target::raftkv(args), Target::etcd(args, etcd)?];
    let (mut rounds, mut summary) = (Vec::new(), Vec::new());
    for workload in &args.workload {
        let first = rounds.len();
        for round in 0..args.rounds as usize {
            // The one that goes first has the cooler machine: take turns at that, too.
            for turn in 0..targets.len() {
                let report = measure(args, &targets[(round + turn) % targets.len()], *workload, keyspace).await?;
                if !args.format.is_json() {
                    output::line(format!("round {}: {report}", round + 1))?;
                }
                rounds.push(report);
                tokio::time::sleep(SETTLE).await;
            }
        }
        summary.push(Comparison::of(*workload, &rounds[first..]));
    }
    if args.format.is_json() {
        let outcome = Outcome { summary: &summary, rounds: &rounds };
        output::line(serde_json::to_string(&outcome).map_err(Failure::failed)?)?;
    } else {
        output::line(format!("\nMedians of {} rounds:\n{}", args.rounds, table(&summary)))?;
    }
    verdict(&rounds)
}

impl Comparison {
    fn of(workload: Workload, rounds: &[Report]) -> Self {
        let raftkv = Medians::of(rounds.iter().filter(|report| report.system == "raftkv"));
        let etcd = Medians::of(rounds.iter().filter(|report| report.system == "etcd"));
        Self {
            workload,
            raftkv,
            etcd,
            throughput_ratio: ratio(raftkv.throughput, etcd.throughput),
            p50_ratio: ratio(raftkv.p50_us, etcd.p50_us),
            p99_ratio: ratio(raftkv.p99_us, etcd.p99_us),
            p999_ratio: ratio(raftkv.p999_us, etcd.p999_us),
        }
    }
}

impl Medians {
    fn of<'a>(rounds: impl Iterator<Item = &'a Report> + Clone) -> Self {
        Self {
            throughput: median(rounds.clone().map(|report| report.throughput)),
            p50_us: median(rounds.clone().map(|report| report.latency_us.p50 as f64)),
            p99_us: median(rounds.clone().map(|report| report.latency_us.p99 as f64)),
            p999_us: median(rounds.map(|report| report.latency_us.p999 as f64)),
        }
    }
}

/// The middle one, or the mean of the middle two; 0 of nothing.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.as_slice() {
        [] => 0.0,
        values if values.len() % 2 == 1 => values[middle],
        values => f64::midpoint(values[middle - 1], values[middle]),
    }
}

fn ratio(ours: f64, theirs: f64) -> f64 {
    if theirs > 0.0 { ours / theirs } else { 0.0 }
}

fn table(summary: &[Comparison]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_header(["workload", "", "raftkv", "etcd", "raftkv / etcd"]);
    for comparison in summary {
        let (ours, theirs) = (comparison.raftkv, comparison.etcd);
        let workload = comparison.workload.name().to_owned();
        table.add_row([
            workload,
            "ops/s".to_owned(),
            thousands(ours.throughput as u64),
            thousands(theirs.throughput as u64),
            format!("{:.2}", comparison.throughput_ratio),
        ]);
        for (name, ours, theirs, ratio) in [
            ("p50", ours.p50_us, theirs.p50_us, comparison.p50_ratio),
            ("p99", ours.p99_us, theirs.p99_us, comparison.p99_ratio),
            ("p99.9", ours.p999_us, theirs.p999_us, comparison.p999_ratio),
        ] {
            let cells =
                [String::new(), name.to_owned(), millis(ours as u64), millis(theirs as u64), format!("{ratio:.2}")];
            table.add_row(cells);
        }
    }
    for column in 2..5 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_rounds() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert_eq!(median(std::iter::empty()), 0.0);
    }

    #[test]
    fn the_table_shows_both_and_the_ratio() {
        let ours = Medians { throughput: 20_000.0, p50_us: 1_000.0, p99_us: 2_000.0, p999_us: 3_000.0 };
        let theirs = Medians { throughput: 8_000.0, p50_us: 4_000.0, p99_us: 4_000.0, p999_us: 4_000.0 };
        let comparison = Comparison {
            workload: Workload::Put,
            raftkv: ours,
            etcd: theirs,
            throughput_ratio: ratio(ours.throughput, theirs.throughput),
            p50_ratio: ratio(ours.p50_us, theirs.p50_us),
            p99_ratio: 0.5,
            p999_ratio: 0.75,
        };
        let text = table(&[comparison]).to_string();
        for part in ["20,000", "8,000", "2.50", "0.25", "1.00 ms"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
