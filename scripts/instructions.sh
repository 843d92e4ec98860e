#!/usr/bin/env bash
# Counts the instructions that the hot paths take, and compares them with those in scripts/instructions.txt. A count is the same
# each time, where a time is not: what grew is found by one run, on a busy machine as well.
#
#   scripts/instructions.sh            fails where a path takes more than 5 % more than is committed by the same compiler
#   scripts/instructions.sh --accept   commits to the counts as they are: writes the file
#
# The paths are in crates/kv/benches/workloads and in the program that goes them, crates/http/examples/instructions.rs. It goes each
# TIMES and twice TIMES; the difference is without what it takes to start.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

# Run after run counts agree to the last digit or two. The rest is for what is not ours: the C library chooses its memcpy by the
# processor, of which valgrind imitates one with or without AVX2, as the machine has it; without, the paths that copy take up to
# 4.8 % more (measured, glibc 2.36). And how one path is inlined moves a little with changes of others.
TOLERANCE_PERCENT=5
TIMES=100
COUNTS="$ROOT/scripts/instructions.txt"
# They are of one architecture.
ARCHITECTURE=x86_64

accept=false
case "$*" in
'') ;;
--accept) accept=true ;;
*) die "usage: scripts/instructions.sh [--accept]" ;;
esac
if [ "$(uname -m)" != $ARCHITECTURE ]; then
    printf '\n%s\n' "############ NOT $ARCHITECTURE: THE INSTRUCTIONS OF THE HOT PATHS ARE NOT COUNTED ############" >&2
    exit
fi

need_cargo
have valgrind || apt_install valgrind
section "Instructions of the hot paths"
cd "$ROOT"
cargo build --release --locked --workspace --example instructions
start=$SECONDS
program="$(target_dir)/release/examples/instructions"
valgrind=$(command -v valgrind)
compiler=$(rustc --version)

# count NAME TIMES: all instructions of one run. Without an environment, so that the stack begins at the same place.
count() {
    local output counted
    output=$(env -i "$valgrind" --tool=cachegrind --cache-sim=no --cachegrind-out-file=/dev/null "$program" "$1" "$2" 2>&1) || {
        printf '%s\n' "$output" >&2
        die "valgrind could not run $1"
    }
    counted=$(sed -n 's/^==[0-9]*== I *refs: *//p' <<<"$output" | tr -d ,)
    [[ $counted =~ ^[0-9]+$ ]] || die "valgrind did not say how many instructions $1 took: $output"
    printf '%s\n' "$counted"
}

declare -A committed=()
counted_with=
if [ -f "$COUNTS" ]; then
    counted_with=$(sed -n 's/^# With //p' "$COUNTS")
    while read -r name instructions; do
        [[ $name = '#'* ]] || committed[$name]=$instructions
    done <"$COUNTS"
fi

names=$("$program")
lines=()
grown=()
for name in $names; do
    once=$(count "$name" $TIMES)
    twice=$(count "$name" $((2 * TIMES)))
    now=$(((twice - once) / TIMES))
    lines+=("$name $now")
    before=${committed[$name]:-}
    unset "committed[$name]"
    if [ -z "$before" ]; then
        note "$name: $now, not in scripts/instructions.txt"
        grown+=("$name, which is new")
        continue
    fi
    # With a sign, for people.
    change=$(awk -v now="$now" -v before="$before" 'BEGIN { printf "%+.1f %%", (now / before - 1) * 100 }')
    if [ $((now * 100)) -gt $((before * (100 + TOLERANCE_PERCENT))) ]; then
        note "$name: $now instructions, $before are committed: $change, TOO MANY"
        grown+=("$name ($before to $now, $change)")
    elif [ $((now * 100)) -lt $((before * (100 - TOLERANCE_PERCENT))) ]; then
        note "$name: $now instructions, $before are committed: $change. Keep it: scripts/instructions.sh --accept"
    else
        note "$name: $now ($change)"
    fi
done
for name in "${!committed[@]}"; do
    note "$name: is in scripts/instructions.txt and no longer there"
    grown+=("$name, which is gone")
done
took "$start"

if $accept; then
    {
        printf '%s\n' "# Instructions that one go takes, by scripts/instructions.sh --accept." "# With $compiler" "${lines[@]}"
    } >"$COUNTS"
    note "written to scripts/instructions.txt: commit it with what changed them"
elif [ ${#grown[@]} -gt 0 ]; then
    printf -v all '%s; ' "${grown[@]}"
    if [ "$compiler" != "$counted_with" ]; then
        printf '\n%s\n' "############ COUNTED WITH $counted_with, THIS IS $compiler: NOT JUDGED: ${all%; } ############" >&2
        exit
    fi
    die "not the instructions that are committed: ${all%; }. If it is meant: scripts/instructions.sh --accept"
fi
