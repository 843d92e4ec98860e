//! Prometheus metrics: the recorder behind the `metrics` macros, rendered on request. No listener of its own.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};

/// How often recorded samples are folded into their histograms, so that memory stays small when nobody scrapes.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Of histograms named `*_seconds`: from a memory access to a lost quorum.
const SECONDS_BUCKETS: &[f64] =
    &[0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Of every other histogram (batch sizes, bytes): powers of four.
const SIZE_BUCKETS: &[f64] = &[
    1.0,
    4.0,
    16.0,
    64.0,
    256.0,
    1_024.0,
    4_096.0,
    16_384.0,
    65_536.0,
    262_144.0,
    1_048_576.0,
    4_194_304.0,
    16_777_216.0,
];

/// The value of a gauge whose value is not known: its series is not rendered, and comes back with its next value.
///
/// A gauge that keeps its last value, or falls to zero, reads as if that were the case now.
pub const UNKNOWN: f64 = f64::NAN;

static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    handle: PrometheusHandle,
    since: Instant,
}

/// Why metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The recorder was refused, most likely because there is one already.
    #[error("install the metrics recorder: {0}")]
    Install(#[from] BuildError),
    /// No thread for the upkeep.
    #[error("start the metrics upkeep thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// Makes the `metrics` macros of this process count. Call once, in `main`; more calls change nothing.
pub fn install() -> Result<(), MetricsError> {
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets(SIZE_BUCKETS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS_BUCKETS)?
        .install_recorder()?;
    crate::telemetry::publish_lost();
    let upkeep = handle.clone();
    // A thread and not a task: metrics are installed before there is a runtime, and outlive it.
    std::thread::Builder::new().name("metrics-upkeep".to_owned()).spawn(move || {
        loop {
            std::thread::sleep(UPKEEP_INTERVAL);
            upkeep.run_upkeep();
        }
    })?;
    let _ = INSTALLED.set(Installed { handle, since: Instant::now() });
    describe_process();
    Ok(())
}

/// Everything counted so far, in Prometheus' text format. Empty before [`install`].
pub fn render() -> String {
    let Some(installed) = INSTALLED.get() else {
        return String::new();
    };
    record_process(installed.since);
    without_unknown(&installed.handle.render())
}

/// Leaves out the series that are [`UNKNOWN`], and what is said of a metric that has no other.
fn without_unknown(text: &str) -> String {
    let mut known = String::with_capacity(text.len());
    let mut about = String::new();
    for line in text.lines() {
        if line.starts_with('#') {
            // A metric begins with its help, where there is one, and its type.
            if line.starts_with("# HELP") || !about.starts_with("# HELP") {
                about.clear();
            }
            about.push_str(line);
            about.push('\n');
        } else if !line.ends_with(" NaN") && !line.is_empty() {
            known.push_str(&std::mem::take(&mut about));
            known.push_str(line);
            known.push('\n');
        } else if line.is_empty() {
            about.clear();
        }
    }
    known
}

fn describe_process() {
    metrics::describe_gauge!("process_start_time_seconds", "Start of the process since the Unix epoch.");
    metrics::describe_gauge!("process_uptime_seconds", "Age of the process.");
    metrics::describe_gauge!("process_resident_memory_bytes", "Resident memory.");
    metrics::describe_gauge!("process_open_fds", "Open file descriptors.");
    if let Ok(now) = SystemTime::now().duration_since(UNIX_EPOCH) {
        metrics::gauge!("process_start_time_seconds").set(now.as_secs_f64());
    }
}

fn record_process(since: Instant) {
    metrics::gauge!("process_uptime_seconds").set(since.elapsed().as_secs_f64());
    if let Some(bytes) = resident_memory_bytes() {
        metrics::gauge!("process_resident_memory_bytes").set(bytes as f64);
    }
    if let Ok(descriptors) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(descriptors.count() as f64);
    }
}

/// Resident memory of this process; `None` where the system does not tell.
pub fn resident_memory_bytes() -> Option<u64> {
    resident_from_status(&std::fs::read_to_string("/proc/self/status").ok()?)
}

fn resident_from_status(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    kib.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_from_the_status_file() {
        assert_eq!(resident_from_status("Name:\tx\nVmRSS:\t    1234 kB\nVmData:\t 1 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_from_status("Name:\tx\n"), None);
        assert_eq!(resident_from_status("VmRSS: many kB"), None);
    }

    #[test]
    fn a_gauge_that_is_not_known_has_no_series_until_it_is() {
        let text = "# HELP lag Entries.\n# TYPE lag gauge\nlag{member=\"a\"} NaN\nlag{member=\"b\"} 3\n\n# HELP age Seconds.\n\
                    # TYPE age gauge\nage NaN\n\n# TYPE puts counter\nputs 7\n";
        let expected = "# HELP lag Entries.\n# TYPE lag gauge\nlag{member=\"b\"} 3\n# TYPE puts counter\nputs 7\n";
        assert_eq!(without_unknown(text), expected);

        install().expect("install");
        metrics::gauge!("test_age_seconds").set(2.0);
        assert!(render().contains("test_age_seconds 2"));
        metrics::gauge!("test_age_seconds").set(UNKNOWN);
        assert!(!render().contains("test_age_seconds"), "{}", render());
        metrics::gauge!("test_age_seconds").set(3.0);
        assert!(render().contains("test_age_seconds 3"));
    }

    #[test]
    fn counters_histograms_and_the_process_are_rendered() {
        install().expect("install");
        install().expect("again");
        metrics::counter!("test_requests_total", "kind" => "put").increment(3);
        metrics::histogram!("test_wait_seconds").record(0.002);
        metrics::histogram!("test_batch_ops").record(10.0);
        let text = render();
        assert!(text.contains("test_requests_total{kind=\"put\"} 3"), "{text}");
        assert!(text.contains("test_wait_seconds_bucket{le=\"0.0025\"} 1"), "{text}");
        assert!(text.contains("test_batch_ops_bucket{le=\"16\"} 1"), "{text}");
        assert!(text.contains("process_uptime_seconds"), "{text}");
    }
}
