# Sourced by the scripts beside it; not run by itself.
# shellcheck shell=bash

set -euo pipefail

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export ROOT
# Everything that is made here and is not cargo's: git ignores it, `rm -rf` of it is always safe.
export CACHE="$ROOT/.cache"
# Files made here go into an image and are read by another user than the one who made them.
umask 022

# Progress goes to stderr: some of the scripts answer on stdout. Where RAFTKV_STAGES names a file (.ci/run), each stage is noted there
# with the second at which it began, for scripts/ci-report.py; and it is said how long the stage before took.
section() {
    if [ -n "${RAFTKV_STAGES:-}" ]; then
        local last=''
        [ ! -s "$RAFTKV_STAGES" ] || last=$(tail -n 1 "$RAFTKV_STAGES")
        [ -z "$last" ] || printf '\n<== %s: %s s\n' "${last#*$'\t'}" $((EPOCHSECONDS - ${last%%$'\t'*})) >&2
        printf '%s\t%s\n' "$EPOCHSECONDS" "$*" >>"$RAFTKV_STAGES"
    fi
    printf '\n==> %s\n' "$*" >&2
}
note() { printf '    %s\n' "$*" >&2; }
die() {
    printf '\nerror: %s\n' "$*" >&2
    exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root, or says exactly which one has to be run.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif have sudo && sudo -n true 2>/dev/null; then
        sudo "$@"
    elif have sudo && [ -t 0 ]; then
        note "root is needed for: $*"
        sudo "$@"
    else
        die "root is needed, and there is no sudo that works here. As root, run: $*"
    fi
}

# apt_install PACKAGE...: installs the Debian packages that are missing.
apt_install() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    have apt-get || die "missing: ${missing[*]}. This machine has no apt-get: install them with its own package manager."
    section "Install ${missing[*]}"
    as_root apt-get update -qq >&2 || note "apt-get update failed: going on with the lists that are there"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
        die "could not install ${missing[*]} with apt-get"
}

# Whether a Docker engine answers this user. Says why when there is a client but no answer.
docker_answers() {
    local answer
    have docker || return 1
    if ! answer=$(timeout 20 docker version --format '{{.Server.Version}}' 2>&1); then
        note "docker does not answer: $(printf '%s' "$answer" | tail -n 1)"
        return 1
    fi
}

# What says cargo is missing, and how to get it.
need_cargo() {
    have cargo || { [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"; } ||
        die "Rust is missing: install it from https://rustup.rs (version $(rust_version) or later)"
    have cc || apt_install gcc libc6-dev
}

# need_cargo_tool NAME: makes `cargo NAME` work. Compiling one takes minutes, so the compiled one comes first.
need_cargo_tool() {
    local python
    cargo "$1" --version >/dev/null 2>&1 && return
    if python=$("$ROOT/scripts/python-env.sh" requirements-cargo.txt) && PATH="$(dirname "$python"):$PATH" &&
        cargo "$1" --version >/dev/null 2>&1; then
        return
    fi
    section "Install cargo-$1"
    cargo install "cargo-$1" --locked
}

rust_version() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$ROOT/Cargo.toml"; }

# The one build of the project: binaries, tests and images all come from it. RAFTKV_SKIP_BUILD: it was just made.
build_binaries() {
    [ -z "${RAFTKV_SKIP_BUILD:-}" ] || return 0
    need_cargo
    section "Build (release)"
    # xtask only checks the repository: scripts/verify.sh builds it.
    (cd "$ROOT" && cargo build --release --locked --workspace --exclude xtask --bins)
}

# The programs that are shipped.
# shellcheck disable=SC2034 # for the scripts that source this one
PROGRAMS=(raftkv raftkv-engine raftkv-sidecar raftkv-router)

# strip_program FROM TO: line tables are most of a binary's size; the names that a backtrace shows stay.
strip_program() { strip --strip-debug -o "$2" "$1" && chmod 755 "$2"; }

target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$ROOT/target}"; }

# seconds HUMAN: how long the step that began at $SECONDS=start took.
took() { note "took $((SECONDS - $1)) s"; }

# One local cluster at a time: where its files are, and its process.
local_dir=
local_pid=

# start_local ARGUMENTS...: `raftkv local` on free ports, until it says where everything is. For: trap stop_local EXIT
start_local() {
    local deadline=$((SECONDS + 120))
    local_dir=$(mktemp -d)
    "$(target_dir)/release/raftkv" local --http-port 0 --dir "$local_dir/data" -o json "$@" \
        >"$local_dir/out.json" 2>"$local_dir/log" </dev/null &
    local_pid=$!
    until [ -s "$local_dir/out.json" ]; do
        if ! kill -0 "$local_pid" 2>/dev/null || [ $SECONDS -ge $deadline ]; then
            tail -n 30 "$local_dir/log" >&2
            die "the local cluster did not start"
        fi
        sleep 0.2
    done
}

# local_addresses nodes|routers: one a line.
local_addresses() {
    python3 -c 'import json,sys; print(*(n["http"] for n in json.load(open(sys.argv[1]))[sys.argv[2]]), sep="\n")' \
        "$local_dir/out.json" "$1"
}

stop_local() {
    if [ -n "$local_pid" ]; then
        kill "$local_pid" 2>/dev/null || true
        wait "$local_pid" 2>/dev/null || true
        rm -rf "$local_dir"
    fi
    local_pid=
}
