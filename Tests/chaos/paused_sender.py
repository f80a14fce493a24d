#!/usr/bin/env python3
"""A sender that is paused until its transfer is declared dead, and goes on writing when its pages belong to others.

A real decode node serves two routers. Through one a sender of our own (late_sender.py, a process that is stopped with
SIGSTOP, or one that lies about having drained) is granted pages and writes part of them. Then its request is cancelled,
and through the other router a real prefill node fills the same pages with other requests. When those are sealed and
being read, the sender goes on. Every page of theirs is compared byte for byte, in the decode node's own memory, with
the same page of an undisturbed run; and their answers with the undisturbed answers. Over TCP: what an adapter that is
late may do, Tests/TransportTests/RDMATests.swift and TRANSPORT=rdma of chaos.py look into.

    Tests/chaos/paused_sender.py        RUNS=100 SEED=1 AT_ONCE=5 MODEL=path KEEP=1
"""

import argparse
import asyncio
import collections
import json
import os
import pathlib
import random
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"))
sys.dont_write_bytecode = True

import networks
import prometheus
from cluster import BINARIES, MODEL, ROOT
from late_sender import FILL
from processes import Cluster
from slab_watch import Slab
from streaming_client import Answer, ask
from workload import Request

PAGES = 48
PAGE_TOKENS = 16
# What the sender is granted, and what the requests that take its pages over need. Together far more than there is.
LATE_TOKENS = 5 * PAGE_TOKENS + 3
OTHERS, OTHER_PAGES = 2, 21
PAUSED = ("in payload", "in header", "between records", "before completion", "anywhere")
LYING = ("lies between records", "lies in payload")


def completion(random_, number, tokens, count):
    prompt = [random_.randrange(1_000, 40_000) for _ in range(tokens)]
    body = {"model": "chaos", "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True}
    return Request(number, "", "/v1/completions", json.dumps(body | {"stream": True, "logprobs": 1}).encode())


class Sender:
    """The late sender's process."""

    async def start(self, cluster, status):
        node = next(node for node in status["nodes"] if node["role"] == "decode")
        compatibility = node["compatibility"]
        self.page_bytes = compatibility["page_bytes"]
        self.events = []
        self.arrived = asyncio.Event()
        self.process = await asyncio.create_subprocess_exec(
            *networks.MORTAL, sys.executable, str(pathlib.Path(__file__).with_name("late_sender.py")),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=open(cluster.folder / "late-sender.log", "wb"),
        )  # fmt: skip
        # "llama/30x(k3x64,v3x64)/16": the layers are all alike.
        layers = int(compatibility["page_layout"].split("/")[1].split("x")[0])
        self.tell(
            router=cluster.routers[0].control, compatibility=compatibility, layers=layers,
            page_bytes=self.page_bytes, pages=PAGES, lanes=cluster.options.at_once + 1,
        )  # fmt: skip
        self.reading = asyncio.create_task(self.read())

    def tell(self, **order):
        self.process.stdin.write(json.dumps(order).encode() + b"\n")

    async def read(self):
        while line := await self.process.stdout.readline():
            self.events.append(json.loads(line))
            self.arrived.set()

    async def wait_for(self, kind, count, seconds=30):
        """So many events of a kind since `events` was cleared."""
        deadline = time.monotonic() + seconds
        while True:
            found = [event for event in self.events if event["event"] == kind]
            if len(found) >= count:
                return found
            self.arrived.clear()
            left = deadline - time.monotonic()
            try:
                await asyncio.wait_for(self.arrived.wait(), max(left, 0))
            except (TimeoutError, asyncio.TimeoutError):
                raise Failed(f"{len(found)} of {count} '{kind}' within {seconds} s; had {self.events}") from None

    def stop(self):
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)


class Failed(Exception):
    pass


