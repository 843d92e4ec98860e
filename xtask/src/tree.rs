//! The files of the repository, read once for all rules.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, anyhow, bail};
use proc_macro2::{TokenStream, TokenTree};

use crate::tokens;

/// Folders that contain nothing written by hand, and the repository's own metadata.
const SKIPPED: [&str; 7] = [".git", ".cache", "target", "dist", "node_modules", "__pycache__", ".venv"];

/// A rule applies to product code, or to tests as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Area {
    /// Part of a library or program.
    Product,
    /// Compiled for tests only.
    Test,
    /// Benchmarks, examples and fuzz targets: no tests, and not shipped.
    Beside,
}

/// A document or script.
#[derive(Debug)]
pub(crate) struct TextFile {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A source file with its tokens.
#[derive(Debug)]
pub(crate) struct RustFile {
    /// Relative to the repository, with `/`.
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<TokenTree>,
    pub(crate) area: Area,
}

impl RustFile {
    /// Splits `text` into tokens.
    pub(crate) fn new(path: &str, text: &str) -> Result<Self> {
        let stream = TokenStream::from_str(text).map_err(|error| anyhow!("{path}: {error}"))?;
        let tokens = stream.into_iter().collect();
        Ok(Self { path: path.to_owned(), text: text.to_owned(), tokens, area: area(path) })
    }
}

fn area(path: &str) -> Area {
    let within = |name| path.split('/').any(|part| part == name);
    if within("tests") {
        Area::Test
    } else if within("benches") || within("examples") || path.starts_with("fuzz/") {
        Area::Beside
    } else {
        Area::Product
    }
}

/// All files that the rules read.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Every file and folder, also those of other kinds.
    pub(crate) paths: BTreeSet<String>,
    pub(crate) rust: Vec<RustFile>,
    /// `docs/**/*.md`, and `*.md` at the top.
    pub(crate) documents: Vec<TextFile>,
    /// Shell and Python.
    pub(crate) scripts: Vec<TextFile>,
    /// Folders of the workspace's members.
    pub(crate) crates: Vec<String>,
}

impl Tree {
    /// Reads the repository at `root`.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self::default();
        tree.walk(root, "")?;
        tree.crates = members(&read(root, "Cargo.toml")?, &tree.paths)?;
        mark_test_modules(&mut tree.rust, &tree.paths);
        Ok(tree)
    }

    fn walk(&mut self, root: &Path, folder: &str) -> Result<()> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(root.join(folder)).with_context(|| format!("reading {folder}/"))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if !SKIPPED.contains(&name.as_str()) {
                entries.push((name, entry.file_type()?.is_dir()));
            }
        }
        entries.sort();
        for (name, is_folder) in entries {
            let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            self.paths.insert(path.clone());
            if is_folder {
                self.walk(root, &path)?;
            } else {
                self.take(root, path)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, root: &Path, path: String) -> Result<()> {
        match path.rsplit_once('.').map(|(_, extension)| extension) {
            Some("rs") => self.rust.push(RustFile::new(&path, &read(root, &path)?)?),
            Some("md") if path.starts_with("docs/") || !path.contains('/') => {
                self.documents.push(TextFile { text: read(root, &path)?, path });
            }
            Some("sh" | "py") => self.scripts.push(TextFile { text: read(root, &path)?, path }),
            _ => {}
        }
        Ok(())
    }
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))
}

/// The members that a workspace's manifest lists; `folder/*` stands for each crate in the folder.
fn members(manifest: &str, paths: &BTreeSet<String>) -> Result<Vec<String>> {
    let manifest: toml::Table = toml::from_str(manifest).context("Cargo.toml")?;
    let Some(listed) = manifest.get("workspace").and_then(|it| it.get("members")).and_then(toml::Value::as_array)
    else {
        bail!("Cargo.toml lists no workspace members");
    };
    let mut members = Vec::new();
    for member in listed.iter().filter_map(toml::Value::as_str) {
        let Some(folder) = member.strip_suffix('*') else {
            members.push(member.to_owned());
            continue;
        };
        let below = paths.iter().filter_map(|path| path.strip_suffix("/Cargo.toml"));
        let children = below.filter(|path| path.strip_prefix(folder).is_some_and(|name| !name.contains('/')));
        members.extend(children.map(str::to_owned));
    }
    Ok(members)
}

/// Finds files that are modules of tests (`#[cfg(test)] mod x;`), with the files below them.
fn mark_test_modules(files: &mut [RustFile], paths: &BTreeSet<String>) {
    let mut tests = Vec::new();
    for file in files.iter() {
        let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
        for module in tokens::test_modules(&file.tokens) {
            match module.path {
                Some(path) => tests.push(format!("{folder}/{path}")),
                None if matches!(name, "mod.rs" | "lib.rs" | "main.rs") => {
                    tests.push(format!("{folder}/{}", module.name));
                }
                None => tests.push(format!("{}/{}", file.path.trim_end_matches(".rs"), module.name)),
            }
        }
    }
    for file in files {
        let is_test = |test: &String| {
            file.path == *test
                || file.path.strip_suffix(".rs") == Some(test)
                || (paths.contains(test) && file.path.starts_with(&format!("{test}/")))
        };
        if file.area == Area::Product && tests.iter().any(is_test) {
            file.area = Area::Test;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|&path| path.to_owned()).collect()
    }

    #[test]
    fn members_are_listed_one_by_one_or_by_folder() {
        let paths = paths(&["crates/a/Cargo.toml", "crates/b/Cargo.toml", "crates/b/c/Cargo.toml", "cli/Cargo.toml"]);
        let found = members("[workspace]\nmembers = [\"cli\", \"crates/*\"]\n", &paths).unwrap();
        assert_eq!(found, ["cli", "crates/a", "crates/b"]);
        assert!(members("[package]\n", &paths).is_err());
    }

    #[test]
    fn areas_follow_the_folders() {
        assert_eq!(area("kv/src/key.rs"), Area::Product);
        assert_eq!(area("kv/tests/codec.rs"), Area::Test);
        assert_eq!(area("tests/src/lib.rs"), Area::Test);
        assert_eq!(area("kv/benches/paths.rs"), Area::Beside);
        assert_eq!(area("fuzz/src/lib.rs"), Area::Beside);
    }

    #[test]
    fn modules_declared_for_tests_are_tests() {
        let mut files: Vec<RustFile> = [
            ("a/src/lib.rs", "mod x; mod y; #[cfg(test)] mod checks;"),
            ("a/src/x.rs", "#[cfg(test)] #[path = \"x_tests.rs\"] mod tests;"),
            ("a/src/y.rs", "#[cfg(test)] mod tests;"),
            ("a/src/checks.rs", ""),
            ("a/src/x_tests.rs", ""),
            ("a/src/y/tests.rs", ""),
        ]
        .into_iter()
        .map(|(path, text)| RustFile::new(path, text).unwrap())
        .collect();
        mark_test_modules(&mut files, &paths(&[]));
        let tests: Vec<_> = files.iter().filter(|file| file.area == Area::Test).map(|file| &*file.path).collect();
        assert_eq!(tests, ["a/src/checks.rs", "a/src/x_tests.rs", "a/src/y/tests.rs"]);
    }
}
