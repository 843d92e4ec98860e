#!/usr/bin/env bash
# Programs with planted bugs, for tests/tests/planted.rs: in target/planted, never anywhere else.
#
# The same target directory and the same features of everything else: only the two crates are compiled once more, and
# afterwards the programs without bugs are back in their place.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_cargo
cd "$ROOT"
target=$(target_dir)
section "Programs with planted bugs"
start=$SECONDS
mkdir -p "$target/planted"
cargo build --release --locked --bins --features raftkv-engine/planted-bugs,raftkv-sidecar/planted-bugs
for program in raftkv raftkv-engine raftkv-sidecar raftkv-router; do
    cp --force "$target/release/$program" "$target/planted/$program"
done
cargo build --release --locked --bins
if grep --quiet --text RAFTKV_PLANTED_BUG "$target/release/raftkv-engine" "$target/release/raftkv-sidecar"; then
    die "the programs without planted bugs know of them"
fi
took "$start"
