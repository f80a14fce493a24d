#!/usr/bin/env bash
# The kernel of the guest in which RDMA is tested: user-mode Linux with Soft-RoCE, from Debian's kernel source. It is a
# program that anybody may run: no root, no KVM, no image. Built once, into .cache/rdma/linux; some six minutes on two
# cores.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=$(cd "$here/../.." && pwd)/.cache/rdma

version=6.12
kernel=$cache/linux
made_from=$(cat "$here/kernel.sh" "$here/kernel.config" | sha256sum)
if [ -x "$kernel" ] && [ "$(cat "$kernel.made-from" 2>/dev/null)" = "$made_from" ]; then exit 0; fi

update_lists() {
    if [ "$(id -u)" -eq 0 ]; then apt-get -qq update; else sudo apt-get -qq update; fi
}

mkdir -p "$cache/source"
cd "$cache"
if ! ls linux-source-$version*.deb >/dev/null 2>&1; then
    echo "rdma: fetching the source of Linux $version (150 MB)"
    # A new version takes the place of the one that old package lists name.
    apt-get -qq download linux-source-$version || { update_lists && apt-get -qq download linux-source-$version; }
fi
source=$cache/source/linux-source-$version
if [ ! -e "$source/Makefile" ]; then
    rm -rf "$cache/unpacked"
    mkdir "$cache/unpacked"
    dpkg-deb --fsys-tarfile linux-source-$version*.deb | tar xO ./usr/src/linux-source-$version.tar.xz \
        | tar xJ -C "$cache/unpacked" || { rm -f linux-source-$version*.deb; exit 1; }
    # Whole, or not there.
    rm -rf "$source"
    mv "$cache/unpacked/linux-source-$version" "$source"
fi
# Room for the registers of processors with AMX, whose state is larger than user-mode Linux of this version expects.
sed -i 's/DEFINE_LONGS(HOST_FP_SIZE, 2696)/DEFINE_LONGS(HOST_FP_SIZE, 16384)/' "$source/arch/x86/um/user-offsets.c"

build() { make -s -C "$source" ARCH=um O="$cache/build" "$@"; }
build KCONFIG_ALLCONFIG="$here/kernel.config" allnoconfig >/dev/null
for option in INFINIBAND_USER_ACCESS INFINIBAND_ADDR_TRANS RDMA_RXE HOSTFS VETH IP_MULTIPLE_TABLES; do
    grep -q "^CONFIG_$option=y" "$cache/build/.config" || { echo "rdma: the kernel would lack $option" >&2; exit 1; }
done
echo "rdma: building the guest's kernel"
build -j"$(nproc)" linux >build.log 2>&1 || { tail -n 20 build.log >&2; echo "rdma: see $cache/build.log" >&2; exit 1; }
strip -o "$kernel" build/linux
echo "$made_from" >"$kernel.made-from"
rm -rf build source unpacked linux-source-$version*.deb
