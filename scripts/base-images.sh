#!/usr/bin/env bash
# Prints the name of the runtime base image. It is Debian's where a registry can be reached; where none can, it is made
# here out of Debian's packages, once, of the release that this machine runs, so that binaries built on it find their
# C library.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

PUBLIC=$(sed -n 's/^ARG RUNTIME_IMAGE=//p' "$ROOT/Dockerfile")
# A registry that does not answer at all must not cost minutes.
PULL_SECONDS=120

if docker image inspect "$PUBLIC" >/dev/null 2>&1; then
    echo "$PUBLIC"
    exit
fi

# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# shellcheck source=/dev/null
origin=$(. /etc/os-release && echo "${NAME%% *}")
made="raftkv-base:${codename:-none}"
if docker image inspect "$made" >/dev/null 2>&1; then
    echo "$made"
    exit
fi

section "Pull $PUBLIC"
if timeout "$PULL_SECONDS" docker pull -q "$PUBLIC" >&2; then
    echo "$PUBLIC"
    exit
fi

section "No registry can be reached: make $made out of packages (a minute or two)"
start=$SECONDS
if [ -z "$codename" ] || ! have apt-get; then
    die "$PUBLIC cannot be pulled, and only a Debian or Ubuntu machine can make its stand-in.
Load an image that has a C library and a shell, and name it: RUNTIME_IMAGE=name make up"
fi
mirror=$("$ROOT/scripts/debian-mirror.sh" "$origin" "$codename")
apt_install debootstrap
# Not under the project: a path with a blank in it, or a mount without device files, is more than debootstrap can do.
folder=$(mktemp -d /var/tmp/raftkv-base.XXXXXX)
trap 'as_root rm -rf --one-file-system "$folder"' EXIT
log=$folder.log
as_root debootstrap --variant=minbase "$codename" "$folder" "$mirror" >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "debootstrap could not make the base image (its whole output: $log)"
}
rm -f "$log"
as_root chroot "$folder" apt-get clean
as_root sh -c "rm -rf '$folder'/var/lib/apt/lists/* '$folder'/var/cache/*/* '$folder'/var/log/* \
    '$folder'/usr/share/doc/* '$folder'/usr/share/man/* '$folder'/usr/share/locale/* '$folder'/usr/share/info/*"
as_root tar -C "$folder" --numeric-owner -c . |
    docker import --change 'CMD ["bash"]' --message "debootstrap $codename" - "$made" >/dev/null
took "$start"
echo "$made"
