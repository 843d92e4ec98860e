#!/usr/bin/env bash
# debian-mirror.sh ORIGIN [CODENAME]: prints the mirror that apt is configured with, so that nothing here names one.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

origin=$1
# shellcheck source=/dev/null
codename=${2:-$(. /etc/os-release && echo "$VERSION_CODENAME")}

# One suite's main archive, not its updates or its security archive.
mirror() {
    # shellcheck disable=SC2016 # for apt to expand
    apt-get indextargets --format '$(ORIGIN)|$(CODENAME)|$(COMPONENT)|$(SITE)' 2>/dev/null |
        awk -F'|' -v o="$origin" -v c="$codename" '$1 == o && $2 == c && $3 == "main" { print $4; exit }'
}

found=$(mirror)
if [ -z "$found" ]; then
    # The lists were never fetched on this machine.
    as_root apt-get update -qq >&2
    found=$(mirror)
fi
[ -n "$found" ] || die "apt is configured with no archive of $origin $codename"
printf '%s\n' "$found"
