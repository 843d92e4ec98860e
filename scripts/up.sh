#!/usr/bin/env bash
# Starts a cluster of three nodes and waits until it is healthy.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

LOCAL="$CACHE/local"
START_SECONDS=120

in_docker() {
    "$ROOT/scripts/build-image.sh" >/dev/null
    section "Start three nodes"
    local start=$SECONDS
    cd "$ROOT"
    # The image is there: no second build, and no pull.
    docker compose up --detach --no-build --wait --wait-timeout "$START_SECONDS" || {
        docker compose ps --all >&2
        docker compose logs --tail 30 >&2
        die "the nodes did not become healthy within $START_SECONDS s; their last log lines are above.
Is another program on port 8080, 8081, 8082 or 6000, 6001, 6002? RAFTKV_PORT_1=9080 (and so on) picks others."
    }
    took "$start"
}

local_is_up() { [ -s "$LOCAL/pid" ] && kill -0 "$(cat "$LOCAL/pid")" 2>/dev/null; }

in_processes() {
    build_binaries
    mkdir -p "$LOCAL"
    if local_is_up; then
        note "a local cluster is running already (process $(cat "$LOCAL/pid"))"
        return
    fi
    section "Start three nodes as processes"
    rm -f "$LOCAL/out.json"
    # Its own session: it stays when this terminal is closed.
    setsid "$(target_dir)/release/raftkv" local --nodes 3 --http-port 8080 --dir "$LOCAL/data" --json \
        >"$LOCAL/out.json" 2>"$LOCAL/log" </dev/null &
    local pid=$! deadline=$((SECONDS + START_SECONDS))
    echo "$pid" >"$LOCAL/pid"
    # It prints its line once the nodes are healthy.
    until [ -s "$LOCAL/out.json" ]; do
        if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
            tail -n 30 "$LOCAL/log" >&2
            rm -f "$LOCAL/pid"
            die "the nodes did not become healthy; the last lines of $LOCAL/log are above"
        fi
        sleep 0.2
    done
}

if docker_answers; then
    in_docker
    raftkv="docker compose exec node1 raftkv"
else
    section "No Docker engine answers: the cluster runs as processes of this machine"
    in_processes
    raftkv="$(target_dir)/release/raftkv"
fi

cat <<END

Three nodes are up: http://127.0.0.1:${RAFTKV_PORT_1:-8080}, :${RAFTKV_PORT_2:-8081} and :${RAFTKV_PORT_3:-8082}. Try:

  curl -X PUT http://127.0.0.1:${RAFTKV_PORT_1:-8080}/v1/kv/greeting -H 'content-type: text/plain' -d hello
  curl http://127.0.0.1:${RAFTKV_PORT_2:-8081}/v1/kv/greeting                    # any node answers, and answers the newest
  $raftkv status
  make down                                                      # the data stays

README.md has five minutes more.
END
