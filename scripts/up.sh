#!/usr/bin/env bash
# Starts a sharded store and waits until it is healthy: two groups of three nodes with two routers in front, and whatever groups
# and nodes the store has besides. Ends with code 1 unless all of them answer.
#
#   RAFTKV_GROUPS       1: one plain group, no router; 2 (default); 3: the third group, too
#   RAFTKV_SKIP_IMAGE   the image is there: it is not built
#   RAFTKV_UP_SECONDS   how long everything may take to become healthy (120)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/store.sh
. "$ROOT/scripts/store.sh"

LOCAL="$CACHE/local"
START_SECONDS=${RAFTKV_UP_SECONDS:-120}
groups=${RAFTKV_GROUPS:-2}
case "$groups" in
    1 | 2 | 3) ;;
    *) die "GROUPS=$groups: 1, 2 or 3" ;;
esac

# --- In Docker -------------------------------------------------------------------------------------------------------

compose() { docker compose --profile grow --profile join "$@"; }

# Services whose containers are not healthy, of those given.
unhealthy() {
    local healthy
    healthy=$(docker ps --filter "label=com.docker.compose.project=$project" --filter health=healthy \
        --format '{{.Label "com.docker.compose.service"}}')
    printf '%s\n' "$@" | grep -v -x -F "$healthy" || true
}

# A node that its group has removed is rightly never healthy.
is_removed() {
    local said
    said=$(compose exec -T "$1" raftkv health --endpoint 127.0.0.1:6000 2>&1) || true
    case "$said" in *"removed from"*) ;; *) return 1 ;; esac
}

