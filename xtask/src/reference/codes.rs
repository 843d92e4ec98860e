//! `docs/reference/exit-codes.md`: how the processes end.

use std::fmt::Write;

use super::{GENERATED, cell};

pub(super) fn page() -> String {
    let mut text = format!(
        "# Exit codes\n\n{GENERATED}\n\nThe engine, the sidecar and the router end with a code of BSD's `sysexits.h`. A container ends with \
         the code\nof the first of its processes that ended. The codes of the `raftkv` command are in \
         [its reference](cli.md#raftkv).\n\n| code | meaning | action |\n| --- | --- | --- |\n"
    );
    for code in raftkv_runtime::exit::CODES {
        // Writing to a string never fails.
        let _ = writeln!(text, "| {} | {} | {} |", code.code, cell(code.meaning), cell(code.action));
    }
    text
}
