#!/usr/bin/env bash
# Builds the image of nodes and routers and prints its name. Where the build image can be pulled, that is an ordinary multi-stage
# build; where none can, the binaries are built on this machine and put into a base image made on it.
#
#   RAFTKV_IMAGE   the name (default raftkv:latest)
#   BINARIES       build | prebuilt, instead of finding out
#   RUNTIME_IMAGE  the base, instead of finding out
#   RAFTKV_PROFILE release | dist: cargo's profile where the build is made in a container (default release, which is ready sooner;
#                  `docker compose build` by itself takes dist)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

export RAFTKV_IMAGE=${RAFTKV_IMAGE:-raftkv:latest} RAFTKV_PROFILE=${RAFTKV_PROFILE:-release}

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
    for name in "${PROGRAMS[@]}"; do
        strip_program "$(target_dir)/release/$name" "$CACHE/bin/$name.new"
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