class Rig:
    def __init__(self, chosen, cluster):
        self.options = chosen
        self.cluster = cluster
        self.decode = next(node for node in cluster.nodes if node.role == "decode")
        self.random = random.Random(f"paused sender {chosen.seed}")
        self.others = [
            completion(self.random, number, OTHER_PAGES * PAGE_TOKENS + 5, 24) for number in range(OTHERS)
        ]
        # Takes every page there is, so that nothing found in memory afterwards is left from the round before.
        self.wiper = completion(self.random, OTHERS, PAGES * PAGE_TOKENS - 8, 2)
        self.answers = {}
        self.pages = set()
        self.sender = Sender()
        self.passed = 0
        self.failures = []
        self.modes = collections.Counter()
        self.ends = collections.Counter()
        self.reused = 0
        self.late_bytes = 0

    # Undisturbed

    async def prepare(self):
        await self.sender.start(self.cluster, await self.cluster.status(self.cluster.routers[1]))
        self.slab = Slab(self.decode.pid, PAGES, self.sender.page_bytes)
        await self.find_slab()
        # What every run leaves: the prompts' pages, exactly.
        self.pages = await self.undisturbed() & await self.undisturbed()
        if len(self.pages) != OTHERS * OTHER_PAGES:
            raise Failed(f"{len(self.pages)} pages are the same in two undisturbed runs, not {OTHERS * OTHER_PAGES}")

    async def find_slab(self):
        """By what the sender writes when it serves the router's probe."""
        served = await self.sender.wait_for("served", 1)
        slots = [slot for slot, _ in served[0]["slots"]]
        # Sealed and settled, so it has landed as a whole.
        await self.until_attached()
        if not self.slab.find(slots, FILL):
            raise Failed(f"what the sender wrote to slots {slots} is nowhere in the decode node's memory")

    async def undisturbed(self):
        """The answers of each of a set alone, and of all at once, which must be the same; the pages that are the
        same at the first tokens and behind the last, which leaves out those that are decoded into."""
        for request in (self.wiper, *self.others, self.wiper):
            answer = Answer()
            await ask(self.cluster.routers[1].address, request, answer)
            if not answer.finished or not answer.equals(self.answers.setdefault(request.number, answer)):
                raise Failed(f"undisturbed request {request.number}: {answer.error or 'two different answers'}")
        wiped = set(self.slab.digests())
        answers, running = await self.take_over()
        sealed = set(self.slab.digests())
        await asyncio.gather(*running)
        if wrong := self.wrong(answers):
            raise Failed(f"undisturbed, but at once: {'; '.join(wrong)}")
        await self.until_free()
        return sealed & set(self.slab.digests()) - wiped

    def wrong(self, answers):
        return [
            f"request {request.number}: {answer.error or 'differs'}"
            for request, answer in answers
            if not answer.finished or not answer.equals(self.answers[request.number])
        ]

    async def until_free(self, seconds=30):
        """Until no page is promised, quarantined or in use."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                values = prometheus.parse(await self.decode.metrics(5))
            except OSError as failure:
                values = {("no answer", ()): failure}
            free = sum(values.get(("kv_pages", (("state", state),)), 0) for state in ("free", "cached"))
            if free == PAGES and not values.get(("open_handoffs", ()), 0):
                return values
            if time.monotonic() > deadline:
                raise Failed(f"pages are not free after {seconds} s: {values}")
            await asyncio.sleep(0.02)

    # A round

    async def round(self, number, plans, spoil=False):
        """A transfer for each plan. `spoil`: this test itself changes a byte, and must see it."""
        lying = plans[0]["mode"] in LYING
        self.sender.events.clear()
        await self.until_attached()
        await ask(self.cluster.routers[1].address, self.wiper, Answer())
        before = await self.until_free()
        self.sender.tell(order="plan", plans=plans)
        await self.sender.wait_for("planned", 1)
        late = [completion(self.random, 100 + index, LATE_TOKENS, 4) for index in range(len(plans))]
        clients = [asyncio.create_task(ask(self.cluster.routers[0].address, one, Answer())) for one in late]
        grants = await self.sender.wait_for("holding", len(plans))
        await asyncio.sleep(self.random.uniform(0.0, 0.3))
        self.check_partly_written(grants)
        if not lying:
            self.sender.process.send_signal(signal.SIGSTOP)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)
        await self.until_free()
        answers, running = await self.take_over()
        owned = self.owned()
        self.sender.tell(order="go")
        if not lying:
            self.sender.process.send_signal(signal.SIGCONT)
        ends = await self.sender.wait_for("wrote late", len(plans))
        if spoil:
            self.slab.spoil(self.random.choice(sorted(owned)))
        damaged = self.damaged(owned)
        await asyncio.gather(*running)
        damaged |= self.damaged(owned)
        after = await self.until_free()
        if spoil:
            return len(damaged)
        self.judge(number, plans, grants, ends, owned, damaged, answers)
        return {kind: self.stale(after, kind) - self.stale(before, kind) for kind in ("stale", "fences")}

    @staticmethod
    def stale(values, kind):
        names = {"stale": ("stale_write_rejected_total", "stale_writes_rejected_total"), "fences": ("fences_total",)}
        return int(sum(value for (name, _), value in values.items() if name in names[kind]))

    async def until_attached(self):
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                status = await self.cluster.status()
                late = [node for node in status["nodes"] if node["name"] == "late-sender" and node["state"] == "ready"]
                decode = [node for node in status["nodes"] if node["role"] == "decode"]
                # The decode node has all of the sender's lanes and those of the real prefill node.
                lanes = decode[0]["lanes"]["idle"] if decode else 0
                if late and status["ready"] and lanes >= self.options.at_once + 1 + 4:
                    return
            except OSError:
                pass
            await asyncio.sleep(0.1)
        raise Failed(f"the sender is not attached again: {await self.cluster.status()}")

    def check_partly_written(self, grants):
        """That the bytes before the pause really are in the decode node's memory: else this would show nothing."""
        for grant in grants:
            if grant["sent"] > 1 << 10:
                slot = grant["slots"][0][0]
                if self.slab.page(slot)[:512] != bytes([FILL]) * 512:
                    raise Failed(f"slot {slot} has nothing of what was written before the pause")

    async def take_over(self):
        """Others' requests take the pages, are sealed, and are being decoded, all at once."""
        for _ in range(10):
            answers, running = await self.ask_others()
            if not any(answer.done for answer in answers):
                return list(zip(self.others, answers)), running
            # One was over before another began, as on a machine that stalls, and left its pages to that one.
            await asyncio.gather(*running)
        raise Failed("the others' requests were never served at once")

    async def ask_others(self):
        answers = [Answer() for _ in self.others]
        running = [
            asyncio.create_task(ask(self.cluster.routers[1].address, request, answer))
            for request, answer in zip(self.others, answers)
        ]
        deadline = time.monotonic() + 60
        while not all(answer.events for answer in answers):
            broken = [answer.error for answer in answers if answer.error]
            if broken or time.monotonic() > deadline:
                raise Failed(f"the others' requests: {broken or 'no token'}")
            await asyncio.sleep(0.002)
        return answers, running

    def owned(self):
        """Slot and digest of every page that now holds others' prompts."""
        found = {slot: digest for slot, digest in enumerate(self.slab.digests()) if digest in self.pages}
        missing = self.pages - set(found.values())
        if missing:
            raise Failed(f"{len(missing)} pages of the requests that took over are not as in an undisturbed run")
        return found

    def damaged(self, owned):
        now = self.slab.digests()
        return {slot for slot, digest in owned.items() if now[slot] != digest}

    def judge(self, number, plans, grants, ends, owned, damaged, answers):
        wrong = self.wrong(answers)
        by_handoff = {tuple(end["handoff"]): end for end in ends}
        for plan, grant in zip(plans, grants):
            end = by_handoff[tuple(grant["handoff"])]
            slots = {slot for slot, _ in grant["slots"]}
            self.modes[plan["mode"]] += 1
            self.ends[end["why"]] += 1
            self.late_bytes += end["sent"]
            self.reused += len(slots & set(owned))
            problems = list(wrong)
            if slots & damaged:
                problems.append(f"pages changed in slots {sorted(slots & damaged)}")
            if not slots & set(owned):
                problems.append("none of its pages was given to others, so nothing was shown")
            if end["why"] in ("still open", "all was taken"):
                problems.append(f"its late writes: {end['why']}")
            if problems:
                self.failures.append(f"round {number}, {plan['mode']}: {'; '.join(problems)}")
            else:
                self.passed += 1
        if damaged and not any("pages changed" in failure for failure in self.failures):
            self.failures.append(f"round {number}: pages changed in slots {sorted(damaged)}")

    def plans(self, count):
        kinds = LYING if self.random.random() < 0.25 else PAUSED
        return [
            {"mode": self.random.choice(kinds), "records": self.random.randint(1, 5), "part": self.random.random()}
            for _ in range(count)
        ]


