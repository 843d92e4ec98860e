//! Rule 5: a noun of the product names one thing.
//!
//! Documents and help texts are checked for phrases, source files for the names of modules and types.

use crate::config::{self, Noun};
use crate::help;
use crate::markdown::{Prose, Word};
use crate::report::Violation;
use crate::tokens::{self, Tests};
use crate::tree::{Area, RustFile, Tree};

/// The name of the rule.
pub(crate) const RULE: &str = "noun";

/// Keywords before the name of a type.
const TYPES: [&str; 5] = ["struct", "enum", "union", "trait", "type"];

/// Checks documents, help texts and names.
pub(crate) fn check(tree: &Tree, nouns: &[Noun]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for document in &tree.documents {
        violations.extend(phrases(&document.path, &Prose::of_text(&document.text).words, nouns));
    }
    for file in tree.rust.iter().filter(|file| file.area == Area::Product) {
        for text in help::texts(file) {
            let prose = Prose::of_lines(text.iter().map(|(number, line)| (*number, line.as_str())));
            violations.extend(phrases(&file.path, &prose.words, nouns));
        }
        violations.extend(names(file, nouns));
    }
    violations
}

/// Places of a noun outside its phrases.
fn phrases(path: &str, words: &[Word], nouns: &[Noun]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for noun in nouns {
        let Some(phrases) = &noun.phrases else { continue };
        let is_noun = |word: &str| word.strip_suffix('s').unwrap_or(word) == noun.word || word == noun.word;
        let is_in = |phrase: &str, at: usize| {
            let phrase: Vec<&str> = phrase.split_whitespace().collect();
            (0..phrase.len()).filter(|&index| phrase[index] == noun.word && index <= at).any(|index| {
                let place = words.get(at - index..at - index + phrase.len()).unwrap_or_default();
                place.len() == phrase.len()
                    && place
                        .iter()
                        .zip(&phrase)
                        .all(|(word, part)| word.text == *part || (*part == noun.word && is_noun(&word.text)))
            })
        };
        for (at, word) in words.iter().enumerate().filter(|(_, word)| is_noun(&word.text)) {
            if !phrases.iter().any(|phrase| is_in(phrase, at)) {
                let message = format!("bare \"{}\": say {}", word.text, noun.meaning);
                violations.push(Violation::new(RULE, path, word.line, message));
            }
        }
    }
    violations
}

/// Modules and types whose names use a noun for another thing.
fn names(file: &RustFile, nouns: &[Noun]) -> Vec<Violation> {
    let mut declared = Vec::new();
    tokens::walk(&file.tokens, Tests::Skip, &mut |level, at| {
        let keyword = tokens::ident(level, at).unwrap_or_default();
        if let Some(name) = tokens::ident(level, at + 1)
            && TYPES.contains(&keyword.as_str())
        {
            declared.push((name, tokens::line(&level[at])));
        }
    });
    // A module is named by its file, or by its folder.
    let module = file.path.trim_end_matches(".rs").trim_end_matches("/mod");
    declared.push((module.rsplit('/').next().unwrap_or(module).to_owned(), 0));
    let mut violations = Vec::new();
    for noun in nouns {
        let Some(homes) = &noun.homes else { continue };
        if config::is_within(&file.path, homes) {
            continue;
        }
        for (name, line) in &declared {
            let has_noun = parts(name).iter().any(|part| *part == noun.word || noun.aliases.contains(part));
            if has_noun && !noun.names.contains(name) {
                let message = format!("`{name}`: \"{}\" is kept for {}", noun.word, noun.meaning);
                violations.push(Violation::new(RULE, &file.path, *line, message));
            }
        }
    }
    violations
}

/// The words of a name in camel or snake case, in lower case.
fn parts(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut was_lower = false;
    for character in name.chars() {
        if character == '_' || (character.is_uppercase() && was_lower) {
            parts.push(String::new());
        }
        was_lower = character.is_lowercase() || character.is_numeric();
        if let Some(last) = parts.last_mut()
            && character != '_'
        {
            last.extend(character.to_lowercase());
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nouns() -> Vec<Noun> {
        vec![
            Noun {
                word: "token".to_owned(),
                phrases: Some(vec!["access token".to_owned(), "token bucket".to_owned()]),
                ..Noun::default()
            },
            Noun {
                word: "lease".to_owned(),
                homes: Some(vec!["kv/src/lease.rs".to_owned()]),
                names: ["LeaderLease".to_owned()].into(),
                ..Noun::default()
            },
        ]
    }

    fn lines(text: &str) -> Vec<usize> {
        phrases("a.md", &Prose::of_text(text).words, &nouns()).iter().map(|violation| violation.line).collect()
    }

    fn named(path: &str, text: &str) -> usize {
        names(&RustFile::new(path, text).unwrap(), &nouns()).len()
    }

    #[test]
    fn a_bare_noun_in_a_document_fails() {
        assert_eq!(lines("An access token,\naccess tokens and a token bucket.\nThe token.\n\nTokens."), [3, 5]);
        assert!(lines("`token` and tokenizer").is_empty());
    }

    #[test]
    fn a_name_with_the_noun_outside_its_home_fails() {
        assert_eq!(named("a/src/b.rs", "struct LeaseHolder; enum A { Lease }"), 1);
        assert_eq!(named("a/src/lease/mod.rs", ""), 1);
        assert_eq!(named("a/src/b.rs", "struct LeaderLease; struct Released;"), 0);
        assert_eq!(named("kv/src/lease.rs", "struct Lease;"), 0);
    }

    #[test]
    fn names_have_parts() {
        assert_eq!(parts("LeaderLease"), ["leader", "lease"]);
        assert_eq!(parts("leader_lease"), ["leader", "lease"]);
    }
}
