#!/usr/bin/env bash
# Installs what this project needs and nothing that is already there. Safe to run again at any time.
#
#   scripts/setup.sh [packages] [model] [clients] [verify] [guest] [rdma] [bench]
#                                                           default: packages model clients verify guest
#
#   packages  Debian packages that the Swift build needs
#   model     SmolLM2-135M-Instruct (98 MB) into .cache/models, unless MODEL names another
#   clients   the official openai Python package into .cache/venv, for the tests
#   verify    SPIN and a C compiler, for `make verify`
#   guest     what the guest for RDMA tests needs, its kernel's source included
#   rdma      that, and its kernel with Soft-RoCE built into .cache/rdma; once, minutes
#   bench     what the build of llama.cpp needs, for `make bench`
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else
        command -v sudo >/dev/null || fail "need root to run: $* (no sudo here; run it yourself and try again)"
        sudo "$@"
    fi
}

# apt_install PACKAGE...: installs those that are missing, in one go.
apt_install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "please install: ${missing[*]} (only Debian's apt-get is known here)"
    say "installing with apt-get: ${missing[*]}"
    as_root apt-get update -qq
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# pip only ever works inside .cache/venv: Debian's own Python is not to be written to (PEP 668).
make_venv() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then apt_install python3 python3-venv; fi
    if ! .cache/venv/bin/python -c 'import pip' 2>/dev/null; then
        say "creating the Python environment .cache/venv"
        mkdir -p .cache
        python3 -m venv --clear .cache/venv
    fi
}

setup_packages() {
    apt_install libxxhash-dev libibverbs-dev librdmacm-dev
    command -v swift >/dev/null || fail "no swift in PATH: install Swift 6.3 or later from https://www.swift.org/install/linux/"
    local version
    version=$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\.[0-9]*\).*/\1/p' | head -n 1)
    if [ "$(printf '%s\n6.3\n' "$version" | sort -V | head -n 1)" != 6.3 ]; then
        fail "Swift 6.3 or later is needed, this is ${version:-unknown}"
    fi
}

setup_model() {
    if [ -n "${MODEL:-}" ]; then
        [ -e "$MODEL" ] || fail "MODEL=$MODEL: no such file or folder"
        say "model: $MODEL"
        return 0
    fi
    make_venv
    .cache/venv/bin/python scripts/fetch_model.py
}

setup_clients() {
    make_venv
    local wanted=Tests/clients/requirements.txt
    if ! cmp -s "$wanted" .cache/venv/installed-requirements.txt; then
        say "installing with pip into .cache/venv: the openai client package"
        .cache/venv/bin/pip install --quiet --disable-pip-version-check -r "$wanted"
        cp "$wanted" .cache/venv/installed-requirements.txt
    fi
}

setup_verify() {
    apt_install spin gcc libc6-dev
}

setup_guest() {
    [ -z "${BATON_RDMA_HOST:-}" ] || return 0
    apt_install ibverbs-providers iproute2 busybox-static gcc make flex bison bc xz-utils libelf-dev
}

setup_rdma() {
    setup_guest
    Tests/rdma/kernel.sh
}

setup_bench() {
    make_venv
    apt_install cmake make g++
}

[ $# -gt 0 ] || set -- packages model clients verify guest
for step in "$@"; do
    case "$step" in
        packages | model | clients | verify | guest | rdma | bench) "setup_$step" ;;
        *) fail "unknown step '$step' (packages, model, clients, verify, guest, rdma, bench)" ;;
    esac
done
