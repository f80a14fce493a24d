#!/usr/bin/env python3
"""An engine that hangs while its node goes on: its requests are answered by another node within ten seconds.

Two prefill and two decode nodes. The engine thread of one node, and no other, is stopped with ptrace in the middle of
its work: heartbeats, the control stream and the answers to the router's questions go on. Then the same for the other
role. Every answer must be that of a quiet cluster, the node must be shown as unpaired with the reason, and it must be
used again once its engine goes on.

    Tests/chaos/hung_engine.py              # with what is built in .build/release
    WITHIN=60 Tests/chaos/hung_engine.py    # on a machine that is busy with other things
"""

import ctypes
import json
import os
import pathlib
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from cluster import Cluster  # noqa: E402

WITHIN_S = float(os.environ.get("WITHIN", 10))
PTRACE_SEIZE, PTRACE_INTERRUPT, PTRACE_DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
libc.ptrace.restype = ctypes.c_long


class FrozenThread:
    """One thread of another process, stopped until `release`. A tracer is a thread: both calls must come from one."""

    def __init__(self, pid, name):
        found = []
        for task in os.listdir(f"/proc/{pid}/task"):
            comm = pathlib.Path(f"/proc/{pid}/task/{task}/comm").read_text().strip()
            if comm.startswith(name):
                found.append(int(task))
        if len(found) != 1:
            sys.exit(f"process {pid} has {len(found)} threads called {name}*, not 1")
        self.thread = found[0]
        if libc.ptrace(PTRACE_SEIZE, self.thread, None, None) != 0:
            sys.exit(f"ptrace: {os.strerror(ctypes.get_errno())} (needs root or kernel.yama.ptrace_scope=0)")
        libc.ptrace(PTRACE_INTERRUPT, self.thread, None, None)
        os.waitpid(self.thread, WALL)

    def release(self):
        libc.ptrace(PTRACE_DETACH, self.thread, None, None)


def node_process(cluster, name):
    """The process of a node that this cluster started."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            command = pathlib.Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
            session = os.getsid(int(entry))
        except (OSError, ProcessLookupError):
            continue
        if session == os.getsid(cluster.process.pid) and name.encode() in command:
            return int(entry)
    sys.exit(f"no process of {name}")


class Answer(threading.Thread):
    """A greedy answer, read as it comes."""

    def __init__(self, cluster, prompt, tokens):
        super().__init__(daemon=True)
        self.url, self.prompt, self.tokens = cluster.url, prompt, tokens
        self.model = json.loads(cluster.get("/v1/models"))["data"][0]["id"]
        self.text, self.finish, self.error, self.ended = "", None, None, None
        self.began = threading.Event()
        self.start()

    def run(self):
        body = {
            "model": self.model, "prompt": self.prompt, "max_tokens": self.tokens, "temperature": 0, "stream": True,
        }
        request = urllib.request.Request(
            self.url + "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                for line in answer:
                    if not line.startswith(b"data: {"):
                        continue
                    choice = json.loads(line[6:])["choices"]
                    if choice:
                        self.text += choice[0]["text"]
                        self.finish = choice[0]["finish_reason"] or self.finish
                        self.began.set()
        except urllib.error.HTTPError as error:  # Told by `result`.
            self.error = f"{error.code}: {error.read().decode()}"
        except OSError as error:
            self.error = error
        self.ended = time.monotonic()
        self.began.set()

    def result(self, limit):
        self.join(limit)
        if self.is_alive():
            raise AssertionError(f"no whole answer within {limit:.1f} s")
        if self.error:
            raise AssertionError(f"the answer failed: {self.error}")
        return self.text, self.finish


def wait_for(what, condition, limit):
    deadline = time.monotonic() + limit
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.02)


def trial(cluster, role, prompts, tokens):
    answers = [Answer(cluster, prompt, tokens) for prompt in prompts]
    if role == "decode":
        for answer in answers:
            answer.began.wait(60)
    states = {"decode": ("decoding",), "prefill": ("prefilling",)}[role]
    rows = []

    def in_flight():
        if all(answer.ended for answer in answers):
            for answer in answers:
                answer.result(0)
            sys.exit("all is answered before an engine could be stopped: the prompts are too short for this machine")
        rows[:] = [row for row in json.loads(cluster.get("/admin/handoffs")) if row["state"] in states]
        return rows

    wait_for("work in flight", in_flight, 60)
    victim = rows[0][role]
    frozen = FrozenThread(node_process(cluster, victim), f"{role}-engine")
    began = time.monotonic()
    try:
        given = [answer.result(began + max(60, WITHIN_S) - time.monotonic()) for answer in answers]
        took = max(answer.ended for answer in answers) - began
        state = next(node for node in cluster.status()["nodes"] if node["name"] == victim)
        assert state["state"] == "unpaired", f"{victim} is shown as {state['state']}"
        assert "does not move" in state["last_error"], state["last_error"]
    finally:
        frozen.release()
    wait_for(f"{victim} is used again", lambda: all(n["state"] == "ready" for n in cluster.status()["nodes"]), 30)
    wait_for("quiet", cluster.is_quiet, 60)
    # Afterwards, or the prompts would be in the caches.
    for prompt, got in zip(prompts, given):
        alone = Answer(cluster, prompt, tokens).result(300)
        assert got == alone, f"another answer than that of a quiet cluster: {got} not {alone}"
    assert took < WITHIN_S, f"answered {took:.1f} s after the engine of {victim} was stopped, not within {WITHIN_S} s"
    print(f"{role}: the engine of {victim} stood still; {len(answers)} answers whole after {took:.1f} s, all as expected")


def main():
    # The bundled model: its text is the same wherever it is computed.
    cluster = Cluster(prefill=2, decode=2, model=None)
    try:
        for role, length, tokens in (("decode", 40, 1500), ("prefill", 2960, 4)):
            prompts = [f"{index} " + "the cat sat on the mat and looked. " * (length // 8) for index in range(8)]
            trial(cluster, role, prompts, tokens)
    finally:
        cluster.stop()


if __name__ == "__main__":
    main()
