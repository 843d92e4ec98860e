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

section "Start a local cluster"
trap stop_local EXIT
start_local --nodes 3
# All of them, and not a `head` of them: it would close the pipe while they are still written.
mapfile -t nodes < <(local_addresses nodes)
node=${nodes[0]}

section "Requests made from /openapi.json, for at most $seconds s (RAFTKV_SEED=$seed)"
cd "$local_dir"
export PYTHONPATH="$ROOT/scripts" SCHEMATHESIS_HOOKS=openapi_hooks PYTHONDONTWRITEBYTECODE=1
"$(dirname "$python")/schemathesis" --no-color --config-file "$ROOT/scripts/schemathesis.toml" run "http://$node/openapi.json" \
    --phases examples,coverage,fuzzing --max-time "$seconds" --seed "$seed" --workers 2 --request-timeout 15 \
    --generation-database none --continue-on-failure --suppress-health-check all ||
    die "the server does not keep to its description; RAFTKV_SEED=$seed makes the same requests again"
kill -0 "$local_pid" 2>/dev/null || die "the local cluster ended"
