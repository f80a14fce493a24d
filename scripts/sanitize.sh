#!/usr/bin/env bash
# scripts/sanitize.sh address|thread MODULE…: builds these modules with that sanitizer and runs their tests.
set -euo pipefail
cd "$(dirname "$0")/.."

kind=$1
shift
modules=$(IFS=, && echo "$*")
# Assertions off, as in what is shipped; no_assertion_failures.c says why that takes more than a flag.
# C without debug information: TLS is most of what is built, and reports name its functions all the same.
options=(--sanitize="$kind" --scratch-path ".build-$kind" -Xswiftc -assert-config -Xswiftc Release -Xcc -g0)

timeout 3600 scripts/only.sh "$modules" swift build --build-tests "${options[@]}"

# What mutexes and continuations order, the thread sanitizer does not see without swift_edges.
preloaded=(no_assertion_failures)
if [ "$kind" = thread ]; then preloaded+=(swift_edges); fi
for name in "${preloaded[@]}"; do
    clang -shared -fPIC -O1 -o ".build-$kind/$name.so" "Tests/sanitizers/$name.c"
done
libraries=$(printf "$PWD/.build-$kind/%s.so " "${preloaded[@]}")

# Reports go to files and are printed last, where the end of a long log has them.
reports="$PWD/.build-$kind/reports"
rm -rf "$reports"
mkdir -p "$reports"
trap 'status=$?; if [ $status -ne 0 ]; then head -n 80 "$reports"/* 2>/dev/null || true; fi' EXIT

# One module after the other: some count what the process has open.
for module in "$@"; do
    echo "$module, $kind sanitizer"
    # Where gRPC is at work, what is left at the end is its own: connections that are still being closed.
    case $module in ControlPlane | Routing | Node) leaks=0 ;; *) leaks=1 ;; esac
    timeout 600 scripts/only.sh "$modules" env LD_PRELOAD="$libraries" \
        ASAN_OPTIONS="detect_leaks=$leaks:log_path=$reports/$module" \
        TSAN_OPTIONS="suppressions=$PWD/Tests/sanitizers/thread.supp:log_path=$reports/$module" \
        swift test --skip-build "${options[@]}" --disable-xctest --filter "^${module}Tests\\."
done
