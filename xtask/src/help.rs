//! The help texts of the programs: doc comments and attributes of types that derive clap's traits.

use proc_macro2::{Delimiter, TokenTree};

use crate::tokens::{self, Tests};
use crate::tree::RustFile;

/// clap's derive macros whose doc comments are help texts.
const DERIVES: [&str; 4] = ["Args", "Parser", "Subcommand", "ValueEnum"];
/// clap's attributes that take a text.
const TEXTS: [&str; 6] = ["help", "long_help", "about", "long_about", "before_help", "after_help"];

/// A line with its number.
pub(crate) type Line = (usize, String);

/// The help texts of a file, each as its lines.
pub(crate) fn texts(file: &RustFile) -> Vec<Vec<Line>> {
    let mut texts = Vec::new();
    tokens::walk(&file.tokens, Tests::Skip, &mut |level, at| {
        // Only at the first attribute of an item.
        let follows_another = at >= 2
            && tokens::is_punct(level, at - 2, '#')
            && tokens::group(level, at - 1, Delimiter::Bracket).is_some();
        if follows_another || tokens::is_punct(level, at + 1, '!') || !tokens::is_punct(level, at, '#') {
            return;
        }
        let (attributes, next) = tokens::attributes(level, at);
        if !attributes.iter().any(|attribute| derives_help(attribute)) {
            return;
        }
        let end = (next..level.len()).find(|&end| tokens::group(level, end, Delimiter::Brace).is_some());
        let item = &level[at..end.map_or(next, |end| end + 1)];
        texts.extend(tokens::doc_comments(item, &file.text));
        texts.extend(attribute_texts(item, file));
    });
    texts
}

fn derives_help(attribute: &[TokenTree]) -> bool {
    let Some(list) = tokens::group(attribute, 1, Delimiter::Parenthesis) else { return false };
    tokens::is_ident(attribute, 0, "derive")
        && list.stream().into_iter().any(|token| DERIVES.iter().any(|name| token.to_string() == *name))
}

/// Texts in attributes, as `help = "…"`, or as the name of a constant of the same file.
fn attribute_texts(item: &[TokenTree], file: &RustFile) -> Vec<Vec<Line>> {
    let mut texts = Vec::new();
    tokens::walk(item, Tests::Skip, &mut |level, at| {
        let is_text = tokens::ident(level, at).is_some_and(|name| TEXTS.contains(&name.as_str()));
        if !is_text || !tokens::is_punct(level, at + 1, '=') {
            return;
        }
        match level.get(at + 2) {
            Some(literal @ TokenTree::Literal(_)) => texts.push(literal_lines(literal, file)),
            Some(TokenTree::Ident(name)) => texts.extend(constant(&name.to_string(), file)),
            _ => {}
        }
    });
    texts
}

/// The text of `const NAME: &str = "…";`.
fn constant(name: &str, file: &RustFile) -> Option<Vec<Line>> {
    let tokens = &file.tokens;
    let at = (0..tokens.len())
        .find(|&at| tokens::is_ident(tokens, at, "const") && tokens::is_ident(tokens, at + 1, name))?;
    let literal = tokens[at..].iter().find(|token| matches!(token, TokenTree::Literal(_)))?;
    Some(literal_lines(literal, file))
}

/// The source lines of a literal, without what stands around it.
fn literal_lines(literal: &TokenTree, file: &RustFile) -> Vec<Line> {
    let (first, last) = (tokens::line(literal), literal.span().end().line);
    let mut lines: Vec<Line> = file
        .text
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim_end_matches('\\').to_owned()))
        .filter(|(number, _)| (first..=last).contains(number))
        .collect();
    if let Some((_, line)) = lines.first_mut() {
        let start = literal.span().start().column;
        *line = line.chars().skip(start).collect::<String>().trim_start_matches(['r', '#', '"']).to_owned();
    }
    if let Some((_, line)) = lines.last_mut()
        && let Some(end) = line.rfind('"')
    {
        line.truncate(end);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<Vec<Line>> {
        texts(&RustFile::new("a/src/lib.rs", text).unwrap())
    }

    #[test]
    fn doc_comments_of_derived_types_are_help_texts() {
        let text = "/// One.\n#[derive(Debug, clap::Args)]\nstruct A {\n    /// Two.\n    #[arg(long)]\n    a: u8,\n}\n\
                    /// No.\nstruct B;\n";
        assert_eq!(found(text), [[(1, " One.".to_owned())], [(4, " Two.".to_owned())]]);
    }

    #[test]
    fn texts_of_attributes_and_their_constants_are_help_texts() {
        let text = "#[derive(Parser)]\n#[command(after_help = MORE)]\nstruct A {\n    #[arg(help = \"Three.\")]\n\
                    a: u8,\n}\nconst MORE: &str = \"\\\nFour\n  five\";\n";
        let lines: Vec<Vec<usize>> =
            found(text).iter().map(|text| text.iter().map(|(number, _)| *number).collect()).collect();
        assert_eq!(lines, [vec![7, 8, 9], vec![4]]);
        assert_eq!(found(text)[0][2].1, "  five");
        assert_eq!(found(text)[1][0].1, "Three.");
    }

    #[test]
    fn other_derives_have_no_help() {
        assert!(found("/// No.\n#[derive(Debug, Clone)]\nstruct A;\n").is_empty());
    }
}
