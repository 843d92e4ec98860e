#!/usr/bin/env bash
# The table of docs/performance.md: local clusters and etcd, started for this and stopped after. About ten minutes.
# Arguments go to scripts/bench-table.py: --rounds N, --seconds N, --only PART-OF-A-NAME, --etcd PATH, --json FILE.
#
# etcd is taken from PATH (Debian: etcd-server); without it only RaftKV is measured, and the table says so.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
have etcd || [ -n "${ETCD:-}" ] || note "no etcd in PATH: measuring without a comparison (install etcd-server, or set ETCD=/path/to/etcd)"
# On the disk of the project: a temporary folder may be memory, and a measurement without a disk is none.
mkdir -p "$CACHE"
exec python3 "$ROOT/scripts/bench-table.py" --raftkv "$(target_dir)/release/raftkv" --dir "$CACHE" "$@"
