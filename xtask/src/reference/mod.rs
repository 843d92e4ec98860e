//! The reference pages that are generated from the code: `xtask reference --write` writes them, `xtask reference` compares.

mod cli;
mod codes;
mod settings;

use std::path::Path;

use anyhow::{Context, Result};

const GENERATED: &str =
    "<!-- Generated: `cargo run -p xtask -- reference --write`. Change the code, not this page. -->";

/// A generated page.
struct Page {
    path: &'static str,
    text: String,
}

fn pages() -> Vec<Page> {
    vec![
        Page { path: "docs/reference/cli.md", text: cli::page(&raftkv_cli::command()) },
        Page { path: "docs/reference/settings.md", text: settings::page() },
        Page { path: "docs/reference/exit-codes.md", text: codes::page() },
    ]
}

/// Writes the pages.
pub(crate) fn write(root: &Path) -> Result<()> {
    for page in pages() {
        std::fs::write(root.join(page.path), page.text).context(page.path)?;
    }
    Ok(())
}

/// Compares the pages with the code. The answer is the messages to print.
pub(crate) fn check(root: &Path) -> Vec<String> {
    let is_stale = |page: &Page| std::fs::read_to_string(root.join(page.path)).ok().as_ref() != Some(&page.text);
    let told =
        |page: Page| format!("{}: differs from the code: run `cargo run -p xtask -- reference --write`", page.path);
    pages().into_iter().filter(is_stale).map(told).collect()
}

/// Writes man pages and completion scripts of `raftkv` to `directory`, for packages.
pub(crate) fn dist(directory: &Path) -> Result<()> {
    use clap::ValueEnum;
    let (man, completion) = (directory.join("man"), directory.join("completion"));
    for made in [&man, &completion] {
        std::fs::create_dir_all(made).with_context(|| made.display().to_string())?;
    }
    clap_mangen::generate_to(raftkv_cli::command(), &man).context("man pages")?;
    for shell in clap_complete::Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut raftkv_cli::command(), "raftkv", &completion).context("completion")?;
    }
    Ok(())
}

/// A text as a cell of a table.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_differs_from_the_code_is_found() {
        let root = std::env::temp_dir().join(format!("raftkv-xtask-{}", std::process::id()));
        std::fs::create_dir_all(root.join("docs/reference")).expect("a folder");
        write(&root).expect("written");
        assert_eq!(check(&root), Vec::<String>::new());
        let path = root.join("docs/reference/cli.md");
        let text = std::fs::read_to_string(&path).expect("a page");
        std::fs::write(&path, text.replace("--consistency", "--freshness")).expect("written");
        assert_eq!(check(&root).len(), 1);
        dist(&root).expect("man pages and scripts");
        assert!(root.join("man/raftkv-put.1").exists() && root.join("completion/_raftkv").exists());
        std::fs::remove_dir_all(&root).expect("removed");
    }

    #[test]
    fn a_cell_is_one_line() {
        assert_eq!(cell("a |\n  b"), "a \\| b");
    }
}
