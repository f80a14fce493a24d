#!/usr/bin/env bash
# Compiles Sources/ControlPlane/control.proto into Sources/ControlPlane/Generated, with the plugins of the very package
# versions that Package.swift asks for. Needs Debian's protobuf-compiler. The first run builds the plugins (minutes).
set -euo pipefail
cd "$(dirname "$0")/.."

command -v protoc >/dev/null || { echo "generate: install protoc first: apt-get install protobuf-compiler" >&2; exit 1; }
# Apart from .build, which would take the plugins and their C++ for its own from then on.
options=(-c release --scratch-path .build-generate)
swift build "${options[@]}" --product protoc-gen-swift
swift build "${options[@]}" --product protoc-gen-grpc-swift-2
plugins=$(swift build "${options[@]}" --show-bin-path)

cd Sources/ControlPlane
protoc control.proto \
    --plugin="$plugins/protoc-gen-swift" --swift_out=Generated \
    --swift_opt=Visibility=Package --swift_opt=UseAccessLevelOnImports=true \
    --plugin="$plugins/protoc-gen-grpc-swift-2" --grpc-swift-2_out=Generated \
    --grpc-swift-2_opt=Visibility=Package --grpc-swift-2_opt=UseAccessLevelOnImports=true
