#!/usr/bin/env bash
# Old and new programs in one group, and in a store of two groups behind two routers: old, new, old, new, in random order, under checked
# load. The older version is built once and kept in .cache.
#
#   FROM               the commit of the older version (a tag or a hash)
#   RAFTKV_TEST_SEED   the seed of a run, to have its order again
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

[ -n "${FROM:-}" ] || die "FROM is missing: name the commit of the older version, as in: make test-upgrade FROM=v0.1.0"
commit=$(git -C "$ROOT" rev-parse --verify --quiet "$FROM^{commit}") || die "no such commit: $FROM"
programs=(raftkv raftkv-engine raftkv-sidecar raftkv-router)
old="$CACHE/old/$commit"

build_binaries
if [ ! -e "$old/complete" ]; then
    section "Programs of $FROM"
    start=$SECONDS
    tree="$CACHE/old/tree"
    forget() { git -C "$ROOT" worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"; }
    forget
    trap forget EXIT
    git -C "$ROOT" worktree prune
    git -C "$ROOT" worktree add --quiet --detach "$tree" "$commit"
    target="$CACHE/old/target"
    (cd "$tree" && CARGO_TARGET_DIR=$target cargo build --release --locked --workspace --bins)
    mkdir -p "$old"
    for program in "${programs[@]}"; do
        cp --remove-destination "$target/release/$program" "$old/$program"
    done
    touch "$old/complete"
    rm -rf "$target"
    forget
    trap - EXIT
    took "$start"
fi

section "Upgrades from $FROM"
export RAFTKV_OLD_BIN_DIR=$old RAFTKV_REQUIRE_OLD=1
cd "$ROOT"
need_cargo_tool nextest || die "cargo-nextest cannot be installed"
cargo nextest run --release --locked --workspace --no-fail-fast -E 'binary_id(=raftkv-tests::cluster) & test(/^upgrade::/)'
