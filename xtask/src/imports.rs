//! Rule 1: the imports between the folders of a crate.
//!
//! A file or folder directly below a folder is a *part*. An edge leads from part A to part B of the same folder when a
//! file in A has a path (`crate::…`, `super::…`, `self::…`) to a module in B. At least one end of an edge is a folder:
//! two files of the same folder have no edge. A path from a folder to the file of a surrounding folder leads to the own
//! items of that file: `lib` for the crate root, `x/mod` for folder `x`. Paths from a `mod.rs` to the modules below do
//! not count, because a `mod.rs` assembles its folder.
//!
//! Code for tests may import from everywhere.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Delimiter, TokenTree};

use crate::tokens;
use crate::tree::{Area, RustFile, Tree};

/// The name of the rule.
pub(crate) const RULE: &str = "imports";
/// Module names from the crate root.
type Module = Vec<String>;

/// Sources of an edge, as file and line.
type Sources = Vec<(String, usize)>;

/// The edges of one crate.
#[derive(Debug, Default)]
pub(crate) struct Edges {
    pub(crate) files: usize,
    pub(crate) edges: BTreeMap<(String, String), Sources>,
    /// Between two files of the same folder. A circle of folders can lead through such files.
    pub(crate) inner: BTreeSet<(String, String)>,
    /// The parts that are folders.
    pub(crate) folders: BTreeSet<String>,
}

/// The edges of each crate of the workspace.
pub(crate) fn edges(tree: &Tree) -> BTreeMap<String, Edges> {
    let with_edges = |folder: &String| (folder.clone(), edges_of(folder, &tree.rust));
    tree.crates.iter().map(with_edges).filter(|(_, found)| found.files > 0).collect()
}

/// The edges of the crate in `folder`.
fn edges_of(folder: &str, files: &[RustFile]) -> Edges {
    let src = format!("{folder}/src/");
    let with_library = files.iter().any(|file| file.path == format!("{src}lib.rs"));
    let mut modules = Vec::new();
    for file in files {
        let Some(path) = file.path.strip_prefix(&src) else { continue };
        // The program beside a library is a crate of its own, as are further programs.
        let is_program = path.starts_with("bin/") || (with_library && path == "main.rs");
        // The package of the cluster tests is in a folder `tests`, and its src/ is a library.
        let is_test = file.area == Area::Test && folder != "tests";
        if !is_program && !is_test {
            modules.push((module(path), file));
        }
    }
    let known: BTreeSet<&Module> = modules.iter().map(|(module, _)| module).collect();
    let folders: BTreeSet<&[String]> =
        known.iter().flat_map(|module| (0..module.len()).map(move |length| &module[..length])).collect();
    let names = folders.iter().map(|folder| folder.join("/")).collect();
    let mut found = Edges { files: modules.len(), folders: names, ..Edges::default() };
    for (source, file) in &modules {
        let mut targets = Vec::new();
        collect(&tokens::outside_tests(&file.tokens), source, &mut targets);
        for (line, mut target) in targets {
            while !known.contains(&target) && target.pop().is_some() {}
            let Some(edge) = edge(source, &target) else { continue };
            if found.folders.contains(&edge.0) || found.folders.contains(&edge.1) {
                found.edges.entry(edge).or_default().push((file.path.clone(), line));
            } else {
                found.inner.insert(edge);
            }
        }
    }
    found
}

/// The module of a file below src/.
fn module(path: &str) -> Module {
    let mut names: Module = path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
    match names.last().map(String::as_str) {
        Some("mod") => _ = names.pop(),
        Some("lib" | "main") if names.len() == 1 => names.clear(),
        _ => {}
    }
    names
}

/// The parts between which a path from `source` to `target` leads, if any.
fn edge(source: &[String], target: &[String]) -> Option<(String, String)> {
    let common = source.iter().zip(target).take_while(|(left, right)| left == right).count();
    if common == source.len() {
        return None;
    }
    let from = &source[..=common];
    if common == target.len() {
        let own = if target.is_empty() { "lib".to_owned() } else { format!("{}/mod", target.join("/")) };
        return Some((from.join("/"), own));
    }
    let to = &target[..=common];
    Some((from.join("/"), to.join("/")))
}

