#!/usr/bin/env bash
# Tests entrypoint.sh with small stand-ins for the two processes.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

have pgrep || apt_install procps
ENTRYPOINT="$ROOT/entrypoint.sh"
# Removed by a shell of its own: what this one starts is killed at any moment, and then runs an EXIT trap that it has not reset yet.
work=${1:-}
if [ -z "$work" ]; then
    work=$(mktemp -d)
    code=0
    bash "$0" "$work" || code=$?
    rm -rf "$work"
    exit "$code"
fi
passed=0 failed=0

# stand_in NAME SCRIPT: a program of that name, which logs its events to $work/log.
stand_in() {
    printf '#!/bin/sh\nlog() { echo "%s $*" >>"%s/log"; }\n%s\n' "$1" "$work" "$2" >"$work/bin/$1"
    chmod +x "$work/bin/$1"
}

# ended_with CODE OTHER: what a process does that ends by itself once the other one serves.
ended_with() { echo "until grep -qs '$2 started' '$work/log'; do sleep 0.02; done; exit $1"; }

# What a well-behaved process does. The sleeps are short so that the shell acts on signals soon.
SERVE='trap "log stopped; exit 0" TERM INT; log started; while :; do sleep 0.05; done'

fresh() {
    rm -rf "${work:?}"/*
    mkdir -p "$work/bin"
}

start() {
    PATH="$work/bin:$PATH" RAFTKV_STOP_GRACE=${GRACE:-5} "${SHELL_UNDER_TEST[@]}" "$ENTRYPOINT" "$@" 2>"$work/err" &
    pid=$!
}

# until_logged WORDS: waits until the log has them.
until_logged() {
    local deadline=$((SECONDS + 10))
    until grep -qs "$1" "$work/log"; do
        [ $SECONDS -lt $deadline ] || { note "never logged: $1"; return 1; }
        sleep 0.02
    done
}

ends_with() {
    local code=0
    wait "$pid" || code=$?
    [ "$code" = "$1" ] || { note "ended with $code instead of $1"; return 1; }
}

# No process of ours is left behind.
nothing_left() {
    local deadline=$((SECONDS + 20))
    while pgrep -f "$work/bin/" >/dev/null; do
        [ $SECONDS -lt $deadline ] || { note "still running: $(pgrep -af "$work/bin/")"; return 1; }
        sleep 0.05
    done
}

check() {
    local name=$1
    fresh
    if "$name"; then
        passed=$((passed + 1))
        echo "ok      ${SHELL_UNDER_TEST[*]}: ${name//_/ }"
    else
        failed=$((failed + 1))
        echo "FAILED  ${SHELL_UNDER_TEST[*]}: ${name//_/ }"
        sed 's/^/        /' "$work/err" "$work/log" 2>/dev/null || true
    fi
}

a_command_is_run_in_its_place() {
    stand_in raftkv 'log "ran $*"; exit 7'
    start raftkv put a 'b c'
    ends_with 7 && until_logged 'raftkv ran put a b c'
}

it_ends_with_the_engines_code() {
    stand_in raftkv-engine "$(ended_with 65 raftkv-sidecar)"
    stand_in raftkv-sidecar "$SERVE"
    start
    ends_with 65 && until_logged 'raftkv-sidecar stopped' && nothing_left
}

it_ends_with_the_sidecars_code() {
    stand_in raftkv-engine "$SERVE"
    stand_in raftkv-sidecar "$(ended_with 75 raftkv-engine)"
    start
    ends_with 75 && until_logged 'raftkv-engine stopped' && nothing_left
}

a_process_that_ends_at_once_is_noticed() {
    stand_in raftkv-engine 'exit 78'
    stand_in raftkv-sidecar "$SERVE"
    start
    ends_with 78 && nothing_left
}

a_program_that_is_missing_is_noticed() {
    stand_in raftkv-engine "$SERVE"
    start
    ends_with 127 && nothing_left
}

a_killed_process_gives_128_and_the_signal() {
    stand_in raftkv-engine "$SERVE"
    stand_in raftkv-sidecar "log pid \$\$; $SERVE"
    start
    until_logged 'raftkv-sidecar started' && until_logged 'raftkv-engine started'
    kill -KILL "$(sed -n 's/raftkv-sidecar pid //p' "$work/log")"
    ends_with 137 && until_logged 'raftkv-engine stopped' && nothing_left
}

it_needs_nothing_but_the_two_processes() {
    stand_in raftkv-engine "log pid \$\$; $SERVE"
    stand_in raftkv-sidecar "log pid \$\$; $SERVE"
    start
    until_logged 'raftkv-sidecar started' && until_logged 'raftkv-engine started'
    # As `kill -9 -1` in a container, or the kernel when it is short of memory.
    pkill -KILL -P "$pid"
    ends_with 137 && nothing_left
}

a_signal_stops_both() {
    stand_in raftkv-engine "$SERVE"
    stand_in raftkv-sidecar "$SERVE"
    start
    until_logged 'raftkv-sidecar started' && until_logged 'raftkv-engine started'
    kill -TERM "$pid"
    ends_with 0 && nothing_left || return 1
    [ "$(grep -c stopped "$work/log")" = 2 ]
}

a_process_that_does_not_stop_is_killed() {
    # `exec`: the process itself ignores the signal, and has no child that would stay behind.
    stand_in raftkv-engine 'trap "" TERM; log started; exec sleep 60'
    stand_in raftkv-sidecar "$SERVE"
    GRACE=1 start
    until_logged 'raftkv-sidecar started' && until_logged 'raftkv-engine started'
    local before=$SECONDS
    kill -TERM "$pid"
    ends_with 137 && until_logged 'raftkv-sidecar stopped' && nothing_left && [ $((SECONDS - before)) -lt 30 ]
}

a_second_signal_reaches_both() {
    # shellcheck disable=SC2016 # for the stand-in to expand
    local stubborn='n=0; trap "n=\$((n + 1)); log signal \$n; [ \$n -lt 2 ] || exit 143" TERM
        log started; while :; do sleep 0.05; done'
    stand_in raftkv-engine "$stubborn"
    stand_in raftkv-sidecar "$SERVE"
    GRACE=30 start
    until_logged 'raftkv-sidecar started' && until_logged 'raftkv-engine started'
    kill -TERM "$pid"
    until_logged 'raftkv-engine signal 1'
    kill -TERM "$pid"
    # Whichever of the two ends first, both end long before the grace is over.
    local before=$SECONDS code=0
    wait "$pid" || code=$?
    [ "$code" = 143 ] || [ "$code" = 0 ] || return 1
    nothing_left && [ $((SECONDS - before)) -lt 25 ]
}

a_signal_at_any_moment_of_the_start_stops_it() {
    local delay
    stand_in raftkv-engine "$SERVE"
    stand_in raftkv-sidecar "$SERVE"
    for delay in 0.005 0.01 0.015 0.02 0.03 0.05 0.005 0.008 0.01 0.012 0.015; do
        GRACE=1 start
        sleep "$delay"
        kill -TERM "$pid"
        local code=0
        wait "$pid" || code=$?
        # 143: before the shell had read its first lines, or a process had set up its own handling. 137: the signal met
        # a process between fork and exec, where it is lost, and the grace was over.
        [ "$code" = 0 ] || [ "$code" = 143 ] || [ "$code" = 137 ] || { note "ended with $code"; return 1; }
        nothing_left || return 1
    done
}

for shell in "sh" "bash --posix"; do
    read -r -a SHELL_UNDER_TEST <<<"$shell"
    check a_command_is_run_in_its_place
    check it_ends_with_the_engines_code
    check it_ends_with_the_sidecars_code
    check a_process_that_ends_at_once_is_noticed
    check a_program_that_is_missing_is_noticed
    check a_killed_process_gives_128_and_the_signal
    check it_needs_nothing_but_the_two_processes
    check a_signal_stops_both
    check a_process_that_does_not_stop_is_killed
    check a_second_signal_reaches_both
    check a_signal_at_any_moment_of_the_start_stops_it
done
echo "entrypoint: $passed passed, $failed failed"
[ "$failed" = 0 ]
