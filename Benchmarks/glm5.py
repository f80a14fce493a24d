#!/usr/bin/env python3
"""`make bench-glm5`: speed of the GLM-5 architecture, where its time goes, and what speculation gains; beside transformers
on PyTorch, same machine and threads, in the same run, if it is installed:
.cache/venv/bin/pip install torch transformers

    Benchmarks/glm5.py [--rounds 3] [--threads N] [--models nano,1b]

Exit code 1 if a phase is slower than the peer in any of its types.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import glm5_models

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
BENCH = ROOT / ".build/release/bench"
PYTHON = ROOT / ".cache/venv/bin/python"
# "And it came to pass in those days, that he went out into the mountain to pray, and continued all night in": text of the
# kind that the bundled model was trained on. Drafts of random tokens are never right.
NANO_IDS = "2804,332,632,283,777,288,1081,971,11,314,290,774,510,589,259,1582,283,1451,11,273,2484,377,1477,288"
PARTS = ("projections", "indexer", "attention", "routing", "experts", "dense", "head", "rest")


def run_json(command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=1800)
    if done.returncode != 0:
        sys.exit(f"{command[0]} failed with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])


def note(text):
    print(f"bench-glm5: {text}", file=sys.stderr, flush=True)


def has_peer():
    return PYTHON.exists() and subprocess.run([PYTHON, "-c", "import torch, transformers"], capture_output=True).returncode == 0


def measure(name, folder, prompt, generate, options):
    ids = NANO_IDS if name == "glm5-nano" else None
    ours, peers = [], {}
    for turn in range(options.rounds):
        note(f"{name}, round {turn + 1} of {options.rounds}")
        command = [BENCH, "experts", "--model", folder, "--threads", options.threads, "--prompt", prompt]
        ours.append(run_json([*command, "--generate", generate, *(["--ids", ids] if ids else [])]))
        for kind in ("float32", "bfloat16") if options.peer else ():
            command = [PYTHON, HERE / "glm5_peer.py", folder, "--threads", options.threads, "--prompt", prompt]
            peers.setdefault(kind, []).append(
                run_json([*command, "--generate", generate, "--repetitions", 1, "--dtype", kind]))  # fmt: skip
    return ours, peers


def median(runs, read):
    return statistics.median(statistics.median(read(run)) for run in runs)


def report(name, ours, peers, prompt, generate):
    first = ours[0]
    print(f"\n{name}: {first['parameters'] / 1e6:,.0f} M parameters, {first['threads']} threads, median of {len(ours)}\n")
    phases = {
        f"prefill of {prompt}": (median(ours, lambda run: run["prefill_tokens_per_s"]), "prefill_tokens_per_s"),
        f"decode of {generate}": (median(ours, lambda run: run["decode"][0]["tokens_per_s"]), "decode_tokens_per_s"),
    }
    good = True
    for phase, (speed, key) in phases.items():
        line = f"  {phase:<18}{speed:>10,.1f} tokens/s"
        for kind, runs in peers.items():
            peer = median(runs, lambda run: run[key])
            good &= speed >= peer
            line += f"   transformers {kind} {peer:>8,.1f}, ratio {speed / peer:.2f} (floor 1)"
        print(line)
    plain = median(ours, lambda run: run["decode"][0]["tokens_per_s"])
    for at, row in list(enumerate(first["decode"]))[1:]:
        speed = median(ours, lambda run, at=at: run["decode"][at]["tokens_per_s"])
        print(f"  {row['drafts']} drafts ahead    {speed:>10,.1f} tokens/s   {speed / plain:.2f} × without, "
              f"accept length {row['accept_length'] or 1:.2f}")  # fmt: skip
    for phase in ("prefill", "decode"):
        shares = {part: median(ours, lambda run, part=part: [run[f"{phase}_shares"].get(part, 0)]) for part in PARTS}
        print(f"  {phase} time by part  " + ", ".join(f"{part} {share:.0%}" for part, share in shares.items() if share > 0.005))
    loads = first["expert_imbalance"]
    print(f"  experts           busiest over an even spread, by layer: {min(loads):.2f} to {max(loads):.2f}")
    for kind in ("even", "skewed"):
        use = median(ours, lambda run, kind=kind: [run["uneven_routing"][kind]["utilisation"]])
        print(f"  threads at work   {use:.0%} with {kind} routing" + (" (nine rows in ten at one of 64 experts)" if kind == "skewed" else ""))
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--models", default="nano,1b")
    options = parser.parse_args()
    options.peer = has_peer()
    if not options.peer:
        note("transformers is not installed: no peer (.cache/venv/bin/pip install torch transformers)")
    good = True
    for name in options.models.split(","):
        if name == "nano":
            folder, prompt, generate = ROOT / "Models/glm5-nano", 1024, 256
            name = "glm5-nano"
        elif name == "1b":
            folder, prompt, generate = glm5_models.write(ROOT / ".cache/models/glm5-1b"), 512, 32
            name = "glm5-1b, random weights"
        else:
            sys.exit(f"--models {name}: neither nano nor 1b")
        good &= report(name, *measure(name, folder, prompt, generate, options), prompt, generate)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
