#!/usr/bin/env bash
# One plain group on the running compose cluster (node1 to node3): the leader's container is killed, comes back, processes die
# inside a container, a fourth node joins and leaves, a node is wiped, everything is stopped gracefully.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

cd "$ROOT"
ports=("${RAFTKV_PORT_1:-8080}" "${RAFTKV_PORT_2:-8081}" "${RAFTKV_PORT_3:-8082}" "${RAFTKV_PORT_10:-8083}")
passed=0
ok() { passed=$((passed + 1)); echo "ok $passed  $*"; }

# The fourth address is node10's.
kv() { echo "http://127.0.0.1:${ports[$(($1 - 1))]}/v1/kv/test-compose"; }
# put NODE VALUE: the server gets over an election within the time given.
put() { curl --silent --show-error --fail-with-body --max-time 40 --output /dev/null -X PUT "$(kv "$1")?timeout=30s" -H 'content-type: text/plain' -d "$2"; }
reads() {
    local got
    got=$(curl --silent --show-error --max-time 40 "$(kv "$1")?timeout=30s")
    [ "$got" = "$2" ] || die "node$1 reads '$got' instead of '$2'"
}
in_node() { docker compose exec -T "node$1" "${@:2}"; }
leader() { in_node "$1" raftkv status -o json | tr ',{}' '\n' | sed -n 's/.*"leader": *"\(node[0-9]\)".*/\1/p' | sort | uniq -c | sort -rn | sed -n '1s/.*node//p'; }
healthy() { docker compose --profile join up --detach --no-build --wait --wait-timeout 90 "$@" >/dev/null 2>&1 || die "$* did not become healthy"; }

have curl || apt_install curl

deadline=$((SECONDS + 60))
until first=$(leader 1) && [ -n "$first" ]; do
    [ $SECONDS -lt $deadline ] || die "no leader in: $(in_node 1 raftkv status -o json)"
    sleep 0.2
done
second=$((first % 3 + 1)) third=$(((first + 1) % 3 + 1))

# What a program in a container can do to its machine.
status=$(in_node 1 cat /proc/self/status)
for line in 'CapEff:.*0000000000000000' 'CapBnd:.*0000000000000000' 'NoNewPrivs:.*1'; do
    grep -q "^$line\$" <<<"$status" || die "a program in a container has more rights than $line: $status"
done
for path in /usr/local/bin/raftkv-engine /etc/passwd /file; do
    in_node 1 sh -c "echo x >>$path" 2>/dev/null && die "a program in a container can write to $path"
done
in_node 1 sh -c 'echo x >/tmp/file && rm /tmp/file' || die "there is no room for temporary files"
modes=$(in_node 1 find /var/lib/raftkv -mindepth 1 -perm /077 ! -type l)
[ -z "$modes" ] || die "others may look into files of a node: $modes"
[ "$(docker inspect --format '{{.HostConfig.LogConfig.Config}}' "$(docker compose ps -q node1)")" = 'map[max-file:5 max-size:10m]' ] ||
    die "the log of a container grows without a bound"
ok "containers have no privileges, a root that is not written to, private data and a bounded log"

put "$first" one
docker compose kill "node$first" 2>/dev/null
put "$second" two
reads "$third" two
ok "node$first led and was killed; the others continue"
healthy "node$first"
reads "$first" two
ok "it is back and has what was written without it"

before=$(docker inspect --format '{{.RestartCount}}' "$(docker compose ps -q "node$second")")
in_node "$second" sh -c 'kill -9 -1' >/dev/null 2>&1 || true
put "$third" three
deadline=$((SECONDS + 60))
until [ "$(docker inspect --format '{{.RestartCount}}' "$(docker compose ps -q "node$second")")" -gt "$before" ]; do
    [ $SECONDS -lt $deadline ] || die "node$second was not restarted"
    sleep 0.2
done
healthy "node$second"
reads "$second" three
ok "both processes of node$second were killed; the restart policy brought it back"

healthy node10
reads 4 three
put 4 four
reads 1 four
ok "node10 joined by itself"
in_node 1 raftkv node remove node10 >/dev/null
docker compose --profile join rm --stop --force --volumes node10 >/dev/null 2>&1
put 2 five
ok "node10 was removed"

docker compose rm --stop --force "node$third" >/dev/null 2>&1
docker volume rm "${COMPOSE_PROJECT_NAME:-raftkv}_node$third" >/dev/null
healthy "node$third"
reads "$third" five
ok "node$third lost its disk and came back under its name"

docker compose stop >/dev/null 2>&1
for node in 1 2 3; do
    code=$(docker inspect --format '{{.State.ExitCode}}' "$(docker compose ps -aq "node$node")")
    [ "$code" = 0 ] || die "node$node ended with code $code when it was asked to stop"
done
ok "stopped gracefully"
healthy node1 node2 node3
reads 1 five
ok "and started again, with its data"
echo "compose: $passed passed, 0 failed"
