#!/usr/bin/env python3
"""KV handoff through public transfer engines, beside ours and beside a plain socket.

Moves scattered blocks from one process to another over loopback through Mooncake's transfer engine or NIXL. A handoff
is every block written into the receiver's memory and the receiver told; contents are checked after the first and the
last. Only runs what is installed (pip install nixl-cu12 mooncake-transfer-engine-non-cuda).

    peer_engines.py BACKEND [--block 65536] [--total 268435456] [--iterations 8]

    mooncake   Mooncake over TCP, completion told over a plain socket (as vLLM's and SGLang's connectors do)
    nixl-tcp   NIXL with UCX over TCP, completion told by its notification
    nixl-shm   NIXL with UCX's own choice on one host (shared memory)

Prints one line of JSON: GB/s (min, median, max) and CPU seconds of both processes per GB.
"""

import argparse
import ctypes
import importlib.util
import json
import mmap
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time

MODULES = {"mooncake": "mooncake", "nixl-tcp": "nixl_cu12", "nixl-shm": "nixl_cu12"}
WARM_UP = 2
TIME_LIMIT_S = 120


def installed(backend):
    return importlib.util.find_spec(MODULES[backend]) is not None


class Memory:
    """Touched, page-aligned memory whose address the engines can register."""

    def __init__(self, size):
        self.size = size
        self.map = mmap.mmap(-1, size)
        self.address = ctypes.addressof((ctypes.c_char * size).from_buffer(self.map))
        ctypes.memset(self.address, 1, size)

    def mark(self, offset, block, mark):
        self.map[offset : offset + 8] = self.map[offset + block - 8 : offset + block] = mark

    def has_mark(self, offset, block, mark):
        return self.map[offset : offset + 8] == mark == self.map[offset + block - 8 : offset + block]


class Control:
    """Lines of JSON between the two processes."""

    def __init__(self, connection):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.file = connection.makefile("rwb")

    def send(self, **message):
        self.file.write(json.dumps(message).encode() + b"\n")
        self.file.flush()

    def receive(self):
        line = self.file.readline()
        if not line:
            raise EOFError("the other process is gone")
        return json.loads(line)


