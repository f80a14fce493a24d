#!/usr/bin/env bash
# Simulated clusters of the shipping state machines through faults, then every rule of the contract broken in turn.
# `make simulate` calls this. SEEDS: how many runs; WITHIN: seeds within which each broken rule must be caught.
#
# Two builds: the first is what nodes and routers ship, the second can break rules and is used for nothing else.
set -euo pipefail
cd "$(dirname "$0")/.."

jobs=${JOBS:-$(nproc)}
build() { scripts/only.sh simulate swift build -c release --product simulate --scratch-path "$1"; }
build .build-simulate
BATON_MUTANTS=1 build .build-simulate-mutants

started=$SECONDS
.build-simulate/release/simulate --seeds "${SEEDS:-5000}" --jobs "$jobs" ${PARTIAL:+--partial}
.build-simulate-mutants/release/simulate --mutants --within "${WITHIN:-1000}" --jobs "$jobs"
echo "simulated in $((SECONDS - started)) s, builds not counted"
