//! The allowed edges of rule 1 in `xtask/edges.toml`, and the figures of `xtask imports`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use anyhow::{Context, Result};

use crate::imports::{Edges, RULE};
use crate::report::Violation;

/// The file of the allowed edges.
pub(crate) const FILE: &str = "xtask/edges.toml";

const HEAD: &str = "\
# The allowed edges between the folders of each crate. `make verify` fails on any other edge, and on an entry without
# an import. Names: a folder, or a file beside folders, below the crate's src/; `lib` is the crate root, `x/mod` is the
# own file of folder x. A new edge leads down, from a part that acts to a part that the acting part builds on.
# `cargo run -p xtask -- imports --write` writes this file from the sources; the commit gives the reason of a new edge.
";

/// Crate, part, and the parts from which it may import.
pub(crate) type Allowed = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// Compares today's edges with the allowed ones.
pub(crate) fn check(found: &BTreeMap<String, Edges>, allowed: &Allowed) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (name, edges) in found {
        for ((from, to), sources) in &edges.edges {
            let is_allowed =
                allowed.get(name).and_then(|parts| parts.get(from)).is_some_and(|to_parts| to_parts.contains(to));
            if !is_allowed {
                for (file, line) in sources {
                    let message = format!("imports from `{to}`: `{from}` → `{to}` is not among the edges of {FILE}");
                    violations.push(Violation::new(RULE, file, *line, message));
                }
            }
        }
    }
    for (name, parts) in allowed {
        for (from, to_parts) in parts {
            for to in to_parts {
                let edge = (from.clone(), to.clone());
                if !found.get(name).is_some_and(|edges| edges.edges.contains_key(&edge)) {
                    let message =
                        format!("[{name}]: no file of `{from}` imports from `{to}` any more: remove the edge");
                    violations.push(Violation::new(RULE, FILE, 0, message));
                }
            }
        }
    }
    violations
}

/// Reads the allowed edges.
pub(crate) fn parse(text: &str) -> Result<Allowed> {
    toml::from_str(text).context(FILE)
}

/// The text of the file that allows today's edges.
pub(crate) fn write(found: &BTreeMap<String, Edges>) -> String {
    let mut text = HEAD.to_owned();
    for (name, edges) in found.iter().filter(|(_, edges)| !edges.edges.is_empty()) {
        let mut parts: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (from, to) in edges.edges.keys() {
            parts.entry(from).or_default().push(format!("\"{to}\""));
        }
        _ = writeln!(text, "\n[\"{name}\"]");
        for (from, to) in parts {
            let line = format!("\"{from}\" = [{}]", to.join(", "));
            if line.chars().count() <= 120 {
                _ = writeln!(text, "{line}");
            } else {
                _ = writeln!(text, "\"{from}\" = [\n    {},\n]", to.join(",\n    "));
            }
        }
    }
    text
}

/// The sets of parts that all lead to each other, each with at least one folder.
pub(crate) fn circles(edges: &Edges) -> Vec<Vec<String>> {
    let mut next: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (from, to) in edges.edges.keys().chain(&edges.inner) {
        next.entry(from).or_default().push(to);
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = next.keys().map(|&from| (from, reachable(from, &next))).collect();
    let mut circles: Vec<Vec<String>> = Vec::new();
    for (&part, parts) in &reach {
        if circles.iter().flatten().any(|seen| seen == part) {
            continue;
        }
        let leads_back = |other: &&&str| reach.get(**other).is_some_and(|back| back.contains(part));
        let circle: Vec<String> = parts.iter().filter(leads_back).map(|&other| other.to_owned()).collect();
        if circle.len() > 1 && circle.iter().any(|part| edges.folders.contains(part)) {
            circles.push(circle);
        }
    }
    circles
}

fn reachable<'a>(from: &str, next: &BTreeMap<&'a str, Vec<&'a str>>) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = next.get(from).cloned().unwrap_or_default();
    while let Some(part) = open.pop() {
        if seen.insert(part) {
            open.extend(next.get(part).into_iter().flatten());
        }
    }
    seen
}

