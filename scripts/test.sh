#!/usr/bin/env bash
# Every test, in the order in which a failure is cheapest to find. `make test` calls this after set-up.
#
# One release build serves all of it: the executables the cluster tests start are those a user runs, and the engine's
# tests are too slow without optimisation. The sanitizer runs build only the modules they look at.
set -euo pipefail
cd "$(dirname "$0")/.."

# What each stage took is printed at the end, however it ends.
started=$SECONDS
stage=""
stage_started=$SECONDS
took=""
step() {
    if [ -n "$stage" ]; then took+=$(printf '%5d s  %s' $((SECONDS - stage_started)) "$stage")$'\n'; fi
    stage=$*
    stage_started=$SECONDS
    printf '\n== %s (%d s since the start)\n' "$*" $((SECONDS - started))
}
summary() {
    printf '\n%s%5d s  in all; the last stage: %s\n' "$took" $((SECONDS - started)) "$stage"
}
kernel=""
finish() {
    if [ -n "$kernel" ]; then kill "$kernel" 2>/dev/null || true; fi
    summary
}
trap finish EXIT

step "formatting"
scripts/lint.sh

step "model of the handoff contract, the smallest configurations"
scripts/verify.py --short

# Beside the build, which leaves processors idle while it links; minutes, once per machine.
if [ -z "${BATON_RDMA_HOST:-}" ]; then
    mkdir -p .cache/rdma
    nice Tests/rdma/kernel.sh >.cache/rdma/kernel.log 2>&1 &
    kernel=$!
fi

step "release build with tests"
swift build -c release --build-tests

step "unit tests"
waiting='^(ControlPlaneTests|RoutingTests|NodeTests)\.'
swift test -c release --skip-build --disable-xctest --skip "$waiting|^ClusterTests\."
# By themselves: they wait for each other's tasks with deadlines, on threads that the others compute on for seconds.
swift test -c release --skip-build --disable-xctest --filter "$waiting"

step "cluster of real processes"
swift test -c release --skip-build --disable-xctest --no-parallel --filter '^ClusterTests\.'

step "lanes and a cluster over RDMA"
if [ -n "$kernel" ]; then
    wait "$kernel" || { cat .cache/rdma/kernel.log; exit 1; }
    kernel=""
fi
scripts/test_rdma.sh

step "the official openai client"
.cache/venv/bin/python -m unittest discover --start-directory Tests/clients --verbose

step "what happens around a process: log pipe, descriptors, signals, crash"
python3 -m unittest discover --start-directory Tests/processes --verbose

step "late writes of a paused sender, byte for byte"
RUNS=25 Tests/chaos/paused_sender.py

step "an engine that hangs while its node goes on"
WITHIN=60 Tests/chaos/hung_engine.py

step "chaos, the short form"
REQUESTS=32 Tests/chaos/chaos.py --seconds 30

step "simulated clusters, and every rule broken in turn"
scripts/simulate.sh

# Modules that need no gRPC and no TLS; whole nodes with both are what `make sanitize` looks at.
step "address sanitizer: parsers of untrusted bytes, lanes, slot pool, what decides"
scripts/sanitize.sh address OrderedJSON ModelFormat Tokenization API Handoff Transport Cores

step "thread sanitizer: lanes, state machines, what decides"
scripts/sanitize.sh thread Handoff Transport Cores

step "all tests passed"
