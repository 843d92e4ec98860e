#!/usr/bin/env bash
# Times the hot paths one by one, with criterion. It compares with the run before; its files are in target/criterion.
#
#   scripts/bench-paths.sh [ARGUMENTS...]   of criterion: part of a name, --save-baseline NAME, --baseline NAME, ...
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_cargo
cd "$ROOT"
# Its profile inherits all of the release profile, and is built in the same folder.
cargo bench --locked --workspace --bench paths -- "$@"
