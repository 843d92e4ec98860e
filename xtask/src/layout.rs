//! Rule 2: files and functions that a reader can take in, and one way to lay out modules.

use std::collections::BTreeSet;

use proc_macro2::{Delimiter, TokenTree};

use crate::config::Layout;
use crate::report::Violation;
use crate::tokens::{self, Tests};
use crate::tree::{Area, RustFile, TextFile, Tree};

/// `#[path]` outside tests.
pub(crate) const PATH_ATTRIBUTE: &str = "path-attribute";
/// `x.rs` beside a folder `x/`.
pub(crate) const MODULE_STYLE: &str = "module-style";
/// A file of too many lines.
pub(crate) const FILE_LENGTH: &str = "file-length";
/// A function of too many lines without a reason.
pub(crate) const FUNCTION_LENGTH: &str = "function-length";

/// The comment that allows a long function.
const REASON: &str = "// long:";

/// Checks the whole tree.
pub(crate) fn check(tree: &Tree, config: &Layout) -> Vec<Violation> {
    let mut violations = module_style(&tree.rust, &tree.paths);
    for file in &tree.rust {
        violations.extend(path_attributes(file));
        violations.extend(functions(file, config.function_lines));
        violations.extend(file_length(&file.path, &file.text, config.file_lines));
    }
    let scripts = tree.scripts.iter();
    violations.extend(scripts.filter_map(|TextFile { path, text }| file_length(path, text, config.file_lines)));
    violations
}

/// `#[path]` makes a file a part of two modules, or hides where a module is. Tests include fixtures so.
fn path_attributes(file: &RustFile) -> Vec<Violation> {
    let mut violations = Vec::new();
    if file.area == Area::Test {
        return violations;
    }
    tokens::walk(&file.tokens, Tests::Skip, &mut |level, at| {
        if let Some((content, _)) = tokens::attribute(level, at)
            && tokens::is_ident(&content, 0, "path")
            && tokens::is_punct(&content, 1, '=')
        {
            let message = "#[path] outside tests: make the other file a crate or a module";
            violations.push(Violation::new(PATH_ATTRIBUTE, &file.path, tokens::line(&level[at]), message));
        }
    });
    violations
}

/// One style: the file of a folder is the `mod.rs` in it, so that a folder moves as a whole.
fn module_style(files: &[RustFile], paths: &BTreeSet<String>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        let folder = file.path.trim_end_matches(".rs");
        // `tests/x.rs` beside `tests/x/` may be a program of its own; the module style is the same for it.
        if paths.contains(folder) && !folder.ends_with("/lib") && !folder.ends_with("/main") {
            let message = format!("move to {folder}/mod.rs: one module style");
            violations.push(Violation::new(MODULE_STYLE, &file.path, 0, message));
        }
    }
    violations
}

fn file_length(path: &str, text: &str, limit: usize) -> Option<Violation> {
    let lines = text.lines().count();
    (lines > limit).then(|| Violation {
        rule: FILE_LENGTH,
        file: path.to_owned(),
        line: 0,
        amount: lines - limit,
        message: format!("{lines} lines, of {limit} at most: split the file"),
    })
}

/// Functions of more than `limit` lines, from the line of `fn` to the closing brace, without a reason.
fn functions(file: &RustFile, limit: usize) -> Vec<Violation> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut violations = Vec::new();
    tokens::walk(&file.tokens, Tests::Read, &mut |level, at| {
        let (true, Some(name)) = (tokens::is_ident(level, at, "fn"), tokens::ident(level, at + 1)) else { return };
        let Some(body) = body(level, at) else { return };
        let (first, last) = (tokens::line(&level[at]), body.span_close().start().line);
        let length = last + 1 - first;
        if length > limit && !has_reason(&lines, first, body.span_open().start().line) {
            let message =
                format!("`{name}` has {length} lines, of {limit} at most: split it, or say why: `{REASON} …`");
            violations.push(Violation::new(FUNCTION_LENGTH, &file.path, first, message));
        }
    });
    violations
}

/// The body of the function whose `fn` is at `at`; a declaration has none.
fn body(level: &[TokenTree], at: usize) -> Option<&proc_macro2::Group> {
    for next in at..level.len() {
        if tokens::is_punct(level, next, ';') {
            return None;
        }
        if let Some(body) = tokens::group(level, next, Delimiter::Brace) {
            return Some(body);
        }
    }
    None
}

/// Whether a reason stands above the function, among its comments and attributes, or in the first line of its body.
fn has_reason(lines: &[&str], first: usize, open: usize) -> bool {
    let is_reason = |line: &str| line.find(REASON).is_some_and(|at| !line[at + REASON.len()..].trim().is_empty());
    let above = lines[..first - 1].iter().rev().take_while(|line| {
        let line = line.trim_start();
        line.starts_with("//") || line.starts_with("#[")
    });
    let signature = &lines[first - 1..(open + 1).min(lines.len())];
    above.chain(signature).any(|line| is_reason(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: &str) -> RustFile {
        RustFile::new(path, text).unwrap()
    }

    fn long(before: &str, after: &str) -> RustFile {
        file(
            "a/src/lib.rs",
            &format!("impl A {{\n{before}    fn f() {{{after}\n{}    }}\n}}\n", "        g();\n".repeat(80)),
        )
    }

    #[test]
    fn an_over_long_function_fails() {
        let violations = functions(&long("    /// Text.\n    #[inline]\n", ""), 80);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].line, 4);
        assert!(violations[0].message.contains("`f` has 82 lines"), "{violations:?}");
        assert!(functions(&long("", ""), 82).is_empty());
    }

    #[test]
    fn a_reason_beside_it_is_enough_and_an_empty_one_is_not() {
        assert!(functions(&long("    // long: a table of cases\n    #[inline]\n", ""), 80).is_empty());
        assert!(functions(&long("", " // long: a table of cases"), 80).is_empty());
        assert_eq!(functions(&long("    // long:\n", ""), 80).len(), 1);
        assert_eq!(functions(&long("    // long: of something else\n\n", ""), 80).len(), 1);
    }

    #[test]
    fn declarations_and_pointers_are_no_functions() {
        assert!(functions(&file("a.rs", "trait T { fn f(); }\nstruct S { f: fn(u8) -> u8 }"), 0).is_empty());
    }

    #[test]
    fn a_path_attribute_fails_outside_tests() {
        let text = "#[path = \"../other.rs\"]\nmod other;\n";
        assert_eq!(path_attributes(&file("fuzz/src/lib.rs", text)).len(), 1);
        assert!(path_attributes(&file("a/tests/main.rs", text)).is_empty());
        assert!(path_attributes(&file("a/src/b.rs", &format!("#[cfg(test)]\n{text}"))).is_empty());
    }

    #[test]
    fn a_module_beside_its_folder_fails() {
        let paths = ["a/src/b", "a/src/b.rs", "a/src/b/c.rs"].map(str::to_owned).into();
        let violations = module_style(&[file("a/src/b.rs", ""), file("a/src/b/c.rs", "")], &paths);
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].file, "a/src/b.rs");
    }

    #[test]
    fn a_long_file_counts_the_lines_too_many() {
        assert_eq!(file_length("a.py", &"x\n".repeat(13), 10).unwrap().amount, 3);
        assert_eq!(file_length("a.py", &"x\n".repeat(10), 10), None);
    }
}
