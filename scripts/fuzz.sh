#!/usr/bin/env bash
# Gives random input to every decoder of what comes over the wire or from the disk, all targets at once: on two cores each gets
# a part of them, and the run takes as long as one.
#
#   scripts/fuzz.sh [SECONDS [TARGET...]]   each target for so long (60), all of them unless named
#   scripts/fuzz.sh --replay TARGET FILE    one input again, as a crash left it
#
# The targets are in fuzz/fuzz_targets, their kept inputs in fuzz/corpus. What a run finds on the way stays in
# .cache/fuzz/corpus for the next one. Runs on the stable toolchain: without a sanitizer, which needs no other, because
# our code has no `unsafe`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

AT_ONCE=6
# A target that ran fewer inputs did not fuzz.
LEAST_INPUTS=1000
# Longer inputs find nothing that these do not, and are slow.
LONGEST_INPUT=4096

replay=
case ${1:-} in
--replay)
    [ $# = 3 ] || die "usage: scripts/fuzz.sh --replay TARGET FILE"
    replay=$(realpath -- "$3")
    targets=("$2")
    ;;
*)
    seconds=${1:-60}
    [[ $seconds =~ ^[1-9][0-9]*$ ]] || die "$seconds is no number of seconds"
    [ $# = 0 ] || shift
    targets=("$@")
    if [ $# = 0 ]; then
        mapfile -t targets < <(basename -s .rs -a "$ROOT"/fuzz/fuzz_targets/*.rs)
    fi
    ;;
esac
for target in "${targets[@]}"; do
    [ -f "$ROOT/fuzz/fuzz_targets/$target.rs" ] || die "there is no target $target in fuzz/fuzz_targets"
done

need_cargo
have c++ || apt_install g++
need_cargo_tool fuzz || die "cargo-fuzz cannot be installed"

section "Build the fuzz targets"
start=$SECONDS
build="$(target_dir)/fuzz"
host=$(rustc -vV | sed -n 's/^host: //p')
# cargo-fuzz has no --locked: a lock file that does not fit is found here.
(cd "$ROOT/fuzz" && cargo fetch --locked --quiet --target "$host" && cargo fuzz build --sanitizer none --target-dir "$build" --target "$host")
took "$start"

export RUST_BACKTRACE=1
# Where the log's target has its files: in memory if possible, and removed at the end.
RAFTKV_FUZZ_DIR=$(mktemp -d -p "$([ -w /dev/shm ] && echo /dev/shm || echo /tmp)" raftkv-fuzz.XXXXXX)
export RAFTKV_FUZZ_DIR
pids=()
stop() {
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    rm -rf "$RAFTKV_FUZZ_DIR"
}
trap stop EXIT

binary() { printf '%s\n' "$build/$host/release/$1"; }

if [ -n "$replay" ]; then
    section "Replay $replay"
    "$(binary "${targets[0]}")" -timeout=10 "$replay"
    exit
fi

seed=${RAFTKV_SEED:-$((RANDOM * 32768 + RANDOM + 1))}
section "Fuzz ${targets[*]}: $seconds s each, $AT_ONCE at a time (RAFTKV_SEED=$seed)"
work="$CACHE/fuzz"
mkdir -p "$work/crashes"
# fuzz TARGET: the kept inputs, what earlier runs found, and then new ones.
fuzz() {
    mkdir -p "$work/corpus/$1"
    exec "$(binary "$1")" -seed="$seed" -max_total_time="$seconds" -max_len=$LONGEST_INPUT -timeout=10 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="$work/crashes/$1-" "$work/corpus/$1" "$ROOT/fuzz/corpus/$1" \
        >"$work/$1.log" 2>&1
}

failed=()
# ended TARGET STATUS: what became of it.
ended() {
    local inputs crash
    inputs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$1.log")
    if [ "$2" != 0 ]; then
        failed+=("$1")
        tail -n 60 "$work/$1.log" >&2
        crash=$(sed -n 's/.*Test unit written to //p' "$work/$1.log" | tail -n 1)
        note "$1 FAILED. The input: ${crash:-none was written}"
        [ -z "$crash" ] || note "again: scripts/fuzz.sh --replay $1 $crash"
    elif [ "${inputs:-0}" -lt $LEAST_INPUTS ]; then
        failed+=("$1")
        note "$1 FAILED: it ran ${inputs:-0} inputs, fewer than $LEAST_INPUTS; see $work/$1.log"
    else
        note "$1: $inputs inputs, no fault"
    fi
}

names=()
# reap: waits for the oldest one.
reap() {
    local status=0
    wait "${pids[0]}" || status=$?
    ended "${names[0]}" "$status"
    pids=("${pids[@]:1}")
    names=("${names[@]:1}")
}
for target in "${targets[@]}"; do
    fuzz "$target" &
    pids+=($!)
    names+=("$target")
    [ ${#pids[@]} -lt $AT_ONCE ] || reap
done
while [ ${#pids[@]} -gt 0 ]; do reap; done
[ ${#failed[@]} = 0 ] || die "faults in: ${failed[*]}"
