#!/usr/bin/env python3
"""`make bench-long`: long prompts through a whole cluster of one pair, with the weights of the bundled model and room for
262,144 tokens. What a token costs by the length of its context, what is handed over while the prompt is still computed,
the memory that nodes hold beside what `prefill-node plan` says, and how fast everything is free again when a client leaves
in the middle of the prompt, of the handoff's end, and of the answer.

    Benchmarks/long_context.py [--lengths 25000,50000,100000,200000] [--page-tokens 32]

Exit code 1 if pages are left, or if memory, a handoff's wait or the cost of a token beside the indexer's scan is more than
it may be. One thread per processor: the numbers are of one node at a time.
"""

import argparse
import http.client
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
from cluster import BINARIES, Cluster  # noqa: E402

ANSWER = 32
CONTEXT = 262_144
SPARE = 32e6


def long_model():
    """The bundled model, told that it may see more; what it says of that much is nonsense, and costs the same."""
    bundled, folder = ROOT / "Models/glm5-nano", ROOT / ".cache/models/glm5-nano-long"
    folder.mkdir(parents=True, exist_ok=True)
    for file in bundled.iterdir():
        link = folder / file.name
        if file.name != "config.json":
            link.unlink(missing_ok=True)
            link.symlink_to(file)
    config = json.loads((bundled / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": CONTEXT}))
    return folder


def prompt(length):
    dice = random.Random(length)
    return [dice.randrange(3000) for _ in range(length)]


def request(cluster, length, answer):
    body = {"model": "glm5-nano-long", "prompt": prompt(length), "max_tokens": answer, "temperature": 0, "ignore_eos": True}
    headers = {"content-type": "application/json", "x-baton-timing": "1"}
    return urllib.request.Request(cluster.url + "/v1/completions", json.dumps(body).encode(), headers)


def ask(cluster, length, answer=ANSWER):
    with urllib.request.urlopen(request(cluster, length, answer), timeout=3600) as reply:
        return json.load(reply)["baton"]


def parts(model, length, threads):
    """Milliseconds per prompt token by part, of one process, by the last chunk's share of them all."""
    command = [BINARIES / "bench", "experts", "--model", model, "--threads", threads, "--prompt", length]
    command += ["--generate", 1, "--drafts", 0]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=3600, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    token = 1e3 / result["prefill_tokens_per_s"][0]
    scan = result["prefill_shares"]["indexer"] * token
    return scan, token - scan


def plan(model, length, page_tokens):
    command = [BINARIES / "prefill-node", "plan", "--config", model, "--context", length, "--page-tokens", page_tokens, "--json"]
    return json.loads(subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout)


def resident(cluster):
    """Bytes that each node's process holds, by role."""
    held = {}
    for entry in pathlib.Path("/proc").iterdir():
        try:
            parent = (entry / "stat").read_text().rsplit(")", 1)[1].split()[1]
            name = (entry / "comm").read_text().strip()
        except (OSError, IndexError):
            continue
        if parent == str(cluster.process.pid) and name.endswith("-node"):
            pages = int((entry / "statm").read_text().split()[1])
            held[name.removesuffix("-node")] = pages * os.sysconf("SC_PAGESIZE")
    return held


def leave(cluster, length, ready):
    """Asks, leaves as soon as `ready(status)`, and returns how long until nothing of it is left; None if the answer was
    complete before."""
    stop = threading.Event()

    def ask_until_told():
        connection = http.client.HTTPConnection(cluster.address, timeout=3600)
        sent = request(cluster, length, 4000)
        stream = json.dumps(json.loads(sent.data) | {"stream": True})
        connection.request("POST", "/v1/completions", stream, {"content-type": "application/json"})
        stop.wait()
        connection.close()

    client = threading.Thread(target=ask_until_told)
    client.start()
    deadline, was_seen = time.monotonic() + 3600, False
    try:
        while not ready(status := cluster.status()):
            was_seen |= status["handoffs"]["open"] > 0
            if was_seen and status["handoffs"]["open"] == 0:
                return None
            if time.monotonic() > deadline:
                raise TimeoutError("the request never came that far")
            time.sleep(0.02)
    finally:
        stop.set()
        client.join()
    began = time.monotonic()
    cluster.wait_until_quiet(60)
    return time.monotonic() - began


def pages_in_use(status, role):
    return sum(node["pages"]["in_use"] for node in status["nodes"] if node["role"] == role)


def measure(cluster, lengths, model, options):
    good, before, kept = True, resident(cluster), 0
    print(f"\n{'prompt':>9}{'prefill':>11}{'tokens/s':>10}{'handoff':>9}{'after it':>10}{'decode':>14}{'prefill node':>15}{'decode node':>14}")
    for length in lengths:
        account = ask(cluster, length)
        held, ms = resident(cluster), account["ms"]
        sequence = plan(model, length + ANSWER, options.page_tokens)["plan"]["slab_bytes"]
        grown = {role: held[role] - before[role] for role in held}
        print(f"{length:>9,}{ms['prefill'] / 1e3:>9.1f} s{length / ms['prefill'] * 1e3:>10,.0f}{account['kv_bytes'] / 1e6:>6.0f} MB"
              f"{ms['kv_transfer']:>7.1f} ms{ms['per_token']:>8.2f} ms/tok{grown['prefill'] / 1e6:>+12.0f} MB{grown['decode'] / 1e6:>+11.0f} MB"
              f"   plan {sequence / 1e6:.0f} MB")  # fmt: skip
        # What went over while the prompt was computed is not waited for: the last chunk's pages alone are.
        good &= ms["kv_transfer"] < 0.05 * ms["prefill"]
        # A prefill node keeps the prompts before as well; what else grows are buffers.
        kept += sequence
        good &= grown["decode"] < 1.1 * sequence + SPARE and grown["prefill"] < 1.1 * kept + 2 * SPARE
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lengths", default="25000,50000,100000,200000")
    parser.add_argument("--page-tokens", type=int, default=32)
    options = parser.parse_args()
    lengths = [int(length) for length in options.lengths.split(",")]
    if not all(2000 <= length <= CONTEXT - ANSWER for length in lengths):
        parser.error(f"lengths are from 2,000 to {CONTEXT - ANSWER:,} tokens")
    model, threads = long_model(), len(os.sched_getaffinity(0))

    print("one process, ms per prompt token, averaged over the prompt:")
    costs = {length: parts(model, length, threads) for length in (4096, 16384, 65536)}
    for length, (scan, rest) in costs.items():
        print(f"{length:>9,} tokens   indexer {scan:.3f}   everything else {rest:.3f}")
    ratio = costs[65536][1] / costs[4096][1]
    print(f"everything else at 65,536 is {ratio:.2f} times that at 4,096 (limit 1.5)")
    good = ratio < 1.5

    pages = sum((length + ANSWER) // options.page_tokens + 2 for length in lengths) + 256
    cluster = Cluster(
        model=model,
        log=subprocess.DEVNULL,
        options=("--context", CONTEXT, "--pages", pages, "--page-tokens", options.page_tokens),
    )
    try:
        good &= measure(cluster, lengths, model, options)
        cluster.wait_until_quiet(10)
        short = min(lengths) - 1000
        moments = {
            "in the prompt": lambda status: pages_in_use(status, "prefill") > short // options.page_tokens // 3,
            "at its end": lambda status: status["handoffs"]["by_state"]["decoding"] > 0,
            "in the answer": lambda status: any(
                node["role"] == "decode" and node["requests"]["running"] and node["tokens_per_second"] > 0
                for node in status["nodes"]
            ),
        }
        print()
        for number, (moment, ready) in enumerate(moments.items()):
            seconds = leave(cluster, short - number, ready)
            after = "the answer was complete first" if seconds is None else f"all free after {seconds * 1e3:.0f} ms"
            print(f"left {moment} of {short - number:,} tokens: {after}")
    finally:
        cluster.stop()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
