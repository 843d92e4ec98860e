#!/usr/bin/env bash
# Random faults under load, with checks, for as long as one likes; a summary at the end.
#
#   MINUTES             how long (10)
#   SEED                the seed of a run, to have its faults in its order again
#   FROM                with SEED, the number of the store to begin with (1): continues a soak that was ended
#   RAFTKV_SOAK_KINDS   names of kinds of fault, with commas: no others
#   RAFTKV_SOAK_REPORT  a file for the summary as JSON
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
[ -n "$(find /usr/lib -path '*/faketime/libfaketime.so.1' 2>/dev/null)" ] ||
    note "libfaketime is not installed: no clock will jump. Debian: apt-get install faketime"

export RAFTKV_SOAK_MINUTES=${MINUTES:-10}
[ -z "${SEED:-}" ] || export RAFTKV_TEST_SEED=$SEED
[ -z "${FROM:-}" ] || export RAFTKV_SOAK_FROM=$FROM
section "Soak of $RAFTKV_SOAK_MINUTES minutes"
cd "$ROOT"
# Not nextest: it ends what takes longer than its limit.
cargo test --release --locked --package raftkv-tests --test cluster -- --nocapture soak::heavy_
