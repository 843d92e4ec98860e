#!/bin/sh
# Runs a node: the storage engine and the consensus sidecar, side by side. With arguments, runs those instead:
#
#   docker run raftkv                      a node
#   docker run raftkv raftkv put a b       the command line
#
# Ends when either process ends, with that one's exit code: a node is both or nothing, and the container's restart
# policy brings it back. On SIGTERM or SIGINT the engine is asked to stop first, while the sidecar still serves the
# requests that the engine is finishing; then the sidecar, which hands leadership over. A second signal is passed on to
# both: they then end at once.
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
    ) 3>&- &
    killers="$killers $!"
}

engine='' sidecar='' killers='' signals=0
# shellcheck disable=SC2317 # the trap calls it
on_signal() {
    signals=$((signals + 1))
    # Before both are started, the check below does it.
    if [ -z "$engine" ] || [ -z "$sidecar" ]; then
        return
    elif [ "$signals" -eq 1 ]; then
        ask raftkv-engine "$engine"
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

# A POSIX shell cannot wait for whichever child ends first. So this one waits for a `sleep`, and each process has a
# small shell of its own that waits for it, writes down how it ended and ends the sleep. (Reading the pipe instead of
# waiting for the sleep would lose a signal that arrives just before the read; `wait` is safe from that.)
pipe_dir=$(mktemp -d)
mkfifo "$pipe_dir/events"
exec 3<>"$pipe_dir/events"
rm -r "$pipe_dir"
sleep 2147483647 3>&- >/dev/null 2>&1 &
sleeper=$!

watch() {
    $apart "$1" 3>&- &
    child=$!
    trap '' TERM INT
    echo "$1 $child" >&3
    code=0
    wait "$child" || code=$?
    echo "$1 $code" >&3
    kill "$sleeper" 2>/dev/null || :
}

# A signal ends a read with nothing read: then again.
next_event() {
    until read -r name number <&3; do :; done
}

watch raftkv-engine &
engine_watch=$!
next_event
engine_started=$number
watch raftkv-sidecar &
sidecar_watch=$!
next_event
early=
if [ "$name" = raftkv-engine ]; then
    # It has ended already.
    early="$name $number"
    next_event
fi
if [ -n "$early" ]; then echo "$early" >&3; fi
engine=$engine_started sidecar=$number
if [ "$signals" -gt 0 ]; then
    ask raftkv-engine "$engine"
fi

while alive "$sleeper"; do
    wait "$sleeper" 2>/dev/null || :
done

next_event
code=$number
say "$name ended with code $code"
if [ "$name" = raftkv-engine ]; then
    if alive "$sidecar"; then ask raftkv-sidecar "$sidecar"; fi
    rest=$sidecar_watch
else
    # With a signal, the engine was asked when that came.
    if [ "$signals" -eq 0 ] && alive "$engine"; then ask raftkv-engine "$engine"; fi
    rest=$engine_watch
fi
while alive "$rest"; do
    wait "$rest" || :
done
for killer in $killers; do
    kill "$killer" 2>/dev/null || :
done
exit "$code"
