#!/usr/bin/env bash
# The table of docs/reference/performance.md: local clusters and etcd, started for this and stopped after. About twenty minutes.
# Arguments go to scripts/bench-table.py: --rounds N, --seconds N, --only PART-OF-A-NAME, --etcd PATH, --json FILE.
# With --growth first, those behind it go to scripts/bench-growth.py: --parts, --keys N, --minutes N.
#
# etcd is taken from PATH (Debian: etcd-server); without it only RaftKV is measured, and the table says so.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

build_binaries
have etcd || [ -n "${ETCD:-}" ] || note "no etcd in PATH: measuring without a comparison (install etcd-server, or set ETCD=/path/to/etcd)"
# On the disk of the project: a temporary folder may be memory, and a measurement without a disk is none.
mkdir -p "$CACHE"
script=bench-table.py
if [ "${1:-}" = --growth ]; then
    script=bench-growth.py
    shift
else
    # The ceiling that the table compares with; of the whole workspace, so that the features are those of the build before.
    (cd "$ROOT" && cargo build --release --locked --workspace --example bare_http)
fi
exec python3 "$ROOT/scripts/$script" --raftkv "$(target_dir)/release/raftkv" --dir "$CACHE" "$@"
