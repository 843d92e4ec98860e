#!/usr/bin/env bash
# Every test. One release build serves the tests, the local clusters and the image.
#
#   RAFTKV_TEST_IMAGE        an image that is built already, instead of building one
#   RAFTKV_FUZZ_SECONDS      how long each decoder gets random input (60)
#   RAFTKV_NEXTEST_PROFILE   nextest's profile: `default`, which retries nothing; .ci/run sets `ci` (.config/nextest.toml)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source=scripts/store.sh
. "$ROOT/scripts/store.sh"

begin=$SECONDS
# Of its own, beside a cluster that `make up` started.
export COMPOSE_PROJECT_NAME=raftkv-test
export RAFTKV_PORT_1=18080 RAFTKV_PORT_2=18081 RAFTKV_PORT_3=18082 RAFTKV_PORT_10=18083 RAFTKV_PORT_ROUTER=18000
export RAFTKV_PORT_ROUTER_2=18001
export RAFTKV_MANAGEMENT_PORT_1=16000 RAFTKV_MANAGEMENT_PORT_2=16001 RAFTKV_MANAGEMENT_PORT_3=16002
export RAFTKV_MANAGEMENT_PORT_10=16003

section "Entrypoint"
"$ROOT/scripts/test-entrypoint.sh"

build_binaries
# The suite has to catch faults that are there on purpose.
"$ROOT/scripts/planted.sh"
export RAFTKV_REQUIRE_PLANTED=1
if [ "$(id -u)" = 0 ] && [ -w /dev/fuse ]; then
    export RAFTKV_REQUIRE_FUSE=1
else
    printf '\n%s\n' "############ NO FUSE (/dev/fuse, as root): TESTS OF POWER LOSS AND BAD DISKS ARE SKIPPED ############" >&2
fi

if [ "$(id -u)" = 0 ] && [ -w /dev/loop-control ] && command -v mkfs.ext4 >/dev/null; then
    export RAFTKV_REQUIRE_LOOP=1
else
    printf '\n%s\n' "############ NO LOOP DEVICES (/dev/loop-control and mkfs.ext4, as root): TESTS OF SMALL DISKS ARE SKIPPED ############" >&2
fi

faketime_is_there() { compgen -G '/usr/lib/*/faketime/libfaketime.so.1' >/dev/null; }
if ! faketime_is_there && have apt-get && { [ "$(id -u)" = 0 ] || have sudo; }; then
    (apt_install faketime) || true
fi
if faketime_is_there; then
    export RAFTKV_REQUIRE_FAKETIME=1
else
    printf '\n%s\n' "############ NO LIBFAKETIME (Debian package: faketime): TESTS OF WALL CLOCKS THAT JUMP ARE SKIPPED ############" >&2
fi

docker=false
if docker_answers; then
    docker=true
    if [ -z "${RAFTKV_TEST_IMAGE:-}" ]; then
        RAFTKV_TEST_IMAGE=$(RAFTKV_IMAGE=raftkv:test RAFTKV_SKIP_BUILD=1 "$ROOT/scripts/build-image.sh")
    fi
    export RAFTKV_TEST_IMAGE RAFTKV_REQUIRE_DOCKER=1
else
    unset RAFTKV_TEST_IMAGE
    printf '\n%s\n' "############ NO DOCKER ENGINE ANSWERS: EVERY CONTAINER TEST IS SKIPPED ############" >&2
fi

cd "$ROOT"
if need_cargo_tool nextest; then
    section "Build the tests"
    cargo nextest run --release --locked --workspace --no-run
    section "Tests of the workspace"
    start=$SECONDS
    cargo nextest run --release --locked --workspace --no-fail-fast --profile "${RAFTKV_NEXTEST_PROFILE:-default}"
else
    section "Tests of the workspace, with cargo test: cargo-nextest cannot be installed"
    start=$SECONDS
    # One at a time: clusters side by side would starve each other.
    cargo test --release --locked --workspace --no-fail-fast -- --test-threads 1
fi
took "$start"
section "Examples in the documentation of the code"
cargo test --release --locked --workspace --doc --quiet

