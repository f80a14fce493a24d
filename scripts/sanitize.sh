#!/usr/bin/env bash
# scripts/sanitize.sh address|thread MODULE…: builds these modules with that sanitizer and runs their tests.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=$1
shift
modules=$(IFS=, && echo "$*")
options=(--sanitize="$kind" --scratch-path ".build-$kind")

timeout 1800 scripts/only.sh "$modules" swift build --build-tests "${options[@]}"
preload=()
if [ "$kind" = thread ]; then
    # What mutexes and continuations order, the sanitizer does not see without this.
    clang -shared -fPIC -O1 -o .build-thread/swift_edges.so Tests/sanitizers/swift_edges.c
    preload=(LD_PRELOAD="$PWD/.build-thread/swift_edges.so")
fi
# One module after the other: some count what the process has open.
for module in "$@"; do
    echo "$module, $kind sanitizer"
    timeout 600 scripts/only.sh "$modules" env "${preload[@]}" \
        swift test --skip-build "${options[@]}" --disable-xctest --filter "^${module}Tests\\."
done
