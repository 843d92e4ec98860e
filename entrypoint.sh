#!/bin/sh
# Runs a node: the storage engine and the consensus sidecar, side by side. With arguments, runs those instead:
#
#   docker run raftkv                      a node
#   docker run raftkv raftkv put a b       the command line
#
# Ends when either process ends, with that one's exit code: a node is both or nothing, and the container's restart
# policy brings it back. On SIGTERM or SIGINT both are asked to stop: the sidecar hands leadership over at once and then
# serves the requests that the engine is finishing until the engine has ended. A second signal is passed on to both: they
# then end at once.
#
#   RAFTKV_STOP_GRACE   seconds that each process gets to stop before it is killed (default 10)

set -eu

if [ $# -gt 0 ]; then
    exec "$@"
fi

GRACE=${RAFTKV_STOP_GRACE:-10}

say() { printf 'entrypoint: %s\n' "$*" >&2; }
alive() { kill -0 "$1" 2>/dev/null; }

# ask NAME PID: to stop, and sees to it that it does.
ask() {
    say "stopping $1"
    kill -TERM "$2" 2>/dev/null || :
    (
        sleep "$GRACE" >/dev/null 2>&1
        alive "$2" && say "$1 did not stop within $GRACE s: killing it" && kill -KILL "$2"
    ) &
    killers="$killers $!"
}

ask_both() {
    ask raftkv-sidecar "$sidecar"
    ask raftkv-engine "$engine"
}

engine='' sidecar='' killers='' signals=0
# shellcheck disable=SC2317 # the trap calls it
on_signal() {
    signals=$((signals + 1))
    # Before both are started, the check below does it.
    if [ -z "$engine" ] || [ -z "$sidecar" ]; then
        return
    elif [ "$signals" -eq 1 ]; then
        ask_both
    else
        kill -TERM "$engine" "$sidecar" 2>/dev/null || :
    fi
}
trap on_signal TERM INT

# A session of its own for each process: otherwise Ctrl-C in a terminal reaches it twice, and twice means "at once".
apart=
if command -v setsid >/dev/null 2>&1; then
    apart=setsid
fi

# shellcheck disable=SC2086 # nothing, or one word
$apart raftkv-engine &
engine_started=$!
# shellcheck disable=SC2086
$apart raftkv-sidecar &
sidecar=$! engine=$engine_started
if [ "$signals" -gt 0 ]; then
    # A signal sent to a child between its fork and its exec is lost.
    sleep 0.2
    ask_both
fi

# A POSIX shell cannot wait for whichever child ends first, so it looks twice a second. Waiting for the sleep, and not
# sleeping, lets a signal be acted on at once, and takes note of children that ended.
while alive "$engine" && alive "$sidecar"; do
    sleep 0.5 >/dev/null 2>&1 &
    wait $! 2>/dev/null || :
done

if ! alive "$engine"; then
    first=raftkv-engine first_pid=$engine rest=$sidecar
else
    first=raftkv-sidecar first_pid=$sidecar rest=$engine
fi
# With a signal, both were asked when that came.
if [ "$signals" -eq 0 ] && alive "$rest"; then
    case $first in
    raftkv-engine) ask raftkv-sidecar "$rest" ;;
    *) ask raftkv-engine "$rest" ;;
    esac
fi
code=0
wait "$first_pid" 2>/dev/null || code=$?
say "$first ended with code $code"
rest_code=0
wait "$rest" 2>/dev/null || rest_code=$?
# A signal of our own interrupts the wait.
while alive "$rest"; do
    rest_code=0
    wait "$rest" 2>/dev/null || rest_code=$?
done
# Asked to stop, one stopped gracefully and the other had to be killed: the node did not stop gracefully.
if [ "$code" -eq 0 ]; then code=$rest_code; fi
for killer in $killers; do
    kill "$killer" 2>/dev/null || :
done
exit "$code"
