#!/usr/bin/env bash
# Form, lints, documentation and dependencies. Changes nothing.
#
#   scripts/verify.sh [--lints]   --lints: form and lints of the code, and no more
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

lints_only=false
case "$*" in
'') ;;
--lints) lints_only=true ;;
*) die "usage: scripts/verify.sh [--lints]" ;;
esac
need_cargo
cd "$ROOT"
for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || {
        have rustup || die "cargo $component is missing, and there is no rustup to add it with"
        rustup component add "$([ $component = fmt ] && echo rustfmt || echo clippy)"
    }
done

section "Format"
cargo fmt --all --check >/dev/null || {
    cargo fmt --all --check -- -l | sed 's/^/    /' >&2
    die "the files above are not formatted: make fix"
}
# A workspace of its own.
cargo fmt --manifest-path fuzz/Cargo.toml --check >/dev/null || die "fuzz/ is not formatted: cargo fmt --manifest-path fuzz/Cargo.toml"
section "Test files"
# They are modules of one program a crate: a file that nobody names would never run.
for main in */tests/main.rs crates/*/tests/main.rs; do
    for file in "${main%/main.rs}"/*.rs; do
        module=$(basename "$file" .rs)
        [ "$module" = main ] || grep --quiet "^mod $module;" "$main" || die "$file is not a part of $main"
    done
    for folder in "${main%/main.rs}"/*/mod.rs; do
        module=$(basename "${folder%/mod.rs}")
        [ ! -e "$folder" ] || grep --quiet "^mod $module;" "$main" || die "$folder is not a part of $main"
    done
done
section "Lints"
# The profile of the build and of the tests: the dependencies are compiled once for all three.
cargo clippy --release --locked --workspace --all-targets -- -D warnings
if $lints_only; then exit; fi
section "House rules"
# Imports between folders, layout, paths and words of the documents. The rules and their exceptions are in xtask/.
# Built with the features of the whole workspace, so that the dependencies are those of the programs.
cargo build --release --locked --quiet --workspace --bin xtask
"$(target_dir)/release/xtask" tidy
"$(target_dir)/release/xtask" reference
section "Documentation"
# The pages are for contributors: private items are there, so links to them work.
RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --release --locked --workspace --no-deps --document-private-items --quiet
scripts/deny.sh
scripts/test-deny.py
section "Shell scripts"
if ! have shellcheck && have apt-get && { [ "$(id -u)" = 0 ] || [ -n "${CI:-}" ]; }; then apt_install shellcheck; fi
if have shellcheck; then
    shellcheck --external-sources entrypoint.sh scripts/*.sh .ci/run
else
    note "shellcheck is not installed: skipped"
fi
section "Python"
python3 - <<'END'
import ast, pathlib
for path in (pathlib.Path("test_client.py"), *pathlib.Path("scripts").glob("*.py"), *pathlib.Path("fuzz").glob("*.py")):
    ast.parse(path.read_text(), str(path))
END
scripts/test-ci-report.py
scripts/test-check-docs.py
section "Compose file"
if have docker && docker compose version >/dev/null 2>&1; then
    docker compose --profile join --profile grow config --quiet
else
    note "docker compose is not installed: skipped"
fi
note "all good"
