//! [`Report`]: a measurement, as it is printed.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::args::BenchArgs;
use super::operation::Trouble;
use super::tally::Tally;
use super::workload::{Distribution, Workload};
use crate::consistency::Consistency;
use crate::output::thousands;

/// What was measured, under which load.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) system: &'static str,
    pub(super) workload: Workload,
    clients: u32,
    value_size: usize,
    keys: u32,
    distribution: Distribution,
    consistency: Consistency,
    batch: u32,
    seed: u64,
    duration_seconds: f64,
    /// That succeeded; those of a batch count each.
    pub(super) operations: u64,
    pub(super) throughput: f64,
    pub(super) latency_us: Latency,
    pub(super) errors: BTreeMap<String, u64>,
    wrong_answers: u64,
}

/// Of requests that succeeded, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Latency {
    pub(super) mean: f64,
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) p999: u64,
    pub(super) max: u64,
}

impl Report {
    pub(super) fn new(args: &BenchArgs, system: &'static str, workload: Workload, seed: u64, tally: &Tally) -> Self {
        let wrong = |(trouble, count): (&Trouble, &u64)| if trouble.is_wrong() { *count } else { 0 };
        Self {
            system,
            workload,
            clients: args.clients,
            value_size: args.value_size,
            keys: args.keys,
            distribution: args.distribution,
            consistency: args.consistency,
            batch: args.batch,
            seed,
            duration_seconds: tally.duration.as_secs_f64(),
            operations: tally.operations(),
            throughput: tally.throughput(),
            latency_us: Latency {
                mean: tally.mean(),
                p50: tally.quantile(0.5),
                p99: tally.quantile(0.99),
                p999: tally.quantile(0.999),
                max: tally.max(),
            },
            errors: tally.troubles().iter().map(|(trouble, count)| (trouble.to_string(), *count)).collect(),
            wrong_answers: tally.troubles().iter().map(wrong).sum(),
        }
    }

    /// Answers that must not happen, whatever the load.
    pub(super) fn wrong_answers(&self) -> u64 {
        self.wrong_answers
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let latency = &self.latency_us;
        writeln!(
            f,
            "{} {}: {} clients, {} bytes, {} keys, seed {}",
            self.system,
            self.workload.name(),
            self.clients,
            self.value_size,
            thousands(self.keys.into()),
            self.seed
        )?;
        writeln!(f, "  throughput  {} ops/s", thousands(self.throughput as u64))?;
        writeln!(
            f,
            "  latency     p50 {}   p99 {}   p99.9 {}   max {}",
            millis(latency.p50),
            millis(latency.p99),
            millis(latency.p999),
            millis(latency.max)
        )?;
        write!(f, "  errors      ")?;
        if self.errors.is_empty() {
            return write!(f, "none");
        }
        let errors: Vec<_> = self.errors.iter().map(|(kind, count)| format!("{kind}: {}", thousands(*count))).collect();
        write!(f, "{}", errors.join(", "))
    }
}

/// Microseconds as milliseconds.
pub(super) fn millis(micros: u64) -> String {
    format!("{:.2} ms", micros as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    #[test]
    fn a_report_reads_well_and_counts_wrong_answers() {
        let args = Line::parse_from(["bench"]).args;
        let mut tally = Tally::new().expect("tally");
        tally.duration = Duration::from_secs(2);
        for _ in 0..3_000 {
            tally.succeeded(Duration::from_micros(1_500), 1);
        }
        tally.failed(Trouble::Http(503));
        tally.failed(Trouble::WrongValue);
        let report = Report::new(&args, "raftkv", Workload::Get, 7, &tally);
        assert_eq!(report.wrong_answers(), 1);
        let text = report.to_string();
        for part in ["1,500 ops/s", "p50 1.50 ms", "HTTP 503: 1", "wrong value: 1", "10,000 keys"] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let json = serde_json::to_value(&report).expect("json");
        assert_eq!(json["workload"], "get");
        assert_eq!(json["errors"]["HTTP 503"], 1);
        assert_eq!(json["latency_us"]["p50"].as_u64().map(|p50| p50.abs_diff(1_500) <= 1), Some(true));
    }
}
