#!/usr/bin/env bash
# Programs with planted bugs and failpoints, for tests/tests/planted.rs and tests/tests/failpoints/mod.rs: in target/planted, never
# anywhere else.
#
# The same target directory and the same features of everything else: only the crates that have them are compiled once more. cargo
# keeps what it compiled with and without these features side by side, so that bringing the programs without them back is
# a matter of links; they must be, byte for byte, those from before.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_cargo
cd "$ROOT"
target=$(target_dir)
programs=(raftkv raftkv-engine raftkv-sidecar raftkv-router)
features=raftkv-engine/planted-bugs,raftkv-sidecar/planted-bugs,raftkv-engine/failpoints,raftkv-sidecar/failpoints

sums() { (cd "$target/release" && sha256sum "${programs[@]}"); }

section "Programs with planted bugs and failpoints"
start=$SECONDS
build() { cargo build --release --locked --workspace --exclude xtask --bins "$@"; }
build
clean=$(sums)
mkdir -p "$target/planted"
# Whatever goes wrong from here on: the faulty programs must not stay where everybody looks for the others.
trap build EXIT
build --features "$features"
for program in "${programs[@]}"; do
    cp --remove-destination "$target/release/$program" "$target/planted/$program"
done
build
trap - EXIT
[ "$clean" = "$(sums)" ] || die "the programs without planted bugs are not the ones from before"
for secret in RAFTKV_PLANTED_BUG 'dying at the failpoint'; do
    if grep --quiet --text "$secret" "$target/release/raftkv-engine" "$target/release/raftkv-sidecar"; then
        die "the programs without planted bugs know of them"
    fi
    for program in raftkv-engine raftkv-sidecar; do
        grep --quiet --text "$secret" "$target/planted/$program" || die "the $program with planted bugs does not know of them"
    done
done
took "$start"
