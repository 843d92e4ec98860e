//! `xtask/tidy.toml`: the limits and lists of the rules.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde::Deserialize;

/// The file.
pub(crate) const FILE: &str = "xtask/tidy.toml";

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    pub(crate) layout: Layout,
    pub(crate) paths: Paths,
    pub(crate) status: Status,
    #[serde(default)]
    pub(crate) nouns: Vec<Noun>,
    pub(crate) words: Words,
    pub(crate) prose: ProseLists,
}

/// Rule 2.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Layout {
    /// Lines of a source file or script.
    pub(crate) file_lines: usize,
    /// Lines of a function.
    pub(crate) function_lines: usize,
}

/// Rule 3.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Paths {
    /// Paths that look like the repository's and stand in another place.
    pub(crate) elsewhere: BTreeSet<String>,
}

/// Rule 4.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Status {
    /// Names of types.
    pub(crate) types: BTreeSet<String>,
    /// Paths of folders (with a `/` at the end) and files that may name the types.
    pub(crate) allowed: Vec<String>,
}

/// Rule 5: a noun of the product.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Noun {
    /// In the singular.
    pub(crate) word: String,
    /// What the noun stands for.
    pub(crate) meaning: String,
    /// Other spellings in names.
    #[serde(default)]
    pub(crate) aliases: Vec<String>,
    /// Documents and help texts have the noun only within these phrases; without the list, anywhere.
    pub(crate) phrases: Option<Vec<String>>,
    /// Modules and types with the noun in their name are only in these folders and files; without the list, anywhere.
    pub(crate) homes: Option<Vec<String>>,
    /// Names of modules and types that are right in every place.
    #[serde(default)]
    pub(crate) names: BTreeSet<String>,
}

/// Rule 6.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Words {
    /// Characters of a line.
    pub(crate) width: usize,
    /// Words and phrases that fail; `…` stands for one to eight words.
    pub(crate) forbidden: Vec<String>,
}

/// The lists and limits of `xtask prose`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProseLists {
    pub(crate) asking: BTreeSet<String>,
    pub(crate) pronouns: BTreeSet<String>,
    /// Asking words per thousand words of the documents.
    pub(crate) asking_in_documents: f64,
    /// Asking words per thousand words of the doc comments.
    pub(crate) asking_in_comments: f64,
    /// Pronouns per thousand words of either.
    pub(crate) pronouns_in_all: f64,
}

/// Reads the file.
pub(crate) fn parse(text: &str) -> Result<Config> {
    toml::from_str(text).context(FILE)
}

/// Whether `path` is one of `places`, or in a folder of them.
pub(crate) fn is_within(path: &str, places: &[String]) -> bool {
    places.iter().any(|place| path == place || (place.ends_with('/') && path.starts_with(place.as_str())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_repository_can_be_read() {
        let config = parse(include_str!("../tidy.toml")).unwrap();
        assert!(config.words.forbidden.iter().any(|word| word == "whoever"));
        assert!(parse("[layout]\nfile_length = 3\n").is_err());
    }

    #[test]
    fn a_folder_contains_its_files_only() {
        let places = ["api/".to_owned(), "a/b.rs".to_owned()];
        assert!(is_within("api/src/lib.rs", &places) && is_within("a/b.rs", &places));
        assert!(!is_within("apix/lib.rs", &places) && !is_within("a/b.rsx", &places));
    }
}
