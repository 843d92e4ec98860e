#!/usr/bin/env bash
# A real browser shows pages of another site, which have it send requests to a local store: by images, forms, fetch without CORS, links, and
# a host name that comes to mean another address (DNS rebinding). Nothing in the store changes. Not a part of CI: Chromium is 100 MB.
#
#   --record   writes the heads that the browser sent to tests/fixtures/chromium.http, which the tests of the browser guard replay
#   CHROMIUM   the browser's program (chromium, from Debian's package of that name)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

record=()
case "$*" in
'') ;;
--record) record=(--record "$ROOT/tests/fixtures/chromium.http") ;;
*) die "usage: scripts/test-browser.sh [--record]" ;;
esac
build_binaries
chromium=${CHROMIUM:-chromium}
have "$chromium" || apt_install chromium

trap stop_local EXIT
section "Pages of other sites in $("$chromium" --version --no-sandbox 2>/dev/null | head -n 1)"
start_local --nodes 3
python3 "$ROOT/scripts/browser.py" --store "$local_dir/out.json" --chromium "$chromium" "${record[@]}"