"$ROOT/scripts/fuzz.sh" "${RAFTKV_FUZZ_SECONDS:-60}"
"$ROOT/scripts/instructions.sh"
"$ROOT/scripts/test-openapi.sh"

python=$("$ROOT/scripts/python-env.sh")
if $docker; then
    section "One plain group in containers: the Python client, and the tour"
    start=$SECONDS
    export RAFTKV_IMAGE=$RAFTKV_TEST_IMAGE
    stop() { docker compose --profile join --profile grow down --volumes --remove-orphans --timeout 20 >/dev/null 2>&1 || true; }
    trap stop EXIT
    stop
    up() {
        docker compose up --detach --no-build --wait --wait-timeout 120 "$@" || {
            docker compose ps --all >&2
            docker compose logs --tail 50 >&2
            die "the compose cluster did not become healthy"
        }
    }
    # For `settled`.
    # shellcheck disable=SC2034
    raftkv=(docker compose exec -T router raftkv)
    nodes=("http://127.0.0.1:$RAFTKV_PORT_1" "http://127.0.0.1:$RAFTKV_PORT_2" "http://127.0.0.1:$RAFTKV_PORT_3")
    up node1 node2 node3
    "$python" test_client.py "${nodes[@]}"
    "$ROOT/scripts/test-compose.sh"
    took "$start"

    section "The same group becomes the first of a sharded store"
    start=$SECONDS
    up
    "$ROOT/scripts/test-compose-shards.sh" "$python"
    took "$start"

    section "README and the operations page, typed as they stand, against compose"
    start=$SECONDS
    stop
    up
    # Healthy nodes may still be without their slots: `make up`, which the README begins with, waits for them.
    settled 2
    "$python" scripts/check-docs.py --type compose --bin "$(target_dir)/release" \
        --at "8000=127.0.0.1:$RAFTKV_PORT_ROUTER" --at "8001=127.0.0.1:$RAFTKV_PORT_ROUTER_2" --at "8080=127.0.0.1:$RAFTKV_PORT_1" \
        --at "8081=127.0.0.1:$RAFTKV_PORT_2" --at "8082=127.0.0.1:$RAFTKV_PORT_3" --at "8083=127.0.0.1:$RAFTKV_PORT_10" \
        README.md docs/guides/operate.md
    stop
    took "$start"
else
    trap stop_local EXIT
    section "The Python client against one plain local group"
    start_local --nodes 3
    mapfile -t nodes < <(local_addresses nodes)
    "$python" test_client.py "${nodes[@]}"
    stop_local

    section "The Python client and the pages' examples against a sharded local store"
    start_local --nodes 3 --groups 2
    mapfile -t nodes < <(local_addresses nodes)
    mapfile -t routers < <(local_addresses routers)
    "$python" test_client.py "${routers[@]}" "${nodes[@]}"
    for phase in before after; do
        "$python" scripts/check-docs.py --phase "$phase" --at "8000=${routers[0]}" --at "8080=${nodes[0]}" --at "8081=${nodes[1]}" \
            --at "8082=${nodes[2]}" docs/guides/from-*.md
    done
fi

section "The pages, examples and typed commands as they stand, against raftkv local"
start=$SECONDS
trap stop_local EXIT
stop_local
start_local --nodes 3 --groups 2 --routers 2
mapfile -t nodes < <(local_addresses nodes)
mapfile -t routers < <(local_addresses routers)
at=(--at "8000=${routers[0]}" --at "8001=${routers[1]}" --at "8080=${nodes[0]}" --at "8081=${nodes[1]}" --at "8082=${nodes[2]}")
typed=(--type local --bin "$(target_dir)/release" "${at[@]}")
# The README's first answer is that of a new store; the last page adds a group, which ends with it.
"$python" scripts/check-docs.py "${typed[@]}" README.md docs/guides/operate.md
"$python" scripts/check-docs.py "${at[@]}" docs/guides/from-*.md
"$python" scripts/check-docs.py "${typed[@]}" docs/guides/from-arima.md docs/guides/from-ravel.md
stop_local
took "$start"

section "All tests passed in $((SECONDS - begin)) s"
