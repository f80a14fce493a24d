#!/usr/bin/env bash
# scripts/sanitize.sh address|thread MODULE…: builds these modules with that sanitizer and runs their tests.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=$1
shift
modules=$(IFS=, && echo "$*")
# Assertions off, as in what is shipped: gRPC asserts that a stream is not closed under a writer, which a cancel may do.
# C without debug information: TLS is most of what is built, and reports name its functions all the same.
options=(--sanitize="$kind" --scratch-path ".build-$kind" -Xswiftc -assert-config -Xswiftc Release -Xcc -g0)

timeout 1800 scripts/only.sh "$modules" swift build --build-tests "${options[@]}"
environment=()
if [ "$kind" = thread ]; then
    # What mutexes and continuations order, the sanitizer does not see without this.
    clang -shared -fPIC -O1 -o .build-thread/swift_edges.so Tests/sanitizers/swift_edges.c
    environment=(LD_PRELOAD="$PWD/.build-thread/swift_edges.so")
fi
# One module after the other: some count what the process has open.
for module in "$@"; do
    echo "$module, $kind sanitizer"
    # Where gRPC is at work, what is left at the end is its own: connections that are still being closed.
    case $module in ControlPlane | Routing | Node) leaks=0 ;; *) leaks=1 ;; esac
    timeout 600 scripts/only.sh "$modules" env ASAN_OPTIONS=detect_leaks=$leaks "${environment[@]}" \
        swift test --skip-build "${options[@]}" --disable-xctest --filter "^${module}Tests\\."
done
