//! `xtask/exceptions.toml`: known violations.
//!
//! The list can only shrink: a file with fewer violations than the list allows fails as well, until the count is
//! lowered.

use std::collections::BTreeMap;
use std::fmt::Write;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::report::Violation;

/// The file.
pub(crate) const FILE: &str = "xtask/exceptions.toml";

const HEAD: &str = "\
# Known violations of the house rules: rule, file, count, reason. The list can only shrink. `make verify` fails when a
# file has more violations than its entry allows, and when the file has fewer: then
# `cargo run -p xtask -- tidy --shrink` lowers the counts and removes entries that are no longer needed. New code gets
# no entry.
";

/// What one file may have of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Exception {
    count: usize,
    reason: String,
}

/// Rule, file, exception.
pub(crate) type Exceptions = BTreeMap<String, BTreeMap<String, Exception>>;

/// Reads the file.
pub(crate) fn parse(text: &str) -> Result<Exceptions> {
    toml::from_str(text).context(FILE)
}

/// Compares the violations with the exceptions: the messages to print, none when all is well.
pub(crate) fn failures(violations: &[Violation], exceptions: &Exceptions) -> Vec<String> {
    let found = by_file(violations);
    let mut failures = Vec::new();
    for ((rule, file), list) in &found {
        let amount = sum(list);
        let exception = exceptions.get(*rule).and_then(|files| files.get(*file));
        let allowed = exception.map_or(0, |exception| exception.count);
        if amount > allowed {
            failures.extend(list.iter().map(|violation| violation.to_string()));
            if allowed > 0 {
                failures.push(format!("{file}: {amount} in all, and {FILE} allows {allowed} [{rule}]"));
            }
        }
    }
    for (rule, files) in exceptions {
        for (file, exception) in files {
            let amount = found.get(&(rule.as_str(), file.as_str())).map_or(0, |list| sum(list));
            if amount < exception.count {
                let allowed = exception.count;
                failures.push(format!(
                    "{FILE}: {file} has {amount}, not {allowed}: lower the count with --shrink [{rule}]"
                ));
            }
            if exception.reason.trim().is_empty() {
                failures.push(format!("{FILE}: {file} has no reason [{rule}]"));
            }
        }
    }
    failures
}

/// Lowers the counts to today's, and removes entries that are no longer needed.
pub(crate) fn shrink(violations: &[Violation], exceptions: &mut Exceptions) {
    let found = by_file(violations);
    for (rule, files) in exceptions.iter_mut() {
        files.retain(|file, exception| {
            let amount = found.get(&(rule.as_str(), file.as_str())).map_or(0, |list| sum(list));
            exception.count = exception.count.min(amount);
            exception.count > 0
        });
    }
    exceptions.retain(|_, files| !files.is_empty());
}

/// Adds all violations that have no exception, with `reason`.
pub(crate) fn accept(violations: &[Violation], exceptions: &mut Exceptions, reason: &str) {
    for ((rule, file), list) in by_file(violations) {
        let files = exceptions.entry(rule.to_owned()).or_default();
        let exception =
            files.entry(file.to_owned()).or_insert_with(|| Exception { count: 0, reason: reason.to_owned() });
        exception.count = exception.count.max(sum(&list));
    }
}

/// The text of the file.
pub(crate) fn write(exceptions: &Exceptions) -> String {
    let mut text = HEAD.to_owned();
    for (rule, files) in exceptions {
        _ = writeln!(text, "\n[{rule}]");
        for (file, Exception { count, reason }) in files {
            let reason = toml::Value::from(reason.as_str());
            _ = writeln!(text, "\"{file}\" = {{ count = {count}, reason = {reason} }}");
        }
    }
    text
}

fn by_file(violations: &[Violation]) -> BTreeMap<(&str, &str), Vec<&Violation>> {
    let mut found: BTreeMap<(&str, &str), Vec<&Violation>> = BTreeMap::new();
    for violation in violations {
        found.entry((violation.rule, &violation.file)).or_default().push(violation);
    }
    found
}

fn sum(violations: &[&Violation]) -> usize {
    violations.iter().map(|violation| violation.amount).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn violations(count: usize) -> Vec<Violation> {
        (0..count).map(|index| Violation::new("word", "a.md", index + 1, "no")).collect()
    }

    fn exceptions(count: usize) -> Exceptions {
        parse(&format!("[word]\n\"a.md\" = {{ count = {count}, reason = \"old \\\"page\\\"\" }}\n")).unwrap()
    }

    #[test]
    fn the_count_has_to_be_exact() {
        assert!(failures(&violations(2), &exceptions(2)).is_empty());
        assert_eq!(failures(&violations(3), &exceptions(2)).len(), 4);
        assert_eq!(failures(&violations(1), &exceptions(2)).len(), 1);
        assert_eq!(failures(&[], &exceptions(2)).len(), 1);
        assert_eq!(failures(&violations(1), &Exceptions::new()).len(), 1);
    }

    #[test]
    fn a_reason_is_needed() {
        let exceptions = parse("[word]\n\"a.md\" = { count = 1, reason = \" \" }\n").unwrap();
        assert_eq!(failures(&violations(1), &exceptions).len(), 1);
        assert!(parse("[word]\n\"a.md\" = { count = 1 }\n").is_err());
    }

    #[test]
    fn shrinking_never_adds() {
        let mut list = exceptions(2);
        shrink(&violations(3), &mut list);
        assert_eq!(list, exceptions(2));
        shrink(&violations(1), &mut list);
        assert_eq!(list, exceptions(1));
        shrink(&[], &mut list);
        assert!(list.is_empty());
    }

    #[test]
    fn accepting_adds_and_the_file_can_be_read_again() {
        let mut list = Exceptions::new();
        accept(&violations(2), &mut list, "old \"page\"");
        assert_eq!(list, exceptions(2));
        assert_eq!(parse(&write(&list)).unwrap(), list);
    }
}