/// Adds all paths that begin with `crate`, `super` or `self`, as names from the crate root.
fn collect(tokens: &[TokenTree], module: &[String], found: &mut Vec<(usize, Module)>) {
    let mut at = 0;
    while at < tokens.len() {
        if tokens::is_ident(tokens, at, "mod")
            && let (Some(name), Some(body)) =
                (tokens::ident(tokens, at + 1), tokens::group(tokens, at + 2, Delimiter::Brace))
        {
            let mut inner = module.to_vec();
            inner.push(name);
            collect(&tokens::outside_tests(&tokens::inside(body)), &inner, found);
            at += 3;
            continue;
        }
        let begins =
            !(at >= 2 && tokens::is_path_separator(tokens, at - 2)) && tokens::is_path_separator(tokens, at + 1);
        let base = match tokens::ident(tokens, at).as_deref() {
            Some("crate") if begins => Some(Vec::new()),
            Some("self") if begins => Some(module.to_vec()),
            Some("super") if begins => Some(module[..module.len().saturating_sub(1)].to_vec()),
            _ => None,
        };
        if let Some(base) = base {
            at = path(tokens, at + 3, base, tokens::line(&tokens[at]), found);
            continue;
        }
        if let TokenTree::Group(group) = &tokens[at] {
            // `pub(in crate::x)` says who may import, and imports nothing.
            if !tokens::is_ident(tokens, at.wrapping_sub(1), "pub") {
                collect(&tokens::outside_tests(&tokens::inside(group)), module, found);
            }
        }
        at += 1;
    }
}

/// Reads the path at `at`, after the `::`, with the groups of a `use`; the answer is the index after it.
fn path(
    tokens: &[TokenTree],
    mut at: usize,
    mut names: Module,
    line: usize,
    found: &mut Vec<(usize, Module)>,
) -> usize {
    loop {
        if let Some(name) = tokens::ident(tokens, at) {
            match name.as_str() {
                "self" => {}
                "super" => _ = names.pop(),
                _ => names.push(name),
            }
            at += 1;
            if tokens::is_path_separator(tokens, at) {
                at += 2;
                continue;
            }
        } else if let Some(group) = tokens::group(tokens, at, Delimiter::Brace) {
            let inside = tokens::inside(group);
            for part in inside.split(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ',')) {
                if let Some(first) = part.first() {
                    path(part, 0, names.clone(), tokens::line(first), found);
                }
            }
            return at + 1;
        }
        found.push((line, names));
        return at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edges;

    const BASE: [(&str, &str); 6] = [
        ("a/src/lib.rs", "pub mod run; mod serve; mod node; pub use node::Node;"),
        ("a/src/run.rs", "use crate::serve::{self, http::Server};"),
        ("a/src/serve/mod.rs", "mod http; mod status; pub use self::http::Server;"),
        (
            "a/src/serve/http.rs",
            "use super::status::Status; use crate::node::clock::Clock; mod names { use super::super::status; }",
        ),
        ("a/src/serve/status.rs", "#[cfg(test)] mod tests { use crate::run::Run; }"),
        ("a/src/node/mod.rs", "pub mod clock;"),
    ];

    fn found(more: &[(&str, &str)]) -> BTreeMap<String, Edges> {
        let files = BASE.iter().chain([&("a/src/node/clock.rs", "")]).chain(more);
        let rust = files.map(|(path, text)| RustFile::new(path, text).unwrap()).collect();
        super::edges(&Tree { rust, crates: vec!["a".to_owned()], ..Tree::default() })
    }

    fn names(found: &BTreeMap<String, Edges>) -> Vec<String> {
        found["a"].edges.keys().map(|(from, to)| format!("{from} > {to}")).collect()
    }

    #[test]
    fn edges_lead_between_parts_of_a_folder() {
        assert_eq!(names(&found(&[])), ["run > serve", "serve > node"]);
    }

    #[test]
    fn a_planted_upward_import_fails() {
        let allowed = edges::parse(&edges::write(&found(&[]))).unwrap();
        assert!(edges::check(&found(&[]), &allowed).is_empty());

        let planted = found(&[("a/src/node/identity.rs", "use std::fs;\nuse crate::serve::status::Status;")]);
        let violations = edges::check(&planted, &allowed);
        assert_eq!(violations.len(), 1);
        assert_eq!((&*violations[0].file, violations[0].line), ("a/src/node/identity.rs", 2));
        assert_eq!(edges::circles(&planted["a"]), [["node", "serve"]]);
    }

    #[test]
    fn an_import_through_super_or_in_a_macro_is_found() {
        for text in ["use super::super::serve::Server;", "fn f() { select! { _ = crate::serve::wait() => {} } }"] {
            assert!(names(&found(&[("a/src/node/x.rs", text)])).contains(&"node > serve".to_owned()), "{text}");
        }
    }

    #[test]
    fn items_of_a_folder_around_are_an_edge_to_its_own_file() {
        assert!(names(&found(&[("a/src/serve/x.rs", "use crate::Node;")])).contains(&"serve > lib".to_owned()));
        let deep = found(&[("a/src/node/deep/mod.rs", ""), ("a/src/node/deep/x.rs", "use crate::node::Node;")]);
        assert!(names(&deep).contains(&"node/deep > node/mod".to_owned()));
    }

    #[test]
    fn a_visibility_is_no_import() {
        assert_eq!(names(&found(&[("a/src/node/x.rs", "pub(in crate::serve) fn f() {}")])).len(), 2);
    }
}
