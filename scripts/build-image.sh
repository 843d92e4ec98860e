#!/usr/bin/env bash
# Builds the image of nodes and routers and prints its name. Where the build image can be pulled, that is an ordinary multi-stage
# build; where none can, the binaries are built on this machine and put into a base image made on it.
#
#   RAFTKV_IMAGE   the name (default raftkv:latest)
#   BINARIES       build | prebuilt, instead of finding out
#   RUNTIME_IMAGE  the base, instead of finding out
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export RAFTKV_IMAGE=${RAFTKV_IMAGE:-raftkv:latest}
NAMES="raftkv raftkv-engine raftkv-sidecar raftkv-router"

"$ROOT/scripts/ensure-compose.sh"
RUNTIME_IMAGE=${RUNTIME_IMAGE:-$("$ROOT/scripts/base-images.sh")}
case "$RUNTIME_IMAGE" in
    raftkv-base:*) BINARIES=${BINARIES:-prebuilt} ;;
    *) BINARIES=${BINARIES:-build} ;;
esac
export RUNTIME_IMAGE BINARIES

if [ "$BINARIES" = prebuilt ]; then
    build_binaries
    mkdir -p "$CACHE/bin"
    for name in $NAMES; do
        # Line tables are most of a binary's size; the names that a backtrace shows stay.
        strip --strip-debug -o "$CACHE/bin/$name.new" "$(target_dir)/release/$name"
        chmod 755 "$CACHE/bin/$name.new"
        # The same bytes keep their time, so that nothing is built again.
        if cmp -s "$CACHE/bin/$name.new" "$CACHE/bin/$name"; then
            rm "$CACHE/bin/$name.new"
        else
            mv "$CACHE/bin/$name.new" "$CACHE/bin/$name"
        fi
    done
fi

section "Build image $RAFTKV_IMAGE (binaries: $BINARIES, base: $RUNTIME_IMAGE)"
start=$SECONDS
cd "$ROOT"
docker compose build --quiet node1 >&2
took "$start"
echo "$RAFTKV_IMAGE"
