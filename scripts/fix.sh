#!/usr/bin/env bash
# Formats the code, and mends the lints that can be mended by machine.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_cargo
cd "$ROOT"
cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
cargo fmt --all
