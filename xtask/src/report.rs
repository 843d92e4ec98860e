//! What a rule finds.

use std::fmt;

/// One place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    /// Relative to the repository.
    pub(crate) file: String,
    /// From 1; 0 for the file as a whole.
    pub(crate) line: usize,
    /// What an exception counts: 1 for most rules, the lines too many for a file that is too long.
    pub(crate) amount: usize,
    pub(crate) message: String,
}

impl Violation {
    /// A place that counts once.
    pub(crate) fn new(rule: &'static str, file: &str, line: usize, message: impl Into<String>) -> Self {
        Self { rule, file: file.to_owned(), line, amount: 1, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {} [{}]", self.file, self.message, self.rule),
            line => write!(f, "{}:{line}: {} [{}]", self.file, self.message, self.rule),
        }
    }
}
