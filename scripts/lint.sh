#!/usr/bin/env bash
# Formatting as .swift-format says; generated code is left as its generator wrote it. `scripts/lint.sh --fix` formats.
set -euo pipefail
cd "$(dirname "$0")/.."

mapfile -d '' files < <(find Package.swift Sources Tests Benchmarks -name '*.swift' -not -path '*/Generated/*' -print0)
if [ "${1:-}" = --fix ]; then
    swift format format --in-place --parallel "${files[@]}"
else
    swift format lint --strict --parallel "${files[@]}"
    echo "lint: ${#files[@]} Swift files are formatted as .swift-format says"
fi
