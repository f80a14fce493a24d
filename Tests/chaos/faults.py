"""Faults drawn by seed: processes killed, stopped and started again, paths cut and delayed."""

import asyncio
import collections
import dataclasses
import json
import random
import signal
import time
from functools import partial

from streaming_client import get

# With their weights: a router's restart fails all that is open there, the other faults hardly anything.
KINDS = {"kill": 3, "stop": 3, "router": 1, "net": 3}
# How long a fault's consequences may be seen after its end: lease, drain budget, redialling.
AFTERMATH_SECONDS = 20
# Longer than lease and drain budget together, so that slots were fenced and given to others meanwhile.
LONG_STOP = (5.5, 9.0)
SHORT_STOP = (0.05, 1.2)


@dataclasses.dataclass
class Fault:
    what: str
    victim: str
    began: float
    ended: float | None = None


class Faults:
    def __init__(self, options, cluster, counters):
        self.options = options
        self.cluster = cluster
        self.counters = counters
        self.random = random.Random(f"faults {options.seed}")
        self.history = []
        self.under_way = set()
        self.errors = []

    @property
    def counts(self):
        return collections.Counter(fault.what for fault in self.history)

    def only_on_first_router(self, began):
        """Whether a request that began then and ends now met no trouble but that of the first router."""
        touching = [it for it in self.history if it.ended is None or it.ended + AFTERMATH_SECONDS > began]
        return bool(touching) and all(fault.victim == self.cluster.routers[0].name for fault in touching)

    async def run(self, seconds):
        end = time.monotonic() + seconds
        while True:
            await asyncio.sleep(self.random.expovariate(1 / self.options.fault_every))
            if time.monotonic() > end:
                break
            # Of the draws, none depends on what is possible just now: the sequence is the seed's.
            kind = self.random.choices(self.options.faults, [KINDS[kind] for kind in self.options.faults])[0]
            dice = random.Random(self.random.random())
            fault = self._draw(kind, dice)
            if fault and len(self.under_way) < self.options.faults_at_once:
                task = asyncio.create_task(self._hold(*fault))
                self.under_way.add(task)
                task.add_done_callback(self.under_way.discard)
        if self.under_way:
            await asyncio.wait(self.under_way)

    def _draw(self, kind, dice):
        """A process that is in nobody's hands, and what befalls it; None when there is none."""
        if kind == "router":
            victims = self.cluster.routers[:1]
        else:
            victims = self.cluster.nodes + (self.cluster.routers[:1] if kind == "stop" else [])
        victim = dice.choice(victims)
        if victim.fault or not self._spares_a_pair(victim):
            return None
        if kind in ("kill", "router"):
            gentle = kind == "router" and dice.random() < 0.3
            what = f"{'SIGTERM' if gentle else 'SIGKILL'} {victim.role}"
            return victim, what, partial(self._end, victim, gentle, dice)
        if kind == "stop":
            long = dice.random() < 0.4
            seconds = dice.uniform(*(LONG_STOP if long else SHORT_STOP))
            what = f"{'long' if long else 'short'} SIGSTOP {victim.role}"
            return victim, what, partial(self._pause, victim, seconds, until_writing=dice.random() < 0.5)
        plane, how = self.cluster.network.draw_cut(dice)
        seconds = dice.uniform(4.0, 12.0) if dice.random() < 0.4 else dice.uniform(0.2, 2.5)
        return victim, f"{plane} {how}", partial(self._cut, victim, plane, how, seconds)

    def _spares_a_pair(self, victim):
        """Of each role one is always left alone, so that there is work for all of the run."""
        if victim.role == "router":
            return True
        others = [node for node in self.cluster.nodes if node.role == victim.role and node is not victim]
        return any(not node.fault for node in others)

    async def _hold(self, victim, what, action):
        fault = Fault(what, victim.name, time.monotonic())
        self.history.append(fault)
        victim.fault = fault
        try:
            await action()
        except OSError as failure:
            self.errors.append(f"{what} {victim.name}: {failure}")
        finally:
            fault.ended = time.monotonic()
            victim.fault = None

    async def _end(self, victim, gently, dice):
        # What a process counted ends with it.
        await self.counters.sample(victim)
        if gently:
            victim.send(signal.SIGTERM)
            deadline = time.monotonic() + 15
            while victim.exit_code() is None and time.monotonic() < deadline:
                await asyncio.sleep(0.02)
            if victim.exit_code() is None:
                self.errors.append(f"{victim.key} did not end within 15 s of SIGTERM")
            await self.counters.sample(victim)
        victim.end()
        await asyncio.sleep(dice.uniform(0.0, 1.5))
        victim.start()
        await self._until_back(victim)

    async def _until_back(self, victim):
        """Until it answers, so that a start which fails is seen as such."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and victim.exit_code() is None:
            try:
                return await victim.metrics()
            except OSError:
                await asyncio.sleep(0.1)
        self.errors.append(f"{victim.key} did not come back: exit {victim.exit_code()}")

    async def _pause(self, victim, seconds, until_writing):
        if until_writing and victim.role != "router":
            await self._until_writing(victim)
        victim.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            victim.send(signal.SIGCONT)

    async def _until_writing(self, victim):
        """Until the ledger has a handoff of this node between its grant and its seal."""
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            try:
                rows = json.loads(await get(self.cluster.routers[-1].address, "/admin/handoffs"))
            except OSError:
                return
            if any(row["state"] == "prefilling" and row[victim.role] == victim.name for row in rows):
                return
            await asyncio.sleep(0.01)

    async def _cut(self, victim, plane, how, seconds):
        network = self.cluster.network
        await network.cut(victim.name, plane, how)
        try:
            await asyncio.sleep(seconds)
        finally:
            await network.heal(victim.name, plane, how)
