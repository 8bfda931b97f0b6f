#!/bin/sh
# beside.sh SHOWN OTHER: run SHOWN in view and OTHER beside it; then print what OTHER printed; fail if either fails.
set -u
printed=$(mktemp)
sh -c "exec $2" > "$printed" 2>&1 &
other=$!
trap 'kill "$other" 2>/dev/null; rm -f "$printed"' EXIT
trap 'exit 130' INT TERM
sh -c "$1"
shown=$?
wait "$other"
beside=$?
cat "$printed"
[ "$shown" -eq 0 ] || exit "$shown"
exit "$beside"