/// The table of `xtask imports`.
pub(crate) fn table(found: &BTreeMap<String, Edges>) -> String {
    let mut text = format!(
        "{:<18}{:>7}{:>9}{:>7}{:>11}{:>9}{:>18}\n",
        "crate", "files", "imports", "edges", "to parents", "circles", "parts in circles"
    );
    let mut details = String::new();
    let mut totals = [0; 6];
    for (name, edges) in found {
        let circles = circles(edges);
        let row = [
            edges.files,
            edges.edges.values().map(Vec::len).sum(),
            edges.edges.len(),
            edges.edges.keys().filter(|(_, to)| to == "lib" || to.ends_with("/mod")).count(),
            circles.len(),
            circles.iter().map(Vec::len).sum(),
        ];
        for (total, value) in totals.iter_mut().zip(row) {
            *total += value;
        }
        text.push_str(&line(name, row));
        for circle in circles {
            _ = writeln!(details, "circle in {name}: {}", circle.join(", "));
        }
    }
    text.push_str(&line("total", totals));
    if !details.is_empty() {
        text.push('\n');
        text.push_str(&details);
    }
    text
}

fn line(name: &str, [files, imports, edges, parents, circles, parts]: [usize; 6]) -> String {
    format!("{name:<18}{files:>7}{imports:>9}{edges:>7}{parents:>11}{circles:>9}{parts:>18}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edges(list: &[(&str, &str)]) -> BTreeMap<String, Edges> {
        let source = || vec![("a/src/x.rs".to_owned(), 7)];
        let edges = list.iter().map(|(from, to)| (((*from).to_owned(), (*to).to_owned()), source())).collect();
        let folders = list.iter().map(|(from, _)| (*from).to_owned()).collect();
        [("a".to_owned(), Edges { files: 1, edges, folders, ..Edges::default() })].into()
    }

    #[test]
    fn an_edge_that_is_not_allowed_fails() {
        let allowed = parse(&write(&edges(&[("run", "serve"), ("serve", "node")]))).unwrap();
        assert!(check(&edges(&[("run", "serve"), ("serve", "node")]), &allowed).is_empty());

        let violations = check(&edges(&[("run", "serve"), ("serve", "node"), ("node", "serve")]), &allowed);
        assert_eq!(violations.len(), 1);
        assert_eq!((&*violations[0].file, violations[0].line), ("a/src/x.rs", 7));
        assert!(violations[0].message.contains("`node` → `serve`"), "{violations:?}");
    }

    #[test]
    fn an_entry_without_an_import_fails() {
        let allowed = parse("[a]\nrun = [\"serve\"]\n[b]\nx = [\"y\"]\n").unwrap();
        let violations = check(&edges(&[("run", "serve")]), &allowed);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].file, FILE);
    }

    #[test]
    fn a_long_list_of_parts_is_broken_into_lines() {
        let parts: Vec<String> = (0..30).map(|index| format!("part{index}")).collect();
        let list: Vec<(&str, &str)> = parts.iter().map(|part| ("run", part.as_str())).collect();
        let text = write(&edges(&list));
        assert!(text.lines().all(|line| line.chars().count() <= 130), "{text}");
        assert_eq!(parse(&text).unwrap()["a"]["run"].len(), 30);
    }

    #[test]
    fn circles_are_the_parts_that_lead_to_each_other() {
        let found = edges(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("f", "a")]);
        assert_eq!(circles(&found["a"]), [vec!["a", "b", "c"], vec!["d", "e"]]);
        assert!(circles(&edges(&[("a", "b"), ("a", "c"), ("b", "c")])["a"]).is_empty());
        assert!(table(&found).contains("circle in a: d, e"));
    }

    #[test]
    fn a_circle_may_lead_through_files_and_has_a_folder() {
        let mut found = edges(&[("folder", "x"), ("y", "folder")]).remove("a").unwrap();
        found.folders = ["folder".to_owned()].into();
        found.inner = [("x".to_owned(), "y".to_owned()), ("y".to_owned(), "x".to_owned())].into();
        assert_eq!(circles(&found), [["folder", "x", "y"]]);
        found.edges.clear();
        assert!(circles(&found).is_empty());
    }
}
