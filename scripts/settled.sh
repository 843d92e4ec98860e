#!/usr/bin/env bash
# Whether a sharded store is at rest: so many groups are active, each has slots, and nothing moves.
#
#   scripts/settled.sh http://127.0.0.1:8000 2
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

python3 - "$1" "$2" <<'END'
import json, sys, urllib.request
try:
    with urllib.request.urlopen(f"{sys.argv[1]}/v1/cluster", timeout=5) as answer:
        cluster = json.load(answer)
except OSError:
    sys.exit(1)
active = [group for group in cluster["groups"] if group["state"] == "active"]
slots = [group["slots"] for group in active]
at_rest = cluster.get("move") is None and len(active) == int(sys.argv[2])
# Shares differ by the slot that cannot be divided.
sys.exit(0 if at_rest and sum(slots) == 16384 and max(slots) - min(slots) <= len(slots) else 1)
END
