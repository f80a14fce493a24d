#!/usr/bin/env bash
# The quick checks: formatting (swift-format) and the tidy rules (Tests/TidyTests, without the rest of the package).
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/lint.sh
scripts/only.sh TidyTests swift test -c release --scratch-path .build-tidy --disable-xctest "$@"
