//! Reading the tokens of a source file.
//!
//! Tokens instead of a syntax tree, because a tree does not contain the code inside macro calls, and asynchronous
//! programs have much of their code inside `select!`.

use proc_macro2::{Delimiter, Group, TokenTree};

/// Whether a walk enters items that are compiled for tests only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tests {
    Read,
    Skip,
}

/// A module that is compiled for tests only and has a file of its own.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TestModule {
    pub(crate) name: String,
    /// The value of `#[path]`, relative to the folder of the file that declares the module.
    pub(crate) path: Option<String>,
}

/// The line of a token, from 1.
pub(crate) fn line(token: &TokenTree) -> usize {
    token.span().start().line
}

/// The tokens inside a group.
pub(crate) fn inside(group: &Group) -> Vec<TokenTree> {
    group.stream().into_iter().collect()
}

/// Whether the token at `at` is the identifier or keyword `name`.
pub(crate) fn is_ident(tokens: &[TokenTree], at: usize, name: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Ident(ident)) if ident == name)
}

/// The identifier or keyword at `at`.
pub(crate) fn ident(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(ident)) => Some(ident.to_string()),
        _ => None,
    }
}

/// Whether the token at `at` is the punctuation `sign`.
pub(crate) fn is_punct(tokens: &[TokenTree], at: usize, sign: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == sign)
}

/// Whether `::` begins at `at`.
pub(crate) fn is_path_separator(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens, at, ':') && is_punct(tokens, at + 1, ':')
}

/// The group at `at`, if its delimiter is `delimiter`.
pub(crate) fn group(tokens: &[TokenTree], at: usize, delimiter: Delimiter) -> Option<&Group> {
    match tokens.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == delimiter => Some(group),
        _ => None,
    }
}

/// An attribute or doc comment that begins at `at`: its content, and the index after it.
pub(crate) fn attribute(tokens: &[TokenTree], at: usize) -> Option<(Vec<TokenTree>, usize)> {
    if !is_punct(tokens, at, '#') {
        return None;
    }
    let open = if is_punct(tokens, at + 1, '!') { at + 2 } else { at + 1 };
    group(tokens, open, Delimiter::Bracket).map(|group| (inside(group), open + 1))
}

/// All attributes that begin at `at`, and the index after them.
pub(crate) fn attributes(tokens: &[TokenTree], mut at: usize) -> (Vec<Vec<TokenTree>>, usize) {
    let mut found = Vec::new();
    while let Some((content, next)) = attribute(tokens, at) {
        found.push(content);
        at = next;
    }
    (found, at)
}

/// Whether an attribute says that its item exists in tests only.
fn is_for_tests(attribute: &[TokenTree]) -> bool {
    let Some(condition) = group(attribute, 1, Delimiter::Parenthesis) else { return false };
    let condition = inside(condition);
    is_ident(attribute, 0, "cfg")
        && match ident(&condition, 0).as_deref() {
            Some("test") => true,
            // Each part of `all` has to hold; one part of `any` may hold in another build.
            Some("all") => group(&condition, 1, Delimiter::Parenthesis)
                .is_some_and(|all| all.stream().into_iter().any(|part| part.to_string() == "test")),
            _ => false,
        }
}

/// The index after the item, field, arm or statement that begins at `at`.
fn end_of_item(tokens: &[TokenTree], mut at: usize) -> usize {
    let mut word = at;
    while let Some(name) = ident(tokens, word) {
        match name.as_str() {
            "pub" | "async" | "unsafe" | "default" => word += 1,
            "const" if matches!(ident(tokens, word + 1).as_deref(), Some("fn" | "async" | "unsafe")) => word += 1,
            _ => break,
        }
        if group(tokens, word, Delimiter::Parenthesis).is_some() {
            word += 1;
        }
    }
    let keyword = ident(tokens, word).unwrap_or_default();
    // A brace is the end of an item with a body, and no end of `use a::{b};` or `let x = S {};`.
    let to_semicolon = matches!(keyword.as_str(), "use" | "const" | "static" | "let" | "type");
    let with_body =
        matches!(keyword.as_str(), "fn" | "mod" | "struct" | "enum" | "union" | "impl" | "trait" | "macro_rules");
    while at < tokens.len() {
        if is_punct(tokens, at, ';')
            || (!to_semicolon && group(tokens, at, Delimiter::Brace).is_some())
            || (!to_semicolon && !with_body && is_punct(tokens, at, ','))
        {
            return at + 1;
        }
        at += 1;
    }
    at
}

/// The tokens of one level without the items that exist in tests only.
pub(crate) fn outside_tests(tokens: &[TokenTree]) -> Vec<TokenTree> {
    let mut kept = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (found, next) = attributes(tokens, at);
        if found.iter().any(|attribute| is_for_tests(attribute)) {
            if is_punct(tokens, at + 1, '!') {
                return Vec::new();
            }
            at = end_of_item(tokens, next);
            continue;
        }
        let next = next.max(at + 1);
        kept.extend_from_slice(&tokens[at..next]);
        at = next;
    }
    kept
}

