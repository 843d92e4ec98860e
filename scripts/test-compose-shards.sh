#!/usr/bin/env bash
# The sharded store on the running compose cluster: two groups and two routers, on data that was a plain group's before. The
# client's tour and the examples of the pages, a restart of every container in between; a third group joins while clients write; a
# router is killed; everything is stopped gracefully; `make up` starts all of it, and says so when it cannot.
#
#   scripts/test-compose-shards.sh PYTHON      with what test_client.py needs
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/store.sh
. "$ROOT/scripts/store.sh"

cd "$ROOT"
python=${1:-python3}
router="http://127.0.0.1:${RAFTKV_PORT_ROUTER:-8000}"
router2="http://127.0.0.1:${RAFTKV_PORT_ROUTER_2:-8001}"
nodes=("http://127.0.0.1:${RAFTKV_PORT_1:-8080}" "http://127.0.0.1:${RAFTKV_PORT_2:-8081}" "http://127.0.0.1:${RAFTKV_PORT_3:-8082}")
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed  $*"; }

raftkv=(docker compose exec -T router raftkv)
docs() {
    "$python" scripts/check-docs.py --phase "$1" --at "8000=${router#http://}" --at "8080=${nodes[0]#http://}" \
        --at "8081=${nodes[1]#http://}" --at "8082=${nodes[2]#http://}" docs/guides/from-*.md
}
up() { docker compose "$@" up --detach --no-build --wait --wait-timeout 120 >/dev/null 2>&1 || die "not everything became healthy: $(docker compose ps --all)"; }
# put KEY VALUE, at the router; read KEY VALUE, there or at another address.
put() { curl --silent --show-error --fail-with-body --max-time 40 --output /dev/null -X PUT "$router/v1/kv/$1?timeout=30s" -H 'content-type: text/plain' -d "$2"; }
read_at() {
    local got
    got=$(curl --silent --show-error --max-time 40 "$1/v1/kv/$2?timeout=30s")
    [ "$got" = "$3" ] || die "$1 reads '$got' for $2 instead of '$3'"
}

have curl || apt_install curl

settled 2
read_at "$router" test-compose five
ok "the keys of the plain group are there"
"$python" test_client.py "$router" >/dev/null
"$python" test_client.py "$router" "${nodes[@]}" >/dev/null
ok "the client's tour: at the router, and at the router and each node of the first group in turn"

docs before
for number in $(seq 100); do put "shards-$number" "value $number"; done
docker compose restart --timeout 30 >/dev/null 2>&1
up
settled 2
docs after
for number in $(seq 100); do read_at "$router" "shards-$number" "value $number"; done
ok "the examples of the pages, and 100 keys, before and after every container was restarted"

# Writes continue while a third group joins: each is answered, and each is there afterwards.
written=$(mktemp)
(
    number=0
    while [ -e "$written" ]; do
        number=$((number + 1))
        put "grow-$number" "value $number" || exit 1
        echo "$number" >>"$written.done"
    done
) &
writer=$!
trap 'rm -f "$written" "$written.done"; wait "$writer" 2>/dev/null || true' EXIT
up --profile grow
settled 3
rm "$written"
wait "$writer" || die "a write failed while the third group joined"
count=$(tail -n 1 "$written.done")
for number in $(seq "$count"); do read_at "$router" "grow-$number" "value $number"; done
ok "a third group joined while $count keys were written, each of which is there"

docker compose kill router 2>/dev/null
read_at "$router2" shards-1 "value 1"
curl --silent --show-error --fail-with-body --max-time 40 --output /dev/null -X PUT "$router2/v1/kv/shards-2" -d "value 2"
up --profile grow
read_at "$router" shards-1 "value 1"
ok "a router was killed; the other serves, and a new one needs nothing from it"

docker compose --profile grow stop >/dev/null 2>&1
for service in router router2 node1 node2 node3 node4 node5 node6 node7 node8 node9; do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$(docker compose --profile grow ps -aq "$service")")
    [ "$code" = 0 ] || die "$service ended with code $code when it was asked to stop"
done
ok "everything stopped gracefully"

# `make up` knows which groups the store has, whatever is asked for.
export RAFTKV_SKIP_IMAGE=1
scripts/down.sh >/dev/null 2>&1
if refused=$(RAFTKV_GROUPS=1 scripts/up.sh 2>&1); then die "a sharded store was started as a plain group: $refused"; fi
case "$refused" in *"more than one group"*) ;; *) die "no reason is given: $refused" ;; esac
told=$(RAFTKV_GROUPS=2 scripts/up.sh 2>&1) || die "make up failed: $told"
case "$told" in *"3 groups are up"*) ;; *) die "three groups should be up: $told" ;; esac
for number in $(seq 100); do read_at "$router" "shards-$number" "value $number"; done
start=$SECONDS
told=$(RAFTKV_GROUPS=2 scripts/up.sh 2>&1) || die "make up failed while all is up: $told"
[ $((SECONDS - start)) -lt 20 ] || die "make up took $((SECONDS - start)) s while all was up"
ok "make up starts all three groups, is done at once when they are up, and refuses to start one of them alone"

docker compose --profile grow pause node7 node8 node9 >/dev/null 2>&1
if told=$(RAFTKV_UP_SECONDS=5 RAFTKV_GROUPS=2 scripts/up.sh 2>&1); then die "make up says that all is well without a group: $told"; fi
docker compose --profile grow unpause node7 node8 node9 >/dev/null 2>&1
ok "make up fails while a group does not answer"
echo "compose, sharded: $passed passed, 0 failed"
