//! `raftkv bench`: a closed-loop load generator for RaftKV, and for etcd under the same load.
//!
//! Each client has one request under way at a time and sends the next when it has the answer. Latency is what such a
//! client sees; throughput is what all of them get done.

mod args;
mod compare;
mod etcd;
mod http;
mod operation;
mod preload;
mod report;
mod round;
mod tally;
mod target;
mod workload;

use crate::failure::Failure;
use crate::output;

pub(crate) use args::BenchArgs;

use report::Report;
use round::Round;
use target::Target;
use workload::{Keyspace, Workload};

/// Runs what the arguments ask for and prints the result.
pub(crate) async fn run(args: BenchArgs) -> Result<(), Failure> {
    args.check()?;
    let seed = args.seed.unwrap_or_else(rand::random);
    let keyspace = Keyspace::new(args.keys, args.value_size, args.distribution, seed)?;
    if args.compare {
        return compare::run(&args, &keyspace).await;
    }
    let target = Target::from_args(&args)?;
    let mut reports = Vec::new();
    for workload in &args.workload {
        let report = measure(&args, &target, *workload, &keyspace).await?;
        if !args.format.is_json() {
            output::line(&report)?;
        }
        reports.push(report);
    }
    if args.format.is_json() {
        output::line(serde_json::to_string(&reports).map_err(Failure::failed)?)?;
    }
    verdict(&reports)
}

/// One workload on one system: loads the keys that will be read, then measures.
async fn measure(
    args: &BenchArgs,
    target: &Target,
    workload: Workload,
    keyspace: &std::sync::Arc<Keyspace>,
) -> Result<Report, Failure> {
    if workload.reads() {
        preload::run(target, keyspace, args.clients, args.load_batch).await?;
    }
    let round = Round {
        workload,
        clients: args.clients,
        batch: args.batch,
        reads_percent: args.reads_percent,
        warmup: args.warmup.get(),
        duration: args.duration.get(),
    };
    let tally = round.run(target, keyspace).await?;
    Ok(Report::new(args, target.name(), workload, keyspace.seed(), &tally))
}

/// A benchmark that measured wrong answers, or none, has failed.
fn verdict<'a>(reports: impl IntoIterator<Item = &'a Report>) -> Result<(), Failure> {
    for report in reports {
        if report.wrong_answers() > 0 {
            return Err(Failure::failed(format!("{}: {} wrong answers", report.system, report.wrong_answers())));
        }
        if report.operations == 0 {
            return Err(Failure::unavailable(format!("{}: no operation succeeded", report.system)));
        }
    }
    Ok(())
}
