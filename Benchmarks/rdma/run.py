#!/usr/bin/env python3
"""`make bench-rdma`: KV handoff over RDMA beside what the device does for programs that do nothing else, and beside our
lanes over TCP; on one machine in one run, interleaved: a guest with Soft-RoCE, or this machine with BATON_RDMA_HOST=address.

    Benchmarks/rdma/run.py [--rounds 3] [--json FILE]

Bulk: GB/s of handoffs of 32 MiB in pages of several sizes, from the first write to the sealed pages, digests off as the
peers have none, and on; beside a loop of raw writes of that size, and perftest's ib_write_bw. One page: a handoff of one
page, beside a raw write and a raw message. A ratio is the median of the rounds' ratios. Exit code 1 if one misses its floor.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BENCH = ROOT / ".build" / "release" / "bench"
RAW = ROOT / ".build" / "raw_verbs"
# The last is a page of GLM-5: 64 tokens, 78 layers of 576 latent values in bf16, and the indexer's keys.
SIZES = [4 << 10, 64 << 10, 1 << 20, 64 * 78 * (576 + 128) * 2]
TOTAL = 32 << 20
BULK_FLOOR = 0.9
PAGE_LIMIT = 2.0


def lines(*command):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def lanes(size, total, host=None, digests="off", windows="auto", iterations=5):
    over = ["--rdma", host, "--windows", windows] if host else []
    return lines(BENCH, "lanes", "--block", size, "--total", total, "--iterations", iterations, "--digests", digests,
                 *over)[0]  # fmt: skip


def perftest(host, size):
    """GB/s of ib_write_bw of this machine with itself; None where it is not installed or does not know the time."""
    if not shutil.which("ib_write_bw"):
        return None
    command = ["ib_write_bw", "-F", "-s", str(size), "-n", "500"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(5):
            # It says nothing when it listens.
            time.sleep(1)
            done = subprocess.run([*command, host], capture_output=True, text=True, timeout=60)
            row = re.search(rf"^ {size} +\d+ +\S+ +(\S+)", done.stdout, re.MULTILINE)
            if row:
                return float(row[1]) * 2**20 / 1e9 if float(row[1]) > 0 else None
        return None
    except subprocess.TimeoutExpired:
        return None
    finally:
        server.kill()
        server.wait()


def measure(host, rounds):
    results = []
    for number in range(rounds):
        print(f"bench: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        one = {"bulk": {}, "page": {}}
        for size in SIZES:
            total = max(TOTAL // size, 1) * size
            raw = [line for line in lines(RAW, host, size) if line["what"] == "write"][0]
            rdma, sealed, tcp = lanes(size, total, host), lanes(size, total, host, "sealed"), lanes(size, total)
            figures = {"raw": raw["gb_per_s"], "perftest": perftest(host, size)}
            for name, line in (("rdma", rdma), ("sealed", sealed), ("tcp", tcp)):
                figures[name] = line["gb_per_second"]["median"]
                figures[f"{name} cpu"] = line["cpu_seconds_per_gb"]
            one["bulk"][str(size)] = figures
        one["raw"] = {line["what"]: line["median_us"] for line in lines(RAW, host) if "median_us" in line}
        for name, options in (("rdma", {"host": host}), ("rdma, no windows", {"host": host, "windows": "off"}), ("tcp", {})):
            one["page"][name] = lanes(4 << 10, 4 << 10, iterations=400, **options)["microseconds"]
        one["fences"] = {
            "rdma": lines(BENCH, "fences", "--rdma", host)[0],
            "rdma, no windows": lines(BENCH, "fences", "--rdma", host, "--windows", "off")[0],
            "tcp": lines(BENCH, "fences")[0],
        }
        results.append(one)
    return results


def table(results):
    """Prints the figures; returns whether all floors are kept."""

    def median(pick):
        values = [pick(one) for one in results]
        return None if None in values else statistics.median(values)

    def show(value, form=".3f"):
        return "-" if value is None else f"{value:{form}}"

    good = True
    print("\nBulk, GB/s; handoffs of 32 MiB, sealed = with digests; floor: rdma at least 0.9 of raw writes\n")
    print(f"{'page':>8} {'raw':>7} {'ib_write_bw':>11} {'rdma':>7} {'ratio':>6} {'sealed':>7} {'tcp':>7}"
          f" {'pages/s':>8}   CPU-s/GB rdma, sealed, tcp")  # fmt: skip
    for size in SIZES:
        raw, peer, rdma, sealed, tcp = (
            median(lambda one: one["bulk"][str(size)][name]) for name in ("raw", "perftest", "rdma", "sealed", "tcp")
        )
        cpu = [median(lambda one: one["bulk"][str(size)][f"{name} cpu"]) for name in ("rdma", "sealed", "tcp")]
        ratio = median(lambda one: one["bulk"][str(size)]["rdma"] / one["bulk"][str(size)]["raw"])
        good &= ratio >= BULK_FLOOR
        print(f"{size >> 10:>4} KiB {show(raw):>8} {show(peer):>11} {show(rdma):>7} {ratio:>6.2f} {show(sealed):>7}"
              f" {show(tcp):>7} {rdma * 1e9 / size:>8.0f}   " + ", ".join(f"{value:.2f}" for value in cpu)
              + ("" if ratio >= BULK_FLOOR else "   MISSED"))  # fmt: skip
    limit = median(lambda one: one["raw"]["write completed"] + one["raw"]["message received"])
    print(f"\nOne page of 4 KiB, first write to seal; a raw write and a raw message take {limit:.0f} us; limit: twice that\n")
    for name in results[0]["page"]:
        half, most = (median(lambda one: one["page"][name][part]) for part in ("median", "p99"))
        ratio = median(
            lambda one: one["page"][name]["median"] / (one["raw"]["write completed"] + one["raw"]["message received"])
        )
        missed = name == "rdma" and ratio > PAGE_LIMIT
        good &= not missed
        print(f"{name:>16} {half:>7.0f} us, p99 {most:.0f} us, {ratio:.2f} times{'   MISSED' if missed else ''}")
    print("\nFence of a lane that is being written to, and lane set-up, us\n")
    for name in results[0]["fences"]:
        figures = [
            median(lambda one: one["fences"][name][what][part])
            for what in ("fence_us", "set_up_us")
            for part in ("median", "p99")
        ]
        print(f"{name:>16}  fence p50 {figures[0]:.0f}, p99 {figures[1]:.0f}; set-up p50 {figures[2]:.0f}, p99 {figures[3]:.0f}")
    return good


def show_clock():
    """perftest wants to know the processor's rate, which a guest does not tell: the host's, from before it was started."""
    text = os.environ.get("BATON_HOST_CPUINFO")
    if text and "cpu MHz" not in pathlib.Path("/proc/cpuinfo").read_text():
        pathlib.Path("/tmp/cpuinfo").write_text(text)
        subprocess.run(["mount", "-o", "bind", "/tmp/cpuinfo", "/proc/cpuinfo"], check=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", help="also write all figures to this file")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        show_clock()
        print(json.dumps(measure(options.inside, options.rounds)))
        return
    subprocess.run(["gcc", "-O2", "-o", RAW, HERE / "raw_verbs.c", "-libverbs", "-lrdmacm"], check=True)
    own = os.environ.get("BATON_RDMA_HOST")
    command = [sys.executable, str(HERE / "run.py"), "--rounds", str(options.rounds), "--inside", own or "10.9.0.1"]
    environment = dict(os.environ)
    if not own:
        command[0] = "/usr/bin/python3"
        seconds = 120 + 300 * options.rounds
        command = [str(ROOT / "Tests" / "rdma" / "guest.py"), "--seconds", str(seconds), "--", *command]
        environment["BATON_HOST_CPUINFO"] = pathlib.Path("/proc/cpuinfo").read_text().split("\n\n")[0] + "\n"
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment)
    rows = [line for line in done.stdout.splitlines() if line.startswith("[{")]
    if done.returncode or not rows:
        sys.exit(f"ended with {done.returncode}:\n{done.stdout[-3000:]}")
    results = json.loads(rows[-1])
    if options.json:
        pathlib.Path(options.json).write_text(rows[-1])
    if not table(results):
        sys.exit("\na figure misses its floor")


if __name__ == "__main__":
    main()
