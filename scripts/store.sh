# Sourced by the scripts beside it: what the routers say of a store. The array `raftkv` says how the command is run. Needs
# neither Python nor curl, for `make up` has to tell the truth without them.
# shellcheck shell=bash disable=SC2154 # `raftkv` is set by the scripts

# Reads a list of groups as JSON, whatever the order of the fields; prints ID|NAME|STATE|REACHABLE|SLOTS|MEMBER MEMBER ... for each.
groups_of_json() {
    # Members become <their name>, so that each brace that is left begins a group.
    tr -d '\n' | sed -E \
        -e 's/\{[^{}]*"group_address":[^{}]*"name": ?"([^"]*)"[^{}]*\}/<\1>/g' \
        -e 's/\{[^{}]*"name": ?"([^"]*)"[^{}]*"group_address":[^{}]*\}/<\1>/g' | tr '{' '\n' | grep '"state"' |
        while IFS= read -r group; do
            members=$(printf '%s' "$group" | grep -o '<[^>]*>' | tr -d '<>' | tr '\n' ' ')
            own=$(printf '%s' "$group" | sed 's/<[^>]*>//g')
            field() { printf '%s' "$own" | sed -n -E "s/.*\"$1\": ?\"?([^\",}]*).*/\1/p"; }
            printf '%s|%s|%s|%s|%s|%s\n' "$(field id)" "$(field name)" "$(field state)" "$(field reachable)" "$(field slots)" "${members% }"
        done || true
}

# The groups that the store has: not those that were removed. Fails when no router answers.
store_groups() {
    local json
    json=$("${raftkv[@]}" group list -o json 2>&1) || { printf '%s\n' "$json" >&2 && return 1; }
    printf '%s' "$json" | groups_of_json | grep -v '|removed|' || true
}

# Members of groups that do not answer.
missing_members() { awk -F '|' '$4 != "true" { print $6 }' | tr ' ' '\n' | grep . || true; }

# unsettled GROUPS: fails while the store is not at rest, and prints why.
unsettled() {
    local groups operations active lost
    groups=$(store_groups 2>&1) || { printf '%s\n' "$groups" | tail -n 1 && return 1; }
    lost=$(printf '%s\n' "$groups" | awk -F '|' '$3 != "forming" && $4 != "true" { print $2 " (" $6 ")" }')
    [ -z "$lost" ] || { printf 'these groups do not answer: %s\n' "${lost//$'\n'/, }" && return 1; }
    active=$(printf '%s\n' "$groups" | grep -c '|active|' || true)
    [ "$active" -ge "$1" ] || { printf '%s of %s groups are active\n' "$active" "$1" && return 1; }
    operations=$("${raftkv[@]}" operation list -o json 2>&1) || { printf '%s\n' "$operations" | tail -n 1 && return 1; }
    if printf '%s' "$operations" | grep -q -E '"state": ?"(pending|running|stalled|cancelling)"'; then
        printf 'slots are being moved: raftkv operation list\n'
        return 1
    fi
}

# settled GROUPS: waits until GROUPS groups are active and nothing moves; then each has its share of the slots.
settled() {
    local deadline=$((SECONDS + 120)) why shares
    until why=$(unsettled "$1"); do
        [ $SECONDS -lt $deadline ] || die "$1 groups are not settled: $why"
        sleep 0.2
    done
    shares=$(store_groups | awk -F '|' -v groups="$1" '{ print ($5 > 16384 / groups - 4 && $5 < 16384 / groups + 4) ? "even" : $0 }' | uniq)
    [ "$shares" = even ] || die "the slots are not shared evenly: $shares"
}
