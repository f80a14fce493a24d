"""Open-loop load: requests arrive when the seed says, whatever became of those before; half are cancelled."""

import asyncio
import collections
import dataclasses
import json
import random
import re
import time

from streaming_client import Answer, ask, get

# Longer than the router's queue timeout and all its retries together: a request still open then is stuck.
STUCK_SECONDS = 150


@dataclasses.dataclass
class Tally:
    sent: int = 0
    finished: int = 0
    aborted: int = 0
    failed: int = 0
    stuck: int = 0
    # Arrivals that were not sent because too many were open.
    withheld: int = 0
    # Storm victims that were answered before their moment came.
    too_late: int = 0
    mismatches: list = dataclasses.field(default_factory=list)
    # By the router asked: the first, which is killed and restarted, or the other; then by the error.
    failures: dict = dataclasses.field(
        default_factory=lambda: {"first": collections.Counter(), "other": collections.Counter()}
    )
    # Requests to the router that no fault touches, while only the other router was in trouble; those that failed.
    beside: int = 0
    disturbed: list = dataclasses.field(default_factory=list)


class AbortPhases:
    """In which phase the ledger had each request when its client left: rows seen just before, matched with the
    router's own record of cancelled requests at the end."""

    BEFORE_AN_END = ("reserving", "prefilling", "written", "decoding")

    def __init__(self):
        self.rows = {}

    async def look(self, router):
        try:
            rows = json.loads(await get(router.address, "/admin/handoffs", 1.0))
        except (OSError, ValueError):
            return
        seen = self.rows.setdefault(router.key, {})
        for row in rows:
            if row["state"] in self.BEFORE_AN_END:
                seen[row["request"]] = row["state"]

    def count(self, routers):
        phases = collections.Counter()
        for router in routers:
            for instance in range(1, router.instance + 1):
                log = router.cluster.folder / f"{router.name}.{instance}.log"
                seen = self.rows.get(f"{router.name}.{instance}", {})
                for entry in cancelled(log):
                    phases[self._phase(entry, seen)] += 1
        return phases

    @staticmethod
    def _phase(entry, seen):
        if int(entry["completion"]) > 0:
            return "decoding"
        if int(entry["attempts"]) == 0:
            return "queued"
        phase = seen.get(int(entry["request"]), "reserving")
        # Cancelled before its first token came, so no later phase than this one.
        return {"prefilling": "prefilling and writing", "written": "written, not sealed"}.get(phase, phase)


def cancelled(log):
    """The router's entries about requests that their clients left."""
    with open(log, errors="replace") as lines:
        for line in lines:
            if '"request ended"' in line and '"cancelled"' in line:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # the last line of a killed process


class Load:
    def __init__(self, options, cluster, requests, reference, durations, faults):
        self.options = options
        self.cluster = cluster
        self.requests = requests
        self.reference = reference
        # Seconds a request takes, as of late; whoever is to leave does so at a random moment of this.
        self.expected = dict(durations)
        self.faults = faults
        self.random = random.Random(f"load {options.seed}")
        self.tally = Tally()
        self.phases = AbortPhases()
        self.open = set()

    async def run(self, seconds):
        """Sends for so long, then waits for what is open."""
        start = time.monotonic()
        next_arrival = start
        while next_arrival < start + seconds:
            request = self.random.choice(self.requests)
            router = self.cluster.routers[self.random.random() < self.options.second_router_share]
            leaves = self.random.random() if self.random.random() < self.options.aborts else None
            await asyncio.sleep(max(0, next_arrival - time.monotonic()))
            next_arrival += self.random.expovariate(self.options.rate)
            if len(self.open) >= self.options.in_flight:
                self.tally.withheld += 1
                continue
            self.tally.sent += 1
            task = asyncio.create_task(self._one(request, router, leaves))
            self.open.add(task)
            task.add_done_callback(self.open.discard)

    async def settle(self):
        if self.open:
            await asyncio.wait(self.open, timeout=STUCK_SECONDS + 10)
        assert not self.open, "every request has its own end"

    async def _one(self, request, router, leaves):
        answer = Answer()
        began = time.monotonic()
        asking = asyncio.create_task(ask(router.address, request, answer))
        patience = STUCK_SECONDS if leaves is None else leaves * self.expected[request.number]
        done, _ = await asyncio.wait([asking], timeout=patience)
        if done:
            self._ended(request, router, answer, began, asking)
            self.tally.too_late += leaves is not None
            return
        if leaves is None:
            self.tally.stuck += 1
        else:
            self.tally.aborted += 1
            await self.phases.look(router)
        asking.cancel()
        await asyncio.wait([asking])
        self._compare(request, router, answer)

    def _ended(self, request, router, answer, began, asking):
        if asking.exception():
            raise asking.exception()
        beside = router is not self.cluster.routers[0] and self.faults.only_on_first_router(began)
        self.tally.beside += beside
        if answer.finished:
            self.tally.finished += 1
            seconds = time.monotonic() - began
            self.expected[request.number] += 0.2 * (seconds - self.expected[request.number])
        else:
            self.tally.failed += 1
            where = "first" if router is self.cluster.routers[0] else "other"
            self.tally.failures[where][self._reason(answer)] += 1
            if beside:
                self.tally.disturbed.append(f"request {request.number} at {router.key}: {answer.error}")
        self._compare(request, router, answer)

    def _compare(self, request, router, answer):
        whole = self.reference[request.number]
        if answer.equals(whole) if answer.finished else answer.is_start_of(whole):
            return
        self.tally.mismatches.append(
            {
                "request": request.number,
                "kind": request.kind,
                "router": router.key,
                "finished": answer.finished,
                "seen": dataclasses.asdict(answer),
                "reference": dataclasses.asdict(whole),
                "body": request.body.decode(),
            }
        )

    @staticmethod
    def _reason(answer):
        """The error without what differs from one to the next."""
        return re.sub(r"\[Errno.*|\b\d+ bytes.*", "", answer.error or "no error given").strip()[:110]


async def reference(cluster, requests):
    """Every request alone on an idle pair: its answer, and how long it took."""
    answers, durations = {}, {}
    for request in requests:
        answer = Answer()
        began = time.monotonic()
        await ask(cluster.routers[0].address, request, answer)
        durations[request.number] = time.monotonic() - began
        if not answer.finished:
            raise RuntimeError(f"request {request.number} failed on an idle pair: {answer.error}")
        answers[request.number] = answer
    return answers, durations


async def verify(cluster, requests, answers, at_once=4):
    """Every request once more when all is quiet again; those that differ or fail."""
    wrong = []
    gate = asyncio.Semaphore(at_once)

    async def one(request, router):
        async with gate:
            answer = Answer()
            await ask(router.address, request, answer)
            if not answer.finished or not answer.equals(answers[request.number]):
                wrong.append(f"request {request.number} at {router.key}: {answer.error or 'differs'}")

    await asyncio.gather(*(one(request, router) for request in requests for router in cluster.routers))
    return wrong
