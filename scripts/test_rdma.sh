#!/usr/bin/env bash
# Everything that needs an RDMA device, on a real one: this machine's, or Soft-RoCE in a guest (Tests/rdma). `make
# test-rdma` calls this after set-up and build. BATON_RDMA_HOST: the address of this machine's device, to use that.
set -euo pipefail
cd "$(dirname "$0")/.."

tests=$PWD/$(realpath --relative-to=. "$(swift build -c release --show-bin-path)")/batonPackageTests.xctest
[ -x "$tests" ] || { echo "test-rdma: build first: swift build -c release --build-tests" >&2; exit 1; }
# A model that starts at once: what is tested is not the engine.
export BATON_MODEL=$PWD/.cache/rdma/model
[ -e "$BATON_MODEL/model.safetensors" ] || Tests/rdma/small_model.py "$BATON_MODEL"

# FILTER COMMAND…: runs these tests by a command; there must be some.
run() {
    local filter=$1 log
    shift
    log=$(mktemp)
    "$@" "$tests" --testing-library swift-testing --no-parallel --filter "$filter" >"$log" 2>&1 ||
        { cat "$log"; rm "$log"; return 1; }
    grep -E 'Test run with [1-9]' "$log" || { cat "$log"; rm "$log"; echo "test-rdma: no tests: $filter" >&2; return 1; }
    rm "$log"
}

clusters='^ClusterTests\.ClusterTests/(RDMALaneTests|GLM5Tests/draftsChangeNoAnswer)'
if [ -n "${BATON_RDMA_HOST:-}" ]; then
    echo "rdma: lanes, on this machine's device with $BATON_RDMA_HOST"
    run '^TransportTests\.' env
    echo "rdma: a cluster"
    run "$clusters" env
    exit
fi
export BATON_RDMA_HOST=10.9.0.1 BATON_RDMA_DISPOSABLE=1
guest() { Tests/rdma/guest.py --seconds 900 --memory 3072 "$@"; }
echo "rdma: lanes, in a guest with one Soft-RoCE device that talks to itself"
run '^TransportTests\.' guest --
echo "rdma: cut paths, in a guest with two devices and a cable"
BATON_RDMA_CABLE=1 run '^TransportTests\..*/RDMAPathTests' guest --net two --
echo "rdma: a device that is removed"
BATON_RDMA_REMOVE=1 run '^TransportTests\..*/aDeviceThatIsRemoved' guest --
echo "rdma: a cluster of real processes"
run "$clusters" guest --
