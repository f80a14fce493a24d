#!/usr/bin/env bash
# scripts/only.sh MODULE[,MODULE…] COMMAND…: runs a swift command for these modules and what they use. That resolves
# fewer packages than the whole; what was resolved for the whole is put back, or the next build would start afresh.
set -euo pipefail
cd "$(dirname "$0")/.."

kept=$(mktemp)
had=false
if [ -f Package.resolved ]; then
    cp -p Package.resolved "$kept"
    had=true
fi
trap 'if $had; then mv "$kept" Package.resolved; else rm -f "$kept"; fi' EXIT

export BATON_MODULES=$1
shift
"$@"
