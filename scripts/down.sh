#!/usr/bin/env bash
# Stops what up.sh started. With --data, deletes its data too.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

LOCAL="$CACHE/local"
data=false
[ "${1:-}" != --data ] || data=true

if [ -s "$LOCAL/pid" ] && pid=$(cat "$LOCAL/pid") && kill -0 "$pid" 2>/dev/null; then
    section "Stop the local cluster"
    kill -TERM "$pid"
    deadline=$((SECONDS + 30))
    while kill -0 "$pid" 2>/dev/null; do
        [ $SECONDS -lt $deadline ] || die "process $pid does not stop; its log is $LOCAL/log"
        sleep 0.2
    done
fi
rm -f "$LOCAL/pid"
if $data; then rm -rf "$LOCAL"; fi

if have docker && docker compose version >/dev/null 2>&1 && docker_answers; then
    cd "$ROOT"
    if $data; then
        docker compose --profile join --profile grow down --volumes --remove-orphans
    else
        docker compose --profile join --profile grow down --remove-orphans
    fi
fi
