#!/usr/bin/env bash
# Hostile messages to every gRPC service of a live group, for as long as one likes: no process ends, no client is stopped, memory is bounded.
#
#   MINUTES   how long (10)
#   SEED      the seed of a run, to have each stranger do the same again
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
export RAFTKV_HOSTILE_SECONDS=$((${MINUTES:-10} * 60))
[ -z "${SEED:-}" ] || export RAFTKV_TEST_SEED=$SEED
section "Hostile messages for $RAFTKV_HOSTILE_SECONDS seconds"
cd "$ROOT"
# Not nextest: it ends what takes longer than its limit.
cargo test --release --locked --package raftkv-tests --test cluster -- --nocapture hostile_grpc::heavy_
