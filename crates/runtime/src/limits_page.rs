//! [`Part`]: a part of `docs/reference/limits.md`, which tests of the crates compare with their constants.

use std::collections::BTreeMap;
use std::time::Duration;

/// Name and default of a limit, as the page has them.
pub type Row = (&'static str, String);

/// The tables under one heading of the page: cells by the name in the first one.
#[derive(Debug)]
pub struct Part<'a> {
    heading: &'a str,
    rows: BTreeMap<&'a str, Vec<&'a str>>,
}

impl<'a> Part<'a> {
    /// Reads the part of `page` under `heading`; the next heading of its level ends it.
    ///
    /// # Panics
    /// Where the page has no such heading, or a row that is not complete or stands twice.
    pub fn of(page: &'a str, heading: &'a str) -> Self {
        let (_, part) = page.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("no part {heading}"));
        let part = part.split("\n## ").next().unwrap_or_default();
        let is_row = |line: &&str| line.starts_with('|') && !line.starts_with("| ---") && !line.starts_with("| name |");
        let mut rows = BTreeMap::new();
        for line in part.lines().filter(is_row) {
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            assert_eq!(cells.len(), 4, "name, default, what the client gets, metrics: {line}");
            assert!(!cells[2].is_empty(), "what does the client get? {line}");
            assert!(rows.insert(cells[0], cells).is_none(), "it is there twice: {line}");
        }
        Self { heading, rows }
    }

    /// How the page differs from the limits of the code; nothing when it has each of them with its default, and no other.
    pub fn differences(&self, limits: &[Row]) -> Vec<String> {
        let Self { heading, rows } = self;
        let mut differences = Vec::new();
        for (name, default) in limits {
            match rows.get(name) {
                None => differences.push(format!("{heading}: `{name}` is missing, which is {default}")),
                Some(cells) if cells[1] != default => {
                    differences.push(format!("{heading}: `{name}` is {default} and not {}", cells[1]));
                }
                Some(_) => {}
            }
        }
        let unknown = rows.keys().filter(|name| limits.iter().all(|(known, _)| known != *name));
        differences.extend(unknown.map(|name| format!("{heading}: `{name}` is not in the code")));
        differences
    }

    /// Metrics, and values of their labels, that stand in the page and in none of the sources.
    pub fn unknown_metrics(&self, sources: &[&str]) -> Vec<String> {
        let mut unknown = Vec::new();
        for (name, cells) in &self.rows {
            for quoted in cells[3].split('`').skip(1).step_by(2) {
                let (metric, labels) = quoted.split_once('{').unwrap_or((quoted, ""));
                let label = labels.split('"').nth(1).unwrap_or_default();
                let is_there = |part: &&str| {
                    let quoted = format!("\"{part}\"");
                    part.is_empty() || sources.iter().any(|source| source.contains(&quoted))
                };
                let missing = [metric, label].into_iter().filter(|part| !is_there(part));
                unknown.extend(missing.map(|part| format!("{}: `{name}` has {part}", self.heading)));
            }
        }
        unknown
    }
}

/// A number, with its digits in groups.
pub fn count(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<_> = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy).collect();
    groups.join(",")
}

/// A size in the largest unit that it is a multiple of.
pub fn bytes(n: usize) -> String {
    match n {
        n if n >= 1 << 20 && n.is_multiple_of(1 << 20) => format!("{} MiB", n >> 20),
        n if n >= 1 << 10 && n.is_multiple_of(1 << 10) => format!("{} KiB", n >> 10),
        n => format!("{} B", count(n)),
    }
}

/// A speed.
pub fn speed(bytes_a_second: u64) -> String {
    format!("{}/s", bytes(usize::try_from(bytes_a_second).unwrap_or(usize::MAX)))
}

/// A time in the largest unit that it is a multiple of.
pub fn time(time: Duration) -> String {
    match time.as_millis() {
        ms if ms % 3_600_000 == 0 => format!("{} h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{} min", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{} s", ms / 1_000),
        ms => format!("{ms} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc;
    use crate::{file_limit, settings, telemetry};

    const PAGE: &str = include_str!("../../../docs/reference/limits.md");

    #[test]
    fn the_page_has_the_limits_of_all_grpc_ports() {
        let part = Part::of(PAGE, "gRPC ports");
        assert_eq!(part.differences(&grpc::limits()), [""; 0]);
        assert_eq!(part.unknown_metrics(&[include_str!("grpc/gate.rs")]), [""; 0]);
    }

    #[test]
    fn the_page_has_the_limits_of_processes() {
        let part = Part::of(PAGE, "Processes");
        let others = usize::try_from(file_limit::OTHER_FILES).unwrap();
        let open_files = format!("sidecar {}, others {}", count(file_limit::SIDECAR_FILES), count(others));
        let [new_name, name] = [settings::MAX_NEW_NAME_BYTES, settings::MAX_NAME_BYTES];
        let limits = [
            ("open files", open_files),
            ("log lines that wait", bytes(telemetry::QUEUE_BYTES)),
            ("name of a new node, group or router", bytes(new_name)),
            ("name in a setting", bytes(name)),
        ];
        assert_eq!(part.differences(&limits), [""; 0]);
        assert_eq!(part.unknown_metrics(&[include_str!("telemetry/writer.rs"), include_str!("metrics.rs")]), [""; 0]);
    }

    #[test]
    fn what_is_planted_is_found() {
        let page = "# Page\n\n## Port\n\n| name | default | client | metrics |\n| --- | --- | --- | --- |\n| a | 7 | x | `m_total{reason=\"r\"}` |\n\
                    | b | 1 KiB | x | |\n\n## Other\n\n| c | 1 | x | |\n";
        let part = Part::of(page, "Port");
        let right = [("a", count(7)), ("b", bytes(1024))];
        assert_eq!(part.differences(&right), [""; 0]);
        assert_eq!(part.differences(&[("a", count(8)), ("b", bytes(1024))]), ["Port: `a` is 8 and not 7"]);
        assert_eq!(part.differences(&right[..1]), ["Port: `b` is not in the code"]);
        assert_eq!(
            part.differences(&[("a", count(7)), ("b", bytes(1024)), ("d", time(Duration::from_secs(60)))]),
            ["Port: `d` is missing, which is 1 min"]
        );
        assert_eq!(part.unknown_metrics(&["counter!(\"m_total\", \"reason\" => \"r\")"]), [""; 0]);
        assert_eq!(part.unknown_metrics(&["counter!(\"m_total\")"]), ["Port: `a` has r"]);
    }

    #[test]
    fn defaults_are_written_for_people() {
        assert_eq!([count(7), count(1_000), count(1_234_567)], ["7", "1,000", "1,234,567"]);
        assert_eq!([bytes(255), bytes(1024), bytes(16 << 20), bytes(1025)], ["255 B", "1 KiB", "16 MiB", "1,025 B"]);
        let times = [250, 10_000, 60_000, 86_400_000].map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(times, ["250 ms", "10 s", "1 min", "24 h"]);
    }
}
