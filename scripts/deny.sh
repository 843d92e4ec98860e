#!/usr/bin/env bash
# Checks the dependencies with cargo-deny by deny.toml: licences, sources, duplicates, and known vulnerabilities.
#
#   scripts/deny.sh                    the check; it needs no network once the crates are downloaded
#   scripts/deny.sh --renew [CLONE]    renews scripts/advisories from the RustSec database: a clone, or else its repository on GitHub
#
# Only advisories that name a crate of a lock file are committed, so the same commit gives the same result everywhere. The list of all
# crates in the database is committed, too: a new dependency whose advisories are missing here fails the check.
#
#   RAFTKV_ADVISORIES   the folder of the advisories, for tests (scripts/advisories)
# shellcheck source=scripts/lib.sh
. "$(dirname "$0")/lib.sh"

REPOSITORY=https://github.com/rustsec/advisory-db
ADVISORIES=${RAFTKV_ADVISORIES:-$ROOT/scripts/advisories}
# Three lines about the database, and then a name a line.
LIST="$ADVISORIES/database.txt"
# As cargo-deny calls its copy of the default database, in the folder that deny.toml names.
DATABASE="$CACHE/advisory-dbs/advisory-db-3157b0e258782691"
# What cargo-deny and cargo-audit accept at most by default.
OLD_DAYS=90
# fuzz/ is a workspace of its own, and none of it is shipped: its licences and duplicates are not checked.
LOCKS=(Cargo.lock fuzz/Cargo.lock)

# Of the names on stdin, the crates in a lock file.
locked() { LC_ALL=C comm -12 <(LC_ALL=C sort -u) <(cd "$ROOT" && sed -n 's/^name = "\(.*\)"$/\1/p' "${LOCKS[@]}" | LC_ALL=C sort -u); }

# renew SOURCE: replaces the committed files by those of a clone.
renew() {
    local commit date crates
    have git || apt_install git
    section "Advisories of $1"
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    git clone --quiet --bare --depth 1 --no-local "$1" "$work/clone" || die "could not clone $1"
    commit=$(git -C "$work/clone" rev-parse HEAD)
    date=$(TZ=UTC git -C "$work/clone" show --no-patch --date=format-local:%Y-%m-%d --format=%cd HEAD)
    git -C "$work/clone" ls-tree -d --name-only HEAD:crates >"$work/names"
    mapfile -t crates < <(locked <"$work/names")
    [ ${#crates[@]} -gt 0 ] || die "$1 has no advisory of any crate in ${LOCKS[*]}"
    mkdir -p "$ADVISORIES"
    rm -rf "$ADVISORIES/crates"
    git -C "$work/clone" archive HEAD "${crates[@]/#/crates/}" | tar -x -C "$ADVISORIES"
    {
        printf '%s\n' "# All crates with advisories in $REPOSITORY, by scripts/deny.sh --renew" "# Commit: $commit" "# Date: $date"
        LC_ALL=C sort "$work/names"
    } >"$LIST"
    note "${#crates[@]} crates, $(find "$ADVISORIES/crates" -name '*.md' | wc -l) advisories of $date: check and commit them"
}

# Warns where the advisories are old. Not an error: a machine without network cannot renew them.
check_age() {
    local date seconds days
    date=$(sed -n 's/^# Date: //p' "$LIST")
    [[ $date =~ ^[0-9]{4}-[0-9]{2}-[0-9]{2}$ ]] || die "$LIST does not say its date"
    seconds=$(date -u -d "$date" +%s)
    days=$(((EPOCHSECONDS - seconds) / 86400))
    if [ $days -gt $OLD_DAYS ]; then
        printf '\n%s\n\n' "############ THE ADVISORIES ARE OF $date, $days DAYS OLD, MORE THAN $OLD_DAYS: scripts/deny.sh --renew ############" >&2
    else
        note "advisories of $date, $days days old"
    fi
}

# Fails where the database has advisories of a crate and the committed files do not.
check_complete() {
    local crates crate missing=()
    mapfile -t crates < <(locked <"$LIST")
    for crate in "${crates[@]}"; do
        [ -d "$ADVISORIES/crates/$crate" ] || missing+=("$crate")
    done
    [ ${#missing[@]} = 0 ] || die "there are advisories of ${missing[*]}, and $ADVISORIES has none: scripts/deny.sh --renew"
}

# The committed advisories as cargo-deny reads them: the work tree of a git repository.
make_database() {
    have git || apt_install git
    rm -rf "$DATABASE"
    trap 'rm -rf "$DATABASE"' EXIT
    mkdir -p "$DATABASE"
    cp -R "$ADVISORIES/crates" "$DATABASE/"
    (
        # Set where a hook of git called this.
        unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
        cd "$DATABASE"
        git init --quiet .
        git add crates
        git -c user.name=raftkv -c user.email=raftkv@localhost -c commit.gpgSign=false commit --quiet --no-verify --message "Advisories"
    )
}

case ${1:-} in
'') ;;
--renew)
    [ $# -le 2 ] || die "usage: scripts/deny.sh --renew [CLONE]"
    renew "${2:-$REPOSITORY}"
    exit
    ;;
*) die "usage: scripts/deny.sh [--renew [CLONE]]" ;;
esac

need_cargo
need_cargo_tool deny || die "cargo-deny cannot be installed"
section "Dependencies ($(cargo deny --version))"
cd "$ROOT"
check_age
check_complete
make_database
# Crates for other systems are in the lock files, too, and no build downloads them.
for lock in "${LOCKS[@]}"; do
    cargo fetch --locked --quiet --manifest-path "${lock%.lock}.toml"
done
status=0
cargo deny --offline --locked check --deny unmatched-skip --deny unnecessary-skip --deny unmatched-skip-root || status=1
cargo deny --offline --locked --manifest-path fuzz/Cargo.toml --config deny.toml check advisories sources || status=1
[ $status = 0 ] || die "the errors above are of the dependencies; what may be among them is in deny.toml"
