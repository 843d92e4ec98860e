//! Checks of the repository that no compiler makes: `cargo run -p xtask -- tidy`.
//!
//! | rule | module |
//! | --- | --- |
//! | 1: imports between folders | [`imports`], [`edges`] |
//! | 2: layout of modules, files and functions | [`layout`] |
//! | 3: paths and invariants in documents | [`paths`] |
//! | 4: HTTP status codes | [`status`] |
//! | 5: nouns of the product | [`nouns`] |
//! | 6: widths and words of documents and help texts | [`words`] |
//!
//! Each rule is a pure function of the files' text. Known violations are in `xtask/exceptions.toml`.

mod config;
mod edges;
mod exceptions;
mod help;
mod imports;
mod layout;
mod markdown;
mod nouns;
mod paths;
mod prose;
mod reference;
mod report;
mod status;
mod tokens;
mod tree;
mod words;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::config::Config;
use crate::report::Violation;
use crate::tree::Tree;

/// Check the repository against the house rules.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
enum Command {
    /// Check the six rules; exits 1 and lists the places when one is broken
    Tidy {
        /// Lower the counts of the exceptions to the present ones, and remove entries that are no longer needed
        #[arg(long)]
        shrink: bool,
        /// Add an exception with this reason for each violation; meant for files that move
        #[arg(long, value_name = "REASON")]
        accept: Option<String>,
    },
    /// Print the number of imports, edges and circles between the folders of each crate
    Imports {
        /// Write the present edges to xtask/edges.toml
        #[arg(long)]
        write: bool,
    },
    /// Print asking words and pronouns per thousand words of documents and doc comments
    Prose {
        /// Exit 1 when a total is above its limit in xtask/tidy.toml
        #[arg(long)]
        check: bool,
    },
    /// Compare the generated reference pages with the code
    Reference {
        /// Write the pages
        #[arg(long)]
        write: bool,
    },
    /// Write man pages and completion scripts of `raftkv` to a directory
    Dist {
        /// Directory, created if missing
        directory: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let command = Command::parse();
    let root = root()?;
    let tree = Tree::read(&root)?;
    let config = config::parse(&read(&root, config::FILE)?)?;
    let failures = match command {
        Command::Tidy { shrink, accept } => tidy(&root, &tree, &config, shrink, accept.as_deref())?,
        Command::Imports { write } => {
            let found = imports::edges(&tree);
            if write {
                fs::write(root.join(edges::FILE), edges::write(&found)).context(edges::FILE)?;
            }
            print!("{}", edges::table(&found));
            Vec::new()
        }
        Command::Prose { check } => {
            let table = prose::count(&tree, &config.prose);
            print!("{}", table.text());
            if check { table.failures(&config.prose) } else { Vec::new() }
        }
        Command::Reference { write: true } => {
            reference::write(&root)?;
            Vec::new()
        }
        Command::Reference { write: false } => reference::check(&root),
        Command::Dist { directory } => {
            reference::dist(&directory)?;
            Vec::new()
        }
    };
    for failure in &failures {
        eprintln!("{failure}");
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Checks all rules. The answer is the messages to print.
fn tidy(root: &Path, tree: &Tree, config: &Config, shrink: bool, accept: Option<&str>) -> Result<Vec<String>> {
    let violations = violations(root, tree, config)?;
    let mut exceptions = exceptions::parse(&read(root, exceptions::FILE)?)?;
    if shrink {
        exceptions::shrink(&violations, &mut exceptions);
    }
    if let Some(reason) = accept {
        // Edges have a file of their own, which shows the direction of each.
        let (upward, others): (Vec<_>, Vec<_>) = violations.iter().cloned().partition(|it| it.rule == imports::RULE);
        exceptions::accept(&others, &mut exceptions, reason);
        if !upward.is_empty() {
            eprintln!("not accepted: {} imports. `xtask imports --write` writes the edges", upward.len());
        }
    }
    if shrink || accept.is_some() {
        fs::write(root.join(exceptions::FILE), exceptions::write(&exceptions)).context(exceptions::FILE)?;
    }
    let mut failures = exceptions::failures(&violations, &exceptions);
    if !failures.is_empty() {
        failures.push("the rules, their limits and their lists are described in xtask/README.md".to_owned());
    }
    Ok(failures)
}

fn violations(root: &Path, tree: &Tree, config: &Config) -> Result<Vec<Violation>> {
    let allowed = edges::parse(&read(root, edges::FILE)?)?;
    let mut violations = edges::check(&imports::edges(tree), &allowed);
    violations.extend(layout::check(tree, &config.layout));
    violations.extend(paths::check(tree, &config.paths));
    violations.extend(status::check(&tree.rust, &config.status));
    violations.extend(nouns::check(tree, &config.nouns));
    violations.extend(words::check(tree, &config.words));
    Ok(violations)
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("reading {path}"))
}

/// The repository around the present folder.
fn root() -> Result<PathBuf> {
    let present = std::env::current_dir()?;
    match present.ancestors().find(|folder| folder.join(config::FILE).is_file()) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("{} is in no folder around {}", config::FILE, present.display()),
    }
}