# start_services SERVICE...: starts them and waits until all are healthy. Nodes that turn out to have been removed from their groups
# are named and not waited for. The image is there: no second build, and no pull.
start_services() {
    local deadline=$((SECONDS + START_SECONDS)) waiting=("$@") left service
    compose up --detach --no-build --no-deps "$@" >&2 || die "docker could not start $*; its reason is above. $(port_help)"
    while mapfile -t waiting < <(unhealthy "${waiting[@]}") && [ ${#waiting[@]} -gt 0 ]; do
        left=()
        for service in "${waiting[@]}"; do
            if is_removed "$service"; then
                note "$service was removed from its group and stays out; to take it in again: raftkv node join $service $service:8088, asked of its group"
            else
                left+=("$service")
            fi
        done
        [ ${#left[@]} -gt 0 ] || return 0
        waiting=("${left[@]}")
        if [ $SECONDS -ge $deadline ]; then
            compose ps --all >&2
            compose logs --tail 30 "${waiting[@]}" >&2
            die "not healthy within $START_SECONDS s: ${waiting[*]}; their last log lines are above. $(port_help)"
        fi
        sleep 0.5
    done
}

port_help() {
    echo "Is another program on port 8000, 8001, 8080, 8081, 8082 or 6000, 6001, 6002?
RAFTKV_PORT_ROUTER=9000, RAFTKV_PORT_ROUTER_2=9001, RAFTKV_PORT_1=9080 (and so on) pick others."
}

# Volumes of nodes of further groups that have something in them: it belongs to a sharded store. Compose makes empty ones, too.
further_volumes() {
    local volume mounts=()
    for volume in $(docker volume ls --quiet --filter "label=com.docker.compose.project=$project" | grep -E '_node[4-9]$'); do
        mounts+=(--volume "$volume:/volumes/$volume:ro")
    done
    [ ${#mounts[@]} -gt 0 ] || return 0
    docker run --rm --network none --entrypoint sh "${mounts[@]}" "${RAFTKV_IMAGE:-raftkv:latest}" -c \
        'cd /volumes && for volume in *; do [ -z "$(ls -A "$volume")" ] || echo "$volume"; done'
}

# Services that run with another image or other settings than they would be started with now.
outdated_services() {
    local service id image hash hashes
    image=$(docker image inspect --format '{{.Id}}' "${RAFTKV_IMAGE:-raftkv:latest}")
    hashes=$(compose config --hash '*')
    for service in $(compose ps --services --status running); do
        id=$(compose ps --quiet "$service")
        hash=$(printf '%s\n' "$hashes" | sed -n "s/^$service //p")
        [ "$(docker inspect --format '{{.Image}} {{index .Config.Labels "com.docker.compose.config-hash"}}' "$id")" = "$image $hash" ] ||
            printf '%s\n' "$service"
    done | sort -V
}

# Replaces them one after the other: a group serves as long as two of its nodes run.
replace_outdated() {
    local service outdated
    outdated=$(outdated_services)
    [ -n "$outdated" ] || return 0
    section "Replace what runs with another image or other settings, one after the other"
    for service in $outdated; do start_services "$service"; done
}

# Members of the store, or of the plain group, that are not running and that the compose file can start.
absent_services() {
    local member running services
    running=$(compose ps --services --status running)
    services=$(compose config --services)
    for member in $1; do
        if printf '%s\n' "$services" | grep -q -x "$member" && ! printf '%s\n' "$running" | grep -q -x "$member"; then
            printf '%s\n' "$member"
        fi
    done
}

# Who is in the group of node1, when nothing knows of other groups.
plain_members() {
    # It exits with 1 while a member is silent, and tells of the members all the same.
    { "${raftkv[@]}" status -o json || true; } | tr '{' '\n' | sed -n -E '/"raft_address"/s/.*"name": ?"([^"]*)".*/\1/p' | sort -u
}

# Over the management ports nodes are removed and wiped. Processes of this machine do not read these settings.
warn_of_open_ports() {
    case "${RAFTKV_BIND:-127.0.0.1}" in
        127.* | localhost | '[::1]') ;;
        *) [ -n "${RAFTKV_MANAGEMENT_BIND:-}" ] ||
            note "RAFTKV_BIND=$RAFTKV_BIND opens the management ports, too. RAFTKV_MANAGEMENT_BIND=127.0.0.1 keeps them closed" ;;
    esac
}

in_docker() {
    [ -n "${RAFTKV_SKIP_IMAGE:-}" ] || "$ROOT/scripts/build-image.sh" >/dev/null
    cd "$ROOT"
    project=$(docker compose config | sed -n 's/^name: //p')
    local start=$SECONDS what=() volumes members absent
    if [ "$groups" = 1 ]; then
        volumes=$(further_volumes)
        [ -z "$volumes" ] || die "the store has more than one group (there are the volumes ${volumes//$'\n'/, }), and node1 to node3 alone
would answer for a part of its keys only.
  make up       starts the whole store
  make clean    deletes all of its data; after that, GROUPS=1 begins with an empty group
If these groups were removed from the store, delete what is left of them first: docker volume rm ${volumes//$'\n'/ }"
    fi
    replace_outdated
    case "$groups" in
        1) section "Start three nodes" && what=(node1 node2 node3) ;;
        2) section "Start six nodes and two routers" && what=(router router2 node1 node2 node3 node4 node5 node6) ;;
        3) section "Start nine nodes and two routers" && what=(router router2 node1 node2 node3 node4 node5 node6 node7 node8 node9) ;;
    esac
    start_services "${what[@]}"
    if [ "$groups" = 1 ]; then
        raftkv=(docker compose exec -T node1 raftkv)
        members=$(plain_members)
    else
        raftkv=(docker compose exec -T router raftkv)
        members=$(store_groups | awk -F '|' '{ print $6 }')
    fi
    absent=$(absent_services "$members")
    if [ -n "$absent" ]; then
        section "Start what the store has besides: ${absent//$'\n'/ }"
        # shellcheck disable=SC2086 # names without blanks
        start_services $absent
    fi
    took "$start"
    http=("http://127.0.0.1:${RAFTKV_PORT_1:-8080}" "http://127.0.0.1:${RAFTKV_PORT_2:-8081}" "http://127.0.0.1:${RAFTKV_PORT_3:-8082}")
    [ "$groups" = 1 ] || routers=("http://127.0.0.1:${RAFTKV_PORT_ROUTER:-8000}" "http://127.0.0.1:${RAFTKV_PORT_ROUTER_2:-8001}")
    shown="docker compose exec node1 raftkv"
    [ "$groups" = 1 ] || shown="docker compose exec router raftkv"
    restart="To start them: docker compose --profile grow --profile join up -d --wait"
}

# --- As processes ----------------------------------------------------------------------------------------------------

local_is_up() { [ -s "$LOCAL/pid" ] && kill -0 "$(cat "$LOCAL/pid")" 2>/dev/null; }

# Addresses out of the line that `raftkv local -o json` prints: those of the nodes, or of the routers.
addresses() { tr '{' '\n' <"$LOCAL/out.json" | grep "\"$1\"" | sed -n 's|.*"http":"\([^"]*\)".*|http://\1|p'; }

# groups_in DIRECTORY: how many groups a cluster there has; 0 = there is none.
groups_in() {
    [ -s "$1/local.json" ] || { echo 0 && return; }
    grep -o -E '"group": ?"[^"]*"' "$1/local.json" | sort -u | wc -l
}

in_processes() {
    local data="$LOCAL/data" had
    # Where earlier versions kept a sharded store, apart from a plain group.
    if [ "$groups" != 1 ] && [ "$(groups_in "$LOCAL/shards")" -gt 0 ]; then data="$LOCAL/shards"; fi
    if [ "$groups" = 1 ] && [ "$(groups_in "$data")" = 0 ] && [ "$(groups_in "$LOCAL/shards")" -gt 0 ]; then data="$LOCAL/shards"; fi
    had=$(groups_in "$data")
    if [ "$groups" = 1 ] && [ "$had" -gt 1 ]; then
        die "the store in $data has $had groups, and one of them alone would answer for a part of its keys only.
  make up       starts the whole store
  make clean    deletes all of its data; after that, GROUPS=1 begins with an empty group"
    fi
    if local_is_up; then
        note "a local cluster is running already (process $(cat "$LOCAL/pid"))"
        [ "$groups" -le "$had" ] || die "it has $had of $groups groups. Start it again with all: make down && make up GROUPS=$groups"
    else
        build_binaries
        mkdir -p "$LOCAL"
        [ "$had" -le "$groups" ] || groups=$had
        section "Start $groups group(s) of three nodes as processes"
        rm -f "$LOCAL/out.json"
        local arguments=(--nodes 3)
        if [ "$groups" -gt 1 ]; then arguments+=(--groups "$groups" --routers 2); fi
        # A store that is there keeps its ports.
        if [ "$had" -gt 0 ]; then :; elif [ "$groups" -gt 1 ]; then arguments+=(--http-port 8000); else arguments+=(--http-port 8080); fi
        # Its own session: it stays when this terminal is closed.
        setsid "$(target_dir)/release/raftkv" local "${arguments[@]}" --dir "$data" -o json \
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
    mapfile -t routers < <(sed 's/.*"routers"//' "$LOCAL/out.json" | tr '{' '\n' | sed -n 's|.*"http":"\([^"]*\)".*|http://\1|p')
    shown="$(target_dir)/release/raftkv"
    restart="Their logs are in $data. To start all again: make down && make up. These are missing:"
    raftkv=(env "RAFTKV_ROUTER_ENDPOINT=$(IFS=, && echo "${routers[*]}")" "$shown")
}

# --- What came of it -------------------------------------------------------------------------------------------------

# Nodes are healthy before the map of slots is what it is to be. Sets `moving` when slots still move at the end, which harms
# nobody. A group that does not answer does harm: ends with code 1.
settle() {
    local deadline=$((SECONDS + START_SECONDS)) why found lost
    section "Wait until every group answers and has its share of the slots"
    until why=$(unsettled "$groups"); do
        if [ $SECONDS -ge $deadline ]; then
            found=$(store_groups) || die "no router says how the store is: $why"
            lost=$(printf '%s\n' "$found" | missing_members | tr '\n' ' ')
            [ -z "$lost" ] || die "$why
Their keys are not served. $restart $lost"
            [ "$(printf '%s\n' "$found" | grep -c '|active|' || true)" -ge "$groups" ] || die "$why
Why the others take no part: $shown operation list"
            moving=$why
            return 0
        fi
        sleep 0.5
    done
}

project='' http=() routers=() raftkv=() shown='' restart='' moving=''
if docker_answers; then
    warn_of_open_ports
    in_docker
else
    section "No Docker engine answers: the cluster runs as processes of this machine"
    in_processes
fi

if [ ${#routers[@]} -eq 0 ]; then
    cat <<END

Three nodes are up, one plain group: ${http[*]:0:3}. Try:

  curl -X PUT ${http[0]}/v1/kv/greeting -H 'content-type: text/plain' -d hello
  curl ${http[1]}/v1/kv/greeting                    # any node answers, and answers the newest
  python3 test_client.py ${http[*]:0:3}
  $shown status
  make up                                                        # a second group and two routers, and it is sharded
  make down                                                      # the data stays

The README's commands use port 8000, a router's: here it is port 8080 in each of them.
END
else
    settle
    count=$(store_groups | grep -c '|active|')
    cat <<END

$count groups are up, and routers in front of them: ${routers[*]}. ${moving:+Still under way: $moving.}
Try:

  curl -X PUT ${routers[0]}/v1/kv/greeting -H 'content-type: text/plain' -d hello
  curl ${routers[1]:-${routers[0]}}/v1/kv/greeting                    # any router answers, for every key
  curl ${http[1]}/v1/kv/greeting                    # the nodes answer, too: each for every key
  curl ${routers[0]}/v1/cluster                               # which group has what
  python3 test_client.py ${routers[*]} ${http[*]:0:3}
  make up GROUPS=3                                               # a third group, live
  make down                                                      # the data stays
END
fi
echo
echo "README.md has five minutes more."
