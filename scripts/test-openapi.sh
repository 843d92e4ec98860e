#!/usr/bin/env bash
# Whether the server keeps to the description that it serves at /openapi.json: schemathesis makes requests from it, good
# ones and bad ones, to a local cluster, and judges every answer: no 5xx, no status, type or body that is not described.
#
#   scripts/test-openapi.sh [SECONDS]       bound of the whole run, 60 unless told
#   RAFTKV_SEED                             of the requests; it is printed
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

seconds=${1:-60}
[[ $seconds =~ ^[1-9][0-9]*$ ]] || die "$seconds is no number of seconds"
build_binaries
python=$("$ROOT/scripts/python-env.sh" requirements-openapi.txt)
seed=${RAFTKV_SEED:-$((RANDOM * 32768 + RANDOM))}

dir=$(mktemp -d)
pid=
stop() {
    if [ -n "$pid" ]; then
        kill "$pid" 2>/dev/null || true
        wait "$pid" 2>/dev/null || true
    fi
    rm -rf "$dir"
}
trap stop EXIT

section "Start a local cluster"
"$(target_dir)/release/raftkv" local --nodes 3 --http-port 0 --dir "$dir/data" --json >"$dir/out.json" 2>"$dir/log" </dev/null &
pid=$!
deadline=$((SECONDS + 120))
until [ -s "$dir/out.json" ]; do
    if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
        tail -n 30 "$dir/log" >&2
        die "the local cluster did not start"
    fi
    sleep 0.2
done
node=$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["nodes"][0]["http"])' "$dir/out.json")

section "Requests made from /openapi.json, for at most $seconds s (RAFTKV_SEED=$seed)"
cd "$dir"
export PYTHONPATH="$ROOT/scripts" SCHEMATHESIS_HOOKS=openapi_hooks PYTHONDONTWRITEBYTECODE=1
"$(dirname "$python")/schemathesis" --no-color --config-file "$ROOT/scripts/schemathesis.toml" run "http://$node/openapi.json" \
    --phases examples,coverage,fuzzing --max-time "$seconds" --seed "$seed" --workers 2 --request-timeout 15 \
    --generation-database none --continue-on-failure --suppress-health-check all ||
    die "the server does not keep to its description; RAFTKV_SEED=$seed makes the same requests again"
kill -0 "$pid" 2>/dev/null || die "the local cluster ended"
