#!/usr/bin/env bash
# The quick turn before a commit: form, lints, unit tests and one cluster test; under three minutes on two cores once everything is
# built. What it leaves out is in scripts/verify.sh and scripts/test.sh.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

begin=$SECONDS
"$ROOT/scripts/verify.sh" --lints
build_binaries
need_cargo_tool nextest || die "cargo-nextest is missing and cannot be installed"
section "Unit tests and one cluster test (nextest's profile check, .config/nextest.toml)"
cd "$ROOT"
cargo nextest run --release --locked --workspace --no-fail-fast --profile check
section "Checked in $((SECONDS - begin)) s"
