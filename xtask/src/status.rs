//! Rule 4: HTTP status codes are for the transports.

use proc_macro2::TokenTree;

use crate::config::{self, Status};
use crate::report::Violation;
use crate::tokens::{self, Tests};
use crate::tree::{Area, RustFile};

/// The name of the rule.
pub(crate) const RULE: &str = "http-status";

/// The places at which product code outside the allowed folders names a type of HTTP status codes.
pub(crate) fn check(files: &[RustFile], config: &Status) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in
        files.iter().filter(|file| file.area == Area::Product && !config::is_within(&file.path, &config.allowed))
    {
        tokens::walk(&file.tokens, Tests::Skip, &mut |level, at| {
            if let TokenTree::Ident(ident) = &level[at]
                && config.types.contains(&ident.to_string())
            {
                let message = format!("{ident} outside the transports: decide with an enum, and translate it there");
                violations.push(Violation::new(RULE, &file.path, tokens::line(&level[at]), message));
            }
        });
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> usize {
        let config = Status { types: ["StatusCode".to_owned()].into(), allowed: vec!["api/".to_owned()] };
        check(&[RustFile::new(path, text).unwrap()], &config).len()
    }

    #[test]
    fn a_status_code_outside_the_transports_fails() {
        assert_eq!(found("kv/src/a.rs", "use http::{StatusCode as Code};"), 1);
        assert_eq!(found("kv/src/a.rs", "fn f() -> u16 { m!(http::StatusCode::OK) }"), 1);
    }

    #[test]
    fn transports_tests_and_texts_may_name_it() {
        let text = "use http::StatusCode;";
        for path in ["api/src/a.rs", "kv/tests/a.rs", "fuzz/src/a.rs", "kv/examples/a.rs"] {
            assert_eq!(found(path, text), 0, "{path}");
        }
        assert_eq!(found("kv/src/a.rs", "/// StatusCode\nconst A: &str = \"StatusCode\";"), 0);
        assert_eq!(found("kv/src/a.rs", "#[cfg(test)] mod tests { use http::StatusCode; }"), 0);
    }
}
