#!/usr/bin/env bash
# Prints a Python that has what test_client.py needs, in a virtual environment of the project's own.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

VENV="$CACHE/venv"
REQUIREMENTS="$ROOT/scripts/requirements.txt"
has_all() { "$1" -c 'import requests, msgpack' 2>/dev/null; }

if ! has_all "$VENV/bin/python"; then
    section "Python packages: $(grep -v '^#' "$REQUIREMENTS" | tr '\n' ' ')"
    have python3 || apt_install python3 python3-venv
    mkdir -p "$CACHE"
    rm -rf "$VENV"
    if ! python3 -m venv "$VENV" >&2; then
        # Debian's python3 comes without it.
        rm -rf "$VENV"
        apt_install python3-venv
        python3 -m venv "$VENV" >&2
    fi
    "$VENV/bin/python" -m pip install --quiet --requirement "$REQUIREMENTS" >&2 ||
        die "could not install $REQUIREMENTS with pip"
fi
echo "$VENV/bin/python"
