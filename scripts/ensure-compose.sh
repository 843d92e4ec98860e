#!/usr/bin/env bash
# Makes sure that `docker compose` (version 2 or later) is there; where it is not, takes the plugin out of Debian's
# package into this user's plugin folder. Needs no root, and changes nothing that the system's packages own.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PLUGINS="${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins"
# Debian's first release whose docker-compose is the plugin; its package needs nothing but a C library from 2023 on.
SUITE=trixie

compose_version() { docker compose version --short 2>/dev/null | sed 's/^v//'; }

is_v2() { case "$(compose_version)" in '' | 0.* | 1.*) return 1 ;; esac; }

# apt as this machine has it set up, looking at nothing but the one suite, with folders of its own.
suite_apt() {
    local folder=$1
    shift
    apt-get -qq -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::Lists=$folder/lists" -o "Dir::Cache=$folder/cache" \
        -o "APT::Sandbox::User=$(id -un)" -o Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false "$@"
}

from_debian() {
    local mirror folder package
    have apt-get && have dpkg-deb || return 1
    mirror=$("$ROOT/scripts/debian-mirror.sh" Debian) || return 1
    [ -r /usr/share/keyrings/debian-archive-keyring.gpg ] || return 1
    # Removed by the shell that runs this function: it is always called in a subshell.
    folder=$(mktemp -d)
    # shellcheck disable=SC2064
    trap "rm -rf '$folder'" EXIT
    mkdir -p "$folder/lists/partial" "$folder/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $SUITE main" >"$folder/sources.list"
    cd "$folder"
    suite_apt "$folder" update >&2
    # buildx comes along: clients that have it build with it, and older ones do not mind.
    suite_apt "$folder" download docker-compose docker-buildx >&2
    for package in ./*.deb; do dpkg-deb -x "$package" "$folder/root"; done
    mkdir -p "$PLUGINS"
    local plugin
    for plugin in docker-compose docker-buildx; do
        docker "${plugin#docker-}" version >/dev/null 2>&1 && is_plugin_v2 "$plugin" && continue
        install -m 755 "$(find "$folder/root" -type f -path "*/cli-plugins/$plugin" | head -n 1)" "$PLUGINS/$plugin"
    done
}

is_plugin_v2() { [ "$1" != docker-compose ] || is_v2; }

docker_answers || die "no Docker engine answers: install one (Debian: apt-get install docker.io) or use 'raftkv local'"

if ! is_v2; then
    section "Install the Docker Compose plugin from Debian's package into $PLUGINS"
    (from_debian) || true
    is_v2 || die "Docker Compose 2 or later is missing ('docker compose version' does not answer).
Install the plugin: https://docs.docker.com/compose/install/linux/ (Debian and Ubuntu, with Docker's packages:
apt-get install docker-compose-plugin; Ubuntu: apt-get install docker-compose-v2)"
fi
note "docker compose $(compose_version)"
