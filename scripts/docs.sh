#!/usr/bin/env bash
# The API reference of the library modules, as DocC archives in .build-docs/, from the doc comments in the sources.
set -euo pipefail
cd "$(dirname "$0")/.."

modules=(OrderedJSON ModelFormat Tokenization Handoff Engine Transport)
names=$(IFS=,; echo "${modules[*]}")
symbols=.build-docs/symbols
rm -rf "$symbols"
mkdir -p "$symbols"
scripts/only.sh "$names" swift build --scratch-path .build-docs/build \
    -Xswiftc -emit-symbol-graph -Xswiftc -emit-symbol-graph-dir -Xswiftc "$PWD/$symbols" \
    -Xswiftc -symbol-graph-minimum-access-level -Xswiftc package
for module in "${modules[@]}"; do
    mkdir -p "$symbols/only-$module"
    mv "$symbols/$module"*.symbols.json "$symbols/only-$module/"
    docc convert --additional-symbol-graph-dir "$symbols/only-$module" --fallback-display-name "$module" \
        --fallback-bundle-identifier "baton.$module" --output-path ".build-docs/$module.doccarchive"
    echo "docs: .build-docs/$module.doccarchive"
done
echo "docs: the guides are in docs/; show an archive with: docc preview, or serve its folder with any web server"
