#!/usr/bin/env bash
# Measures a cluster of three local processes, started for this and stopped after. Arguments go to `raftkv bench`.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
raftkv="$(target_dir)/release/raftkv"
# On the disk of the project: a temporary folder may be memory, and a measurement without a disk is none.
mkdir -p "$CACHE"
dir=$(mktemp -d "$CACHE/bench.XXXXXX")
"$raftkv" local --nodes 3 --http-port 0 --dir "$dir/data" --json >"$dir/out.json" 2>"$dir/log" </dev/null &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$dir"' EXIT
deadline=$((SECONDS + 60))
until [ -s "$dir/out.json" ]; do
    if ! kill -0 "$pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
        tail -n 30 "$dir/log" >&2
        die "the cluster did not start"
    fi
    sleep 0.2
done
endpoints=$(python3 -c 'import json,sys; print(",".join(n["http"] for n in json.load(open(sys.argv[1]))["nodes"]))' "$dir/out.json")
"$raftkv" bench --endpoints "$endpoints" "$@"
