#!/usr/bin/env bash
# Builds the programs as they are shipped (profile `dist`: optimised across crates) and puts them into dist/, without line tables, as
# they are in the image. Takes some minutes more than a release build.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

need_cargo
cd "$ROOT"
section "Build (dist)"
start=$SECONDS
cargo build --profile dist --locked -p raftkv-engine -p raftkv-sidecar -p raftkv-router -p raftkv-cli --bins
took "$start"
rm -rf dist
mkdir dist
for program in "${PROGRAMS[@]}"; do
    strip_program "$(target_dir)/dist/$program" "dist/$program"
done
# With the features of the whole workspace, as in scripts/verify.sh.
cargo build --release --locked --quiet --workspace --bin xtask
"$(target_dir)/release/xtask" dist dist
section "The programs are in $ROOT/dist"
(cd dist && du -h "${PROGRAMS[@]}") | while read -r size program; do note "$size  $program"; done
note "man pages and completion scripts: dist/man, dist/completion"
note "with line tables for backtraces and profilers: $(target_dir)/dist"