/// Calls `visit` with each level of tokens and each index in the level.
pub(crate) fn walk(tokens: &[TokenTree], tests: Tests, visit: &mut dyn FnMut(&[TokenTree], usize)) {
    let level = match tests {
        Tests::Read => tokens.to_vec(),
        Tests::Skip => outside_tests(tokens),
    };
    for (at, token) in level.iter().enumerate() {
        visit(&level, at);
        if let TokenTree::Group(group) = token {
            walk(&inside(group), tests, visit);
        }
    }
}

/// The modules in files of their own that exist in tests only.
pub(crate) fn test_modules(tokens: &[TokenTree]) -> Vec<TestModule> {
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let (found, next) = attributes(tokens, at);
        let (true, Some(name)) =
            (is_ident(tokens, next, "mod") && is_punct(tokens, next + 2, ';'), ident(tokens, next + 1))
        else {
            at = next.max(at + 1);
            continue;
        };
        if found.iter().any(|attribute| is_for_tests(attribute)) {
            let path = found.iter().find(|attribute| is_ident(attribute, 0, "path")).and_then(|it| it.get(2));
            modules.push(TestModule { name, path: path.map(|path| path.to_string().trim_matches('"').to_owned()) });
        }
        at = next + 3;
    }
    modules
}

/// The doc comments of a file: lines with their numbers, in blocks of neighbouring lines.
///
/// The text comes from the source line, because a token holds the text with escapes.
pub(crate) fn doc_comments(tokens: &[TokenTree], text: &str) -> Vec<Vec<(usize, String)>> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    walk(tokens, Tests::Read, &mut |level, at| {
        if is_ident(level, at, "doc") && is_punct(level, at + 1, '=') {
            let number = line(&level[at]);
            let source = lines.get(number.wrapping_sub(1)).map_or("", |line| line.trim_start());
            if let Some(comment) = source.strip_prefix("///").or_else(|| source.strip_prefix("//!")) {
                found.push((number, comment.to_owned()));
            }
        }
    });
    let mut blocks: Vec<Vec<(usize, String)>> = Vec::new();
    for (number, comment) in found {
        match blocks.last_mut() {
            Some(block) if block.last().is_some_and(|(last, _)| last + 1 == number) => block.push((number, comment)),
            _ => blocks.push(vec![(number, comment)]),
        }
    }
    blocks
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use proc_macro2::TokenStream;

    use super::*;

    fn tokens(text: &str) -> Vec<TokenTree> {
        TokenStream::from_str(text).unwrap().into_iter().collect()
    }

    fn kept(text: &str) -> String {
        let kept: TokenStream = outside_tests(&tokens(text)).into_iter().collect();
        kept.to_string().replace(' ', "")
    }

    #[test]
    fn items_for_tests_are_left_out() {
        assert_eq!(kept("fn a() {} #[cfg(test)] mod tests { fn b() {} } fn c() {}"), "fna(){}fnc(){}");
        assert_eq!(kept("#[inline] #[cfg(test)] pub(crate) fn b<T, U>() {} struct C;"), "structC;");
        assert_eq!(kept("#[cfg(test)] use a::{b, c}; use d;"), "used;");
        assert_eq!(kept("#[cfg(test)] b: u8, c: u8"), "c:u8");
        assert_eq!(kept("#[cfg(all(test, unix))] mod b; mod c;"), "modc;");
        assert_eq!(kept("#![cfg(test)] mod b;"), "");
    }

    #[test]
    fn other_conditions_are_kept() {
        for text in ["#[cfg(not(test))] mod a;", "#[cfg(any(test, unix))] mod a;", "#[test] fn a() {}"] {
            assert_eq!(kept(text), text.replace(' ', ""));
        }
    }

    #[test]
    fn test_modules_have_names_and_paths() {
        let found = test_modules(&tokens("mod a; #[cfg(test)] mod b; #[cfg(test)] #[path = \"d.rs\"] mod c;"));
        let expected = [("b", None), ("c", Some("d.rs"))]
            .map(|(name, path)| TestModule { name: name.to_owned(), path: path.map(str::to_owned) });
        assert_eq!(found, expected);
    }

    #[test]
    fn doc_comments_are_blocks_of_lines() {
        let text = "//! Top.\n\n/// One \"quoted\".\n/// Two.\nfn a() { let s = \"/// no\"; }\n// no\n\
                    /// Three.\nstruct B;\n";
        let found = doc_comments(&tokens(text), text);
        let lines: Vec<Vec<usize>> =
            found.iter().map(|block| block.iter().map(|(number, _)| *number).collect()).collect();
        assert_eq!(lines, [vec![1], vec![3, 4], vec![7]]);
        assert_eq!(found[1][0].1, " One \"quoted\".");
    }
}
