#!/usr/bin/env bash
# The table of docs/performance.md: local clusters and etcd, started for this and stopped after. About ten minutes.
# Arguments go to scripts/bench-table.py: --rounds N, --seconds N, --only PART-OF-A-NAME, --etcd PATH, --json FILE.
# With --growth first, those behind it go to scripts/bench-growth.py: --parts, --keys N, --minutes N.
#
# etcd is taken from PATH (Debian: etcd-server); without it only RaftKV is measured, and the table says so.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
# The ceiling that the table compares with.
cargo build --release --locked --package raftkv-api --example bare_http --manifest-path "$ROOT/Cargo.toml"
have etcd || [ -n "${ETCD:-}" ] || note "no etcd in PATH: measuring without a comparison (install etcd-server, or set ETCD=/path/to/etcd)"
# On the disk of the project: a temporary folder may be memory, and a measurement without a disk is none.
mkdir -p "$CACHE"
script=bench-table.py
if [ "${1:-}" = --growth ]; then
    script=bench-growth.py
    shift
fi
exec python3 "$ROOT/scripts/$script" --raftkv "$(target_dir)/release/raftkv" --dir "$CACHE" "$@"
