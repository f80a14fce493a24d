#!/usr/bin/env python3
"""`make bench`: our figures beside their peers, measured in one run, interleaved, so that both see the same machine.

    Benchmarks/run.py [--rounds 5] [--threads N] [--only engine,handoff,router] [--json FILE]

A ratio is the median of the rounds' ratios. Exit code 1 if a ratio misses its floor. Mooncake and NIXL take part when
they are installed: .cache/venv/bin/pip install --no-deps nixl-cu12 mooncake-transfer-engine-non-cuda numpy
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT / "scripts"))
import peer_engines  # noqa: E402
from cluster import BINARIES, MODEL  # noqa: E402
from router_overhead import measure_router  # noqa: E402

CACHE = ROOT / ".cache"
BLOCK, TOTAL, ITERATIONS = 65536, 256 << 20, 8


def run_json(command, **options):
    """The last line of JSON that a program prints, or everything it prints if that is JSON."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=600, **options)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    try:
        return json.loads(done.stdout)
    except json.JSONDecodeError:
        return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def note(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


def summary(values):
    return statistics.median(values)


def pair(name, unit, ours, peer_name, peers, floor=None, higher_is_better=True):
    """A row: our median, the peer's, and the median of the rounds' ratios."""
    ratios = [a / b for a, b in zip(ours, peers)] if peers else []
    ratio = summary(ratios) if ratios else None
    verdict = None
    if floor is not None and ratio is not None:
        verdict = ratio >= floor if higher_is_better else ratio <= floor
    return {
        "figure": name,
        "unit": unit,
        "ours": summary(ours),
        "peer_name": peer_name,
        "peer": summary(peers) if peers else None,
        "ratio": ratio,
        "floor": floor,
        "pass": verdict,
    }


def bench_engine(options):
    subprocess.run([HERE / "build_llama_cpp.sh"], check=True)
    llama = sorted((CACHE / "llama.cpp").glob("llama-bench-*"))[-1]
    prefill, decode, peer_prefill, peer_decode = [], [], [], []
    for round_number in range(options.rounds):
        note(f"engine, round {round_number + 1} of {options.rounds}")
        theirs = run_json([llama, "-m", MODEL, "-t", options.threads, "-p", 512, "-n", 64, "-r", 2, "-o", "json"])
        peer_prefill.append(next(test["avg_ts"] for test in theirs if test["n_prompt"]))
        peer_decode.append(next(test["avg_ts"] for test in theirs if test["n_gen"]))
        command = [BINARIES / "bench", "engine", "--model", MODEL, "--threads", options.threads]
        ours = run_json([*command, "--prompt", 512, "--generate", 64, "--repetitions", 2])
        prefill.append(statistics.mean(ours["prefill_tokens_per_s"]))
        decode.append(statistics.mean(ours["decode_tokens_per_s"]))
    return [
        pair("prefill, 512 tokens", "tokens/s", prefill, "llama.cpp", peer_prefill, floor=0.5),
        pair("decode, 64 tokens", "tokens/s", decode, "llama.cpp", peer_decode, floor=0.8),
    ]


def bench_handoff(options):
    socket_program = CACHE / "plain_socket"
    subprocess.run(["cc", "-O2", "-o", socket_program, HERE / "plain_socket.c"], check=True)
    size = ["--block", BLOCK, "--total", TOTAL, "--iterations", ITERATIONS]
    programs = {
        "lanes": [BINARIES / "bench", "lanes", *size],
        "plain socket": [socket_program, BLOCK, TOTAL, ITERATIONS],
    }
    python = CACHE / "venv/bin/python"
    for backend in peer_engines.MODULES:
        probe = f"import sys; sys.path.insert(0, {str(HERE)!r}); import peer_engines as p; "
        probe += f"sys.exit(not p.installed({backend!r}))"
        if python.exists() and subprocess.run([python, "-c", probe]).returncode == 0:
            programs[backend] = [python, HERE / "peer_engines.py", backend, *size]
    results = {name: [] for name in programs}
    for round_number in range(options.rounds):
        note(f"handoff, round {round_number + 1} of {options.rounds}: {', '.join(programs)}")
        for name, command in programs.items():
            results[name].append(run_json(command))
    speed = {name: [r["gb_per_second"]["median"] for r in runs] for name, runs in results.items()}
    cpu = {name: [r["cpu_seconds_per_gb"] for r in runs] for name, runs in results.items()}
    rows = []
    for name in list(programs)[1:]:
        floor = 0.8 if name == "plain socket" else None
        rows.append(pair("KV handoff, 64 KiB pages", "GB/s", speed["lanes"], name, speed[name], floor=floor))
        rows.append(pair("KV handoff, processor time", "CPU-s/GB", cpu["lanes"], name, cpu[name]))
    return rows


def limit(name, value, most=None):
    """A row that has no peer, at most an upper limit."""
    return {"figure": name, "unit": "ms", "ours": value, "peer_name": "limit", "peer": None, "ratio": None,
            "floor": most, "pass": None if most is None else value < most}


def bench_router(options):
    note("router, idle cluster")
    first_ms, token_ms, socket_ms, control_ms = measure_router()
    return [
        limit("router adds to the first token", first_ms, 1.0),
        limit("router adds to each next token", token_ms, 0.1),
        limit("each next token, up to the client's socket", socket_ms),
        limit("control messages before the first token", control_ms),
    ]


def show(rows):
    def number(value):
        return "–" if value is None else f"{value:.3f}" if value < 10 else f"{value:.0f}"

    header = ("figure", "ours", "unit", "peer", "peer's", "ratio", "floor", "")
    table = [header]
    for row in rows:
        verdict = {None: "", True: "ok", False: "BELOW"}[row["pass"]]
        if row["peer_name"] == "limit":
            verdict = {None: "", True: "ok", False: "ABOVE"}[row["pass"]]
        has_limit = row["peer_name"] == "limit" and row["floor"] is not None
        floor = f"< {row['floor']}" if has_limit else number(row["floor"])
        peer = "–" if row["peer_name"] == "limit" else row["peer_name"]
        table.append((row["figure"], number(row["ours"]), row["unit"], peer, number(row["peer"]),
                      number(row["ratio"]), floor, verdict))
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip())


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--only", default="engine,handoff,router")
    parser.add_argument("--json", type=pathlib.Path, help="also write the rows to this file")
    options = parser.parse_args()
    parts = {"engine": bench_engine, "handoff": bench_handoff, "router": bench_router}
    rows = [row for name in options.only.split(",") for row in parts[name](options)]
    load = os.getloadavg()[0]
    print(f"\n{processor()}, {options.threads} threads, {pathlib.Path(str(MODEL)).name}, "
          f"{options.rounds} rounds, load {load:.1f}\n")
    show(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if any(row["pass"] is False for row in rows):
        sys.exit("\nbench: a figure is on the wrong side of its limit")


if __name__ == "__main__":
    main()
