//! `xtask prose`: how many asking words and pronouns the documents and doc comments have per thousand words.
//!
//! A text with many of them avoids the noun: "what must survive" instead of "durable state".

use std::fmt::Write;

use crate::config::ProseLists;
use crate::markdown::Prose;
use crate::tokens;
use crate::tree::{RustFile, TextFile, Tree};

/// The counts of one text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    words: usize,
    asking: usize,
    pronouns: usize,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.words += other.words;
        self.asking += other.asking;
        self.pronouns += other.pronouns;
    }

    fn per_thousand(&self, count: usize) -> f64 {
        if self.words == 0 { 0.0 } else { count as f64 * 1000.0 / self.words as f64 }
    }

    fn asking(&self) -> f64 {
        self.per_thousand(self.asking)
    }

    fn pronouns(&self) -> f64 {
        self.per_thousand(self.pronouns)
    }
}

/// The counts of all texts.
#[derive(Debug, Default)]
pub(crate) struct Table {
    documents: Vec<(String, Counts)>,
    comments: Vec<(String, Counts)>,
}

/// Counts all documents, and the doc comments of all source files.
pub(crate) fn count(tree: &Tree, lists: &ProseLists) -> Table {
    let document = |file: &TextFile| (file.path.clone(), counts(&Prose::of_text(&file.text), lists));
    let comments = |file: &RustFile| {
        let mut sum = Counts::default();
        for block in tokens::doc_comments(&file.tokens, &file.text) {
            let prose = Prose::of_lines(block.iter().map(|(number, line)| (*number, line.as_str())));
            sum.add(counts(&prose, lists));
        }
        (file.path.clone(), sum)
    };
    Table {
        documents: tree.documents.iter().map(document).collect(),
        comments: tree.rust.iter().map(comments).filter(|(_, counts)| counts.words > 0).collect(),
    }
}

fn counts(prose: &Prose, lists: &ProseLists) -> Counts {
    // "it's" is "it".
    let words = || prose.words.iter().map(|word| word.text.split('\'').next().unwrap_or_default());
    Counts {
        words: words().count(),
        asking: words().filter(|word| lists.asking.contains(*word)).count(),
        pronouns: words().filter(|word| lists.pronouns.contains(*word)).count(),
    }
}

impl Table {
    fn total(rows: &[(String, Counts)]) -> Counts {
        let mut sum = Counts::default();
        rows.iter().for_each(|(_, counts)| sum.add(*counts));
        sum
    }

    /// A row for each file, the files with the most asking words first, and the totals last.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (name, rows) in [("documents", &self.documents), ("doc comments", &self.comments)] {
            let mut rows = rows.clone();
            rows.sort_by(|left, right| right.1.asking().total_cmp(&left.1.asking()).then(left.0.cmp(&right.0)));
            _ = writeln!(text, "{name:<58}{:>8}{:>14}{:>10}", "words", "asking/1000", "pron/1000");
            for (path, counts) in &rows {
                text.push_str(&row(path, counts));
            }
            text.push('\n');
        }
        text.push_str(&row("total, documents", &Self::total(&self.documents)));
        text.push_str(&row("total, doc comments", &Self::total(&self.comments)));
        text
    }

    /// The totals that are above their limits.
    pub(crate) fn failures(&self, limits: &ProseLists) -> Vec<String> {
        let (documents, comments) = (Self::total(&self.documents), Self::total(&self.comments));
        let checks = [
            ("asking words in documents", documents.asking(), limits.asking_in_documents),
            ("asking words in doc comments", comments.asking(), limits.asking_in_comments),
            ("pronouns in documents", documents.pronouns(), limits.pronouns_in_all),
            ("pronouns in doc comments", comments.pronouns(), limits.pronouns_in_all),
        ];
        let above = checks.iter().filter(|(_, value, limit)| value > limit);
        above
            .map(|(name, value, limit)| format!("{name}: {value:.1} per thousand words, of {limit:.1} at most"))
            .collect()
    }
}

fn row(name: &str, counts: &Counts) -> String {
    format!("{name:<58}{:>8}{:>14.1}{:>10.1}\n", counts.words, counts.asking(), counts.pronouns())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists() -> ProseLists {
        ProseLists {
            asking: ["what", "whose"].map(str::to_owned).into(),
            pronouns: ["it", "that"].map(str::to_owned).into(),
            asking_in_documents: 4.0,
            asking_in_comments: 5.0,
            pronouns_in_all: 40.0,
        }
    }

    fn tree() -> Tree {
        let text = "What it's worth: `what` whose\n```\nthat\n```\n";
        let rust = "//! A word.\n\n/// Whose it is.\nfn f() {} // what\n";
        Tree {
            documents: vec![TextFile { path: "a.md".to_owned(), text: text.to_owned() }],
            rust: vec![RustFile::new("a/src/lib.rs", rust).unwrap(), RustFile::new("a/src/b.rs", "").unwrap()],
            ..Tree::default()
        }
    }

    #[test]
    fn words_are_counted_outside_code() {
        let table = count(&tree(), &lists());
        assert_eq!(table.documents, [("a.md".to_owned(), Counts { words: 4, asking: 2, pronouns: 1 })]);
        assert_eq!(table.comments, [("a/src/lib.rs".to_owned(), Counts { words: 5, asking: 1, pronouns: 1 })]);
        assert!(table.text().contains("total, doc comments"));
    }

    #[test]
    fn totals_above_the_limits_fail() {
        assert_eq!(count(&tree(), &lists()).failures(&lists()).len(), 4);
        assert!(Table::default().failures(&lists()).is_empty());
    }
}