async def run(chosen, folder):
    network = networks.Loopback()
    cluster = Cluster(chosen, network, folder, routers=2, prefill=1, decode=1)
    # The real prefill node serves the second router alone: the first has no other than the sender.
    real = cluster.nodes[0]
    first = real.arguments.index("--router")
    del real.arguments[first : first + 2]
    rig = Rig(chosen, cluster)
    try:
        for process in cluster.all:
            process.start()
        await until_second_router_ready(cluster)
        await rig.prepare()
        began = time.monotonic()
        counted = collections.Counter()
        done = number = 0
        while done < chosen.runs:
            plans = rig.plans(min(chosen.at_once, chosen.runs - done))
            counted.update(await rig.round(number, plans))
            done += len(plans)
            number += 1
            if number % 5 == 0:
                print(f"{time.monotonic() - began:5.0f} s  {rig.passed} of {done}", flush=True)
        seconds = time.monotonic() - began
        # The same once more with a byte changed by us: a test that cannot see one shows nothing.
        seen = await rig.round(number, rig.plans(1), spoil=True)
        return report(rig, counted, done, seconds, seen)
    except (Failed, OSError, TimeoutError) as failure:
        print(f"failed after {rig.passed} runs: {failure}")
        return False
    finally:
        rig.sender.stop() if hasattr(rig.sender, "process") else None
        cluster.stop()
        network.close()