def places(total, block, seed):
    """Offsets of the blocks: scattered over twice the memory they fill."""
    return [i * block for i in random.Random(seed).sample(range(2 * total // block), total // block)]


class Mooncake:
    def __init__(self, name, memory):
        from mooncake.engine import TransferEngine

        self.memory = memory
        self.engine = TransferEngine()
        assert self.engine.initialize("127.0.0.1", "P2PHANDSHAKE", "tcp", "") == 0
        assert self.engine.register_memory(memory.address, memory.size) == 0

    def describe(self):
        return {"session": f"127.0.0.1:{self.engine.get_rpc_port()}"}

    def connect(self, peer, local, remote, block):
        self.session = peer["session"]
        self.local = [self.memory.address + o for o in local]
        self.remote = [peer["address"] + o for o in remote]
        self.lengths = [block] * len(local)

    def write(self, tag, control):
        result = self.engine.batch_transfer_sync_write(self.session, self.local, self.remote, self.lengths)
        assert result == 0, result
        control.file.write(b"D" * 16)
        control.file.flush()

    def wait(self, tag, control):
        control.file.read(16)


class Nixl:
    def __init__(self, name, memory):
        from nixl_cu12._api import nixl_agent, nixl_agent_config

        self.memory = memory
        self.agent = nixl_agent(name, nixl_agent_config(enable_prog_thread=False, backends=["UCX"]))
        assert self.agent.register_memory([(memory.address, memory.size, 0, "")], "DRAM")

    def describe(self):
        return {"metadata": self.agent.get_agent_metadata().hex()}

    def connect(self, peer, local, remote, block):
        name = self.agent.add_remote_agent(bytes.fromhex(peer["metadata"]))
        if not local:
            return
        name = name.decode() if isinstance(name, bytes) else name
        base = self.memory.address
        self.local = self.agent.prep_xfer_dlist("NIXL_INIT_AGENT", [(base + o, block, 0) for o in local], "DRAM")
        self.remote = self.agent.prep_xfer_dlist(name, [(peer["address"] + o, block, 0) for o in remote], "DRAM")
        self.indices = list(range(len(local)))

    def write(self, tag, control):
        handle = self.agent.make_prepped_xfer(
            "WRITE", self.local, self.indices, self.remote, self.indices, tag.encode()
        )
        state = self.agent.transfer(handle)
        while state == "PROC":
            state = self.agent.check_xfer_state(handle)
        assert state == "DONE", state
        self.agent.release_xfer_handle(handle)

    def wait(self, tag, control):
        while not any(tag.encode() in notes for notes in self.agent.get_new_notifs().values()):
            pass


def engine(options, name, memory):
    return Mooncake(name, memory) if options.backend == "mooncake" else Nixl(name, memory)


def cpu_seconds():
    times = os.times()
    return times.user + times.system


def receive(options):
    control = Control(socket.create_connection(("127.0.0.1", options.receiver)))
    memory = Memory(2 * options.total)
    mine = engine(options, "receiver", memory)
    control.send(address=memory.address, **mine.describe())
    mine.connect(control.receive(), [], [], options.block)
    control.send(connected=True)
    offsets = places(options.total, options.block, seed=2)
    while True:
        order = control.receive()
        if "tag" not in order:
            break
        control.send(ready=True)
        mine.wait(order["tag"], control)
        received = time.monotonic_ns()
        bad = 0
        if order["check"]:
            bad = sum(
                not memory.has_mark(offset, options.block, struct.pack("<Q", (order["check"] << 32) | i))
                for i, offset in enumerate(offsets)
            )
        control.send(received=received, bad=bad, cpu=cpu_seconds())
    os._exit(0)  # the engines' own threads do not end by themselves


def send(options):
    listener = socket.create_server(("127.0.0.1", 0))
    child = subprocess.Popen(
        [sys.executable, __file__, *sys.argv[1:], "--receiver", str(listener.getsockname()[1])],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        control = Control(listener.accept()[0])
        memory = Memory(2 * options.total)
        mine = engine(options, "sender", memory)
        peer = control.receive()
        control.send(**mine.describe())
        control.receive()
        local, remote = (places(options.total, options.block, seed) for seed in (1, 2))
        mine.connect(peer, local, remote, options.block)
        seconds, cpu, receiver_cpu = [], 0.0, 0.0
        for run in range(-WARM_UP, options.iterations):
            is_checked = run in (-WARM_UP, options.iterations - 1)
            if is_checked:
                for i, offset in enumerate(local):
                    memory.mark(offset, options.block, struct.pack("<Q", (run + WARM_UP + 1 << 32) | i))
            control.send(tag=f"handoff{run + WARM_UP:08}", check=run + WARM_UP + 1 if is_checked else 0)
            control.receive()
            before, start = cpu_seconds(), time.monotonic_ns()
            mine.write(f"handoff{run + WARM_UP:08}", control)
            if run >= 0:
                cpu += cpu_seconds() - before
            answer = control.receive()
            assert answer["bad"] == 0, f"{answer['bad']} blocks have wrong contents"
            if run == -1:
                receiver_cpu = answer["cpu"]
            if run >= 0:
                seconds.append((answer["received"] - start) / 1e9)
                last_cpu = answer["cpu"]
        control.send(stop=True)
        report(options, seconds, cpu + last_cpu - receiver_cpu)
    finally:
        try:
            child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            child.kill()
    os._exit(0)


def report(options, seconds, cpu):
    gigabytes = options.total / 1e9
    print(
        json.dumps(
            {
                "backend": options.backend,
                "block": options.block,
                "iterations": options.iterations,
                "gb_per_second": {
                    "min": round(gigabytes / max(seconds), 3),
                    "median": round(gigabytes / statistics.median(seconds), 3),
                    "max": round(gigabytes / min(seconds), 3),
                },
                "cpu_seconds_per_gb": round(cpu / (gigabytes * options.iterations), 3),
            }
        ),
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description="KV handoff through a public transfer engine")
    parser.add_argument("backend", choices=MODULES)
    parser.add_argument("--block", type=int, default=65536)
    parser.add_argument("--total", type=int, default=256 << 20)
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--receiver", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not installed(options.backend):
        sys.exit(f"{options.backend} is not installed")
    signal.alarm(TIME_LIMIT_S)
    os.environ.setdefault("NIXL_LOG_LEVEL", "ERROR")
    # Mooncake refuses more queued transfers than these by default.
    os.environ.setdefault("MC_TCP_MAX_QUEUED_TRANSFERS_PER_PEER", "65535")
    os.environ.setdefault("MC_TCP_MAX_PENDING_ADMISSIONS_PER_PEER", "65535")
    if options.backend == "nixl-tcp":
        os.environ.update(UCX_TLS="tcp", UCX_NET_DEVICES="lo")
    receive(options) if options.receiver else send(options)


if __name__ == "__main__":
    main()
