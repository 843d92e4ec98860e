#!/usr/bin/env bash
# Prints a Python that has what test_client.py needs, in a virtual environment of the project's own. With the name of another
# list of requirements beside this script, one that has those, in an environment for them.
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

list=${1:-requirements.txt}
REQUIREMENTS="$ROOT/scripts/$list"
VENV="$CACHE/venv${1:+-$(basename "$list" .txt)}"

# The list as it was when the environment was made lies in it: a changed list makes a new one.
if ! cmp -s "$REQUIREMENTS" "$VENV/requirements.txt"; then
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
    cp "$REQUIREMENTS" "$VENV/requirements.txt"
fi
echo "$VENV/bin/python"
