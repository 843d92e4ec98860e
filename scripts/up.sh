#!/usr/bin/env bash
# Starts a sharded store and waits until it is healthy: two groups of three nodes with a router in front.
#
#   RAFTKV_GROUPS   1: one plain group, no router; 2 (default); 3: the third group, too
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

LOCAL="$CACHE/local"
START_SECONDS=120
groups=${RAFTKV_GROUPS:-2}
case "$groups" in
    1 | 2 | 3) ;;
    *) die "GROUPS=$groups: 1, 2 or 3" ;;
esac

in_docker() {
    "$ROOT/scripts/build-image.sh" >/dev/null
    local start=$SECONDS what=()
    case "$groups" in
        1) section "Start three nodes" && what=(node1 node2 node3) ;;
        2) section "Start six nodes and a router" ;;
        3) section "Start nine nodes and a router" && export COMPOSE_PROFILES=grow ;;
    esac
    cd "$ROOT"
    # The image is there: no second build, and no pull.
    docker compose up --detach --no-build --wait --wait-timeout "$START_SECONDS" "${what[@]}" || {
        docker compose ps --all >&2
        docker compose logs --tail 30 >&2
        die "not everything became healthy within $START_SECONDS s; the last log lines are above.
Is another program on port 8000, 8080, 8081, 8082 or 6000, 6001, 6002? RAFTKV_PORT_ROUTER=9000, RAFTKV_PORT_1=9080 (and
so on) pick others."
    }
    took "$start"
    http=("http://127.0.0.1:${RAFTKV_PORT_1:-8080}" "http://127.0.0.1:${RAFTKV_PORT_2:-8081}" "http://127.0.0.1:${RAFTKV_PORT_3:-8082}")
    [ "$groups" = 1 ] || router="http://127.0.0.1:${RAFTKV_PORT_ROUTER:-8000}"
}

local_is_up() { [ -s "$LOCAL/pid" ] && kill -0 "$(cat "$LOCAL/pid")" 2>/dev/null; }

# Addresses out of the line that `raftkv local --json` prints: those of the nodes, or of the routers.
addresses() { tr '{' '\n' <"$LOCAL/out.json" | grep "\"$1\"" | sed -n 's|.*"http":"\([^"]*\)".*|http://\1|p'; }

in_processes() {
    build_binaries
    mkdir -p "$LOCAL"
    if local_is_up; then
        note "a local cluster is running already (process $(cat "$LOCAL/pid"))"
    else
        section "Start $((groups * 3)) nodes as processes"
        rm -f "$LOCAL/out.json"
        local data="$LOCAL/data" arguments=(--nodes 3)
        # A plain group and a sharded store are kept apart: each resumes what it was.
        local port=8080
        [ "$groups" = 1 ] || { data="$LOCAL/shards" port=8000 && arguments+=(--groups "$groups"); }
        # Its own session: it stays when this terminal is closed.
        setsid "$(target_dir)/release/raftkv" local "${arguments[@]}" --http-port "$port" --dir "$data" --json \
            >"$LOCAL/out.json" 2>"$LOCAL/log" </dev/null &
        local pid=$! deadline=$((SECONDS + START_SECONDS))
        echo "$pid" >"$LOCAL/pid"
        # It prints its line once everything is healthy.
        until [ -s "$LOCAL/out.json" ]; do
            if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
                tail -n 30 "$LOCAL/log" >&2
                rm -f "$LOCAL/pid"
                die "the cluster did not become healthy; the last lines of $LOCAL/log are above"
            fi
            sleep 0.2
        done
    fi
    mapfile -t http < <(addresses raft)
    router=$(sed 's/.*"routers"//' "$LOCAL/out.json" | tr '{' '\n' | sed -n 's|.*"http":"\([^"]*\)".*|http://\1|p' | head -n 1)
}

# Nodes are healthy before the map of slots is what it is to be.
settle() {
    have python3 || return 0
    local deadline=$((SECONDS + START_SECONDS))
    section "Wait until every group has its share of the slots"
    until "$ROOT/scripts/settled.sh" "$router" "$groups"; do
        [ $SECONDS -lt $deadline ] || { note "not yet; it goes on by itself: curl $router/v1/cluster" && return 0; }
        sleep 0.5
    done
}

http=() router=''
if docker_answers; then
    in_docker
    raftkv="docker compose exec node1 raftkv"
else
    section "No Docker engine answers: the cluster runs as processes of this machine"
    in_processes
    raftkv="$(target_dir)/release/raftkv"
fi

if [ -z "$router" ]; then
    cat <<END

Three nodes are up, one plain group: ${http[*]:0:3}. Try:

  curl -X PUT ${http[0]}/v1/kv/greeting -H 'content-type: text/plain' -d hello
  curl ${http[1]}/v1/kv/greeting                    # any node answers, and answers the newest
  python3 test_client.py ${http[*]:0:3}
  $raftkv status
  make up                                                        # a second group and a router, and it is sharded
  make down                                                      # the data stays
END
else
    settle
    cat <<END

$groups groups of three nodes are up, and a router in front of them: $router. Try:

  curl -X PUT $router/v1/kv/greeting -H 'content-type: text/plain' -d hello
  curl $router/v1/kv/greeting
  curl ${http[1]}/v1/kv/greeting                    # the nodes answer, too: each for every key
  curl $router/v1/cluster                               # which group has what
  python3 test_client.py $router ${http[*]:0:3}
  make up GROUPS=3                                               # a third group, live
  make down                                                      # the data stays
END
fi
echo
echo "README.md has five minutes more."
