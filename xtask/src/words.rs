//! Rule 6: documents and help texts that fit a terminal, in plain words.

use crate::config::Words;
use crate::help;
use crate::markdown::{self, Prose, Word};
use crate::report::Violation;
use crate::tree::{Area, RustFile, TextFile, Tree};

/// A line that is too wide.
pub(crate) const WIDTH: &str = "width";
/// A forbidden word or phrase.
pub(crate) const WORD: &str = "word";

/// Checks all documents and help texts.
pub(crate) fn check(tree: &Tree, config: &Words) -> Vec<Violation> {
    let documents = tree.documents.iter().flat_map(|document| of_document(document, config));
    let product = tree.rust.iter().filter(|file| file.area == Area::Product);
    documents.chain(product.flat_map(|file| of_help(file, config))).collect()
}

fn of_document(document: &TextFile, config: &Words) -> Vec<Violation> {
    let lines = document.text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let mut violations = widths(&document.path, lines, config.width);
    violations.extend(forbidden(&document.path, &Prose::of_text(&document.text).words, config));
    violations
}

fn of_help(file: &RustFile, config: &Words) -> Vec<Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut violations = Vec::new();
    for text in help::texts(file) {
        // The line of the source, which is what an editor shows.
        let source = text.iter().filter_map(|&(number, _)| lines.get(number - 1).map(|line| (number, *line)));
        violations.extend(widths(&file.path, source, config.width));
        let prose = Prose::of_lines(text.iter().map(|(number, line)| (*number, line.as_str())));
        violations.extend(forbidden(&file.path, &prose.words, config));
    }
    violations
}

fn widths<'a>(path: &str, lines: impl Iterator<Item = (usize, &'a str)>, limit: usize) -> Vec<Violation> {
    let too_wide = |&(_, line): &(usize, &str)| {
        let width = line.chars().count();
        // Neither a row of a table nor an address can be broken.
        width > limit && !line.trim_start().starts_with('|') && line.trim().contains(' ')
    };
    lines
        .filter(too_wide)
        .map(|(number, line)| {
            let message = format!("{} characters, of {limit} at most", line.chars().count());
            Violation::new(WIDTH, path, number, message)
        })
        .collect()
}

fn forbidden(path: &str, words: &[Word], config: &Words) -> Vec<Violation> {
    let mut violations = Vec::new();
    for phrase in &config.forbidden {
        for word in markdown::find_phrase(words, phrase) {
            let message = format!("\"{phrase}\": name the thing with the field's term");
            violations.push(Violation::new(WORD, path, word.line, message));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Words {
        Words { width: 20, forbidden: ["whoever", "in peace", "what is … is"].map(str::to_owned).to_vec() }
    }

    fn document(text: &str) -> Vec<(&'static str, usize)> {
        let document = TextFile { path: "a.md".to_owned(), text: text.to_owned() };
        of_document(&document, &config()).iter().map(|violation| (violation.rule, violation.line)).collect()
    }

    #[test]
    fn a_word_of_the_list_fails() {
        assert_eq!(document("Stop in\npeace.\n\nWhoever asks."), [(WORD, 4), (WORD, 1)]);
        assert_eq!(document("What is left is it."), [(WORD, 1)]);
        assert!(document("`whoever`\n```\nin peace\n```\n").is_empty());
    }

    #[test]
    fn a_wide_line_fails_and_a_wide_table_does_not() {
        assert_eq!(document("Twenty-one letters a b"), [(WIDTH, 1)]);
        assert!(document("| Twenty-one letters a b |\n\nhttps://a.very.long.address\n").is_empty());
    }

    #[test]
    fn help_texts_are_checked_and_other_comments_are_not() {
        let text = "#[derive(clap::Args)]\nstruct A {\n    /// In peace.\n    a: u8,\n}\n/// In peace.\nstruct B;\n";
        let file = RustFile::new("a/src/lib.rs", text).unwrap();
        let found: Vec<_> =
            of_help(&file, &config()).iter().map(|violation| (violation.rule, violation.line)).collect();
        assert_eq!(found, [(WORD, 3)]);
    }
}