async def until_second_router_ready(cluster):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if (await cluster.status(cluster.routers[1]))["ready"]:
                return
        except OSError:
            pass
        await asyncio.sleep(0.1)
    raise Failed("the second router was not ready in 120 s")


def parts(counts):
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


def report(rig, counted, done, seconds, seen):
    print(f"\n{done} transfers paused until they were dead, then resumed, in {seconds:.0f} s, seed {rig.options.seed}")
    print(f"  paused                    {parts(rig.modes)}")
    print(f"  written after resuming    {rig.late_bytes / 1e6:.1f} MB; ended: {parts(rig.ends)}")
    print(f"  stale writes rejected     {counted['stale']}, fences {counted['fences']}")
    print(f"  pages others had by then  {rig.reused} of the transfers' own, each compared byte for byte")
    for failure in rig.failures[:20]:
        print(f"      {failure}")
    print(f"  a byte changed by this test itself, as a check of the check: {'seen' if seen == 1 else 'NOT SEEN'}")
    print(f"  not one byte changed      {rig.passed} of {done}")
    return rig.passed == done and not rig.failures and seen == 1


def start():
    if (os.environ.get("TRANSPORT") or "tcp") != "tcp":
        sys.exit("this sender speaks the protocol of lanes over TCP only; for RDMA: make test-rdma")
    if not pathlib.Path(MODEL).exists():
        sys.exit(f"MODEL: there is no {MODEL}; `make setup` fetches the default")
    chosen = argparse.Namespace(
        runs=int(os.environ.get("RUNS") or 100),
        seed=int(os.environ.get("SEED") or 1),
        at_once=int(os.environ.get("AT_ONCE") or 5),
        # Room for all prompts on the prefill node, so that a round does not wait for them to be computed again.
        slots={"decode": PAGES, "prefill": 160},
        page_tokens=PAGE_TOKENS,
        chunk=64,
        binaries=BINARIES,
        model=pathlib.Path(MODEL).resolve(),
    )
    folder = ROOT / ".build" / f"paused-sender-{chosen.seed}-{os.getpid()}"
    good = False
    try:
        good = asyncio.run(run(chosen, folder))
    finally:
        if good and not os.environ.get("KEEP"):
            shutil.rmtree(folder, ignore_errors=True)
        else:
            print(f"\nlogs      {folder}\nagain     RUNS={chosen.runs} SEED={chosen.seed} Tests/chaos/paused_sender.py")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    start()
