//! Rule 3: a path or invariant that a document names exists.

use std::collections::BTreeSet;

use crate::config::Paths;
use crate::markdown::Prose;
use crate::report::Violation;
use crate::tree::{TextFile, Tree};

/// A path that does not exist.
pub(crate) const PATH: &str = "path";
/// An invariant that no list has.
pub(crate) const INVARIANT: &str = "invariant";

/// A name with one of these is a file of the repository, also without a folder before it.
const CODE: [&str; 4] = ["rs", "sh", "py", "proto"];
/// A path with one of these is a file of the repository.
const FILES: [&str; 8] = ["rs", "sh", "py", "proto", "md", "toml", "yml", "yaml"];

/// Checks all documents, and the invariants that comments name.
pub(crate) fn check(tree: &Tree, config: &Paths) -> Vec<Violation> {
    let mut violations = Vec::new();
    let invariants: BTreeSet<u32> = tree.documents.iter().flat_map(|document| defined(&document.text)).collect();
    for document in &tree.documents {
        violations.extend(paths(document, &tree.paths, config));
        violations.extend(undefined(&document.path, document.text.lines().enumerate(), &invariants));
    }
    for file in &tree.rust {
        let comments = file.text.lines().map(|line| line.find("//").map_or("", |at| &line[at..]));
        violations.extend(undefined(&file.path, comments.enumerate(), &invariants));
    }
    violations
}

/// Paths in code spans and targets of links that do not exist.
fn paths(document: &TextFile, existing: &BTreeSet<String>, config: &Paths) -> Vec<Violation> {
    let prose = Prose::of_text(&document.text);
    let mut violations = Vec::new();
    for span in &prose.code {
        if let Some(path) = candidate(&span.text, existing)
            && !config.elsewhere.contains(path)
            && !is_end_of_path(path, existing)
        {
            let message = format!("`{path}` does not exist");
            violations.push(Violation::new(PATH, &document.path, span.line, message));
        }
    }
    for link in &prose.links {
        let target = link.text.split('#').next().unwrap_or_default();
        let target = target.split_whitespace().next().unwrap_or_default();
        if target.is_empty() || target.contains(':') || target.starts_with('/') {
            continue;
        }
        if !resolve(&document.path, target).is_some_and(|path| path.is_empty() || existing.contains(&path)) {
            let message = format!("the link leads to {target}, which does not exist");
            violations.push(Violation::new(PATH, &document.path, link.line, message));
        }
    }
    violations
}

/// The path that a code span names, if the span looks like a path of the repository.
fn candidate<'a>(span: &'a str, existing: &BTreeSet<String>) -> Option<&'a str> {
    // `file.rs:120` or `file.rs:120-145` names lines.
    let path = match span.split_once(':') {
        Some((path, lines)) if lines.starts_with(|sign: char| sign.is_ascii_digit()) => path,
        _ => span,
    };
    let path = path.strip_prefix("./").unwrap_or(path).trim_end_matches('/');
    let is_plain = path.chars().all(|sign| sign.is_ascii_alphanumeric() || "_.-/".contains(sign));
    if !is_plain || path.is_empty() || path.starts_with('/') || path.contains("..") {
        return None;
    }
    // `.proto` alone is an extension, and no file.
    let extension = match path.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension,
        _ => "",
    };
    let looks_like_one = match path.split_once('/') {
        Some((first, _)) => existing.contains(first) || FILES.contains(&extension),
        None => CODE.contains(&extension) || (span.ends_with('/') && existing.contains(path)),
    };
    looks_like_one.then_some(path)
}

/// Documents may name a path without its first folders, such as the file of a crate that the text is about.
fn is_end_of_path(path: &str, existing: &BTreeSet<String>) -> bool {
    existing.contains(path) || existing.iter().any(|it| it.strip_suffix(path).is_some_and(|start| start.ends_with('/')))
}

/// The path of a link's target from the root of the repository; none if the target is outside.
fn resolve(document: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => _ = parts.pop()?,
            _ => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// The numbers of the ordered list below a heading about invariants.
fn defined(text: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    let mut is_list = false;
    for line in text.lines() {
        if line.starts_with('#') {
            is_list = line.to_lowercase().contains("invariant");
        } else if is_list && let Some((number, _)) = line.split_once(". ") {
            numbers.extend(number.parse::<u32>());
        }
    }
    numbers
}

/// Invariants that a text names and no list has. Lines are counted from 0.
fn undefined<'a>(
    path: &str,
    lines: impl Iterator<Item = (usize, &'a str)>,
    invariants: &BTreeSet<u32>,
) -> Vec<Violation> {
    let mut violations = Vec::new();
    let mut names_one = false;
    for (index, line) in lines {
        for word in line.split_whitespace() {
            let word = word.trim_matches(|sign: char| !sign.is_alphanumeric());
            match word.parse::<u32>() {
                Ok(number) if names_one && !invariants.contains(&number) => {
                    let message = format!("invariant {number} is in no list of invariants");
                    violations.push(Violation::new(INVARIANT, path, index + 1, message));
                }
                Ok(_) => {}
                Err(_) if names_one && matches!(word, "and" | "or" | "to" | "") => {}
                Err(_) => names_one = word.eq_ignore_ascii_case("invariant") || word.eq_ignore_ascii_case("invariants"),
            }
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn existing() -> BTreeSet<String> {
        ["docs", "docs/a.md", "kv", "kv/src", "kv/src/key.rs", "ci.sh", "README.md"].map(str::to_owned).into()
    }

    fn found(text: &str) -> Vec<String> {
        let document = TextFile { path: "docs/a.md".to_owned(), text: text.to_owned() };
        let config = Paths { elsewhere: ["kv/CURRENT".to_owned()].into() };
        paths(&document, &existing(), &config).into_iter().map(|violation| violation.message).collect()
    }

    #[test]
    fn a_dangling_path_fails() {
        assert_eq!(found("See `kv/src/gone.rs:12`."), ["`kv/src/gone.rs` does not exist"]);
        assert_eq!(found("See `shards/serving.rs` and `gone.rs`.").len(), 2);
        assert_eq!(found("[here](../docs/gone.md#part)").len(), 1);
        assert_eq!(found("[here](../../outside.md)").len(), 1);
    }

    #[test]
    fn paths_that_exist_pass() {
        assert!(found("`kv/src/key.rs`, `src/key.rs:3`, `key.rs`, `kv/`, `./ci.sh`, `kv/CURRENT`").is_empty());
        assert!(found("[a](../README.md#x) [b](a.md) [c](#d) [e](https://f.g/h.md)").is_empty());
    }

    #[test]
    fn other_code_spans_are_no_paths() {
        assert!(found("`text/plain` `/v1/keys` `a b/c.rs` `docs/*.md` `node.toml` `12/13` `.proto` `key`").is_empty());
    }

    #[test]
    fn an_invariant_without_a_list_entry_fails() {
        let text = "# A\n1. no\n## Invariants\n\n1. One.\n2. Two.\n   3 more\n## B\n4. no\n";
        let invariants: BTreeSet<u32> = defined(text).into_iter().collect();
        assert_eq!(invariants, [1, 2].into());
        let undefined = |text: &str| undefined("a.md", text.lines().enumerate(), &invariants).len();
        assert_eq!(undefined("See invariant 2 in 7 nodes. Invariants 1 and 2."), 0);
        assert_eq!(undefined("See (invariant 3)."), 1);
        assert_eq!(undefined("See invariants 1, 2 and\n12."), 1);
    }
}
