#!/usr/bin/env python3
"""`make chaos`: a real cluster under load, cancels, kills, pauses, restarts and cut paths; every answer is checked.

`Tests/chaos/chaos.py --seconds 60` does the same with what is built. Variables: SEED=1 RATE=requests/s PREFILL=2
DECODE=2 FAULTS=kill,stop,router,net FAULT_EVERY=s PAGES=n REQUESTS=n IN_FLIGHT=n ABORTS=share MIN_HANDOFFS=n KEEP=1
MODEL=path (the bundled GLM-5) SPECULATE=drafts (3 of the bundled one; the answers to compare with are without).
TRANSPORT=rdma: lanes over RDMA, on Soft-RoCE in a guest (Tests/rdma), or on the device of this machine that
BATON_RDMA_HOST names.
"""

import argparse
import asyncio
import os
import pathlib
import shlex
import shutil
import signal
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent.parent / "scripts"))
sys.dont_write_bytecode = True

import accounting
import faults
import load
import networks
import rdma
import workload
from cluster import BINARIES, ROOT
from processes import Cluster, tail
from report import Report


BUNDLED = ROOT / "Models/glm5-nano"
# Where all processes share one processor, which is the adapters too.
SMALLER = {"RATE": 4, "REQUESTS": 48, "IN_FLIGHT": 12}


def options():
    transport = os.environ.get("TRANSPORT") or "tcp"
    smaller = SMALLER if transport == "rdma" else {}

    def setting(name, default, kind):
        return kind(os.environ.get(name) or smaller.get(name, default))

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600)
    chosen = argparse.Namespace(
        seconds=parser.parse_args().seconds,
        transport=transport,
        seed=setting("SEED", 1, int),
        rate=setting("RATE", 100, float),
        prefill=setting("PREFILL", 2, int),
        decode=setting("DECODE", 2, int),
        faults=[kind for kind in setting("FAULTS", ",".join(faults.KINDS), str).split(",") if kind],
        fault_every=setting("FAULT_EVERY", 3, float),
        faults_at_once=2,
        # Few, so that all of them are granted again within seconds. A prefill node keeps prompts in its own, and has
        # twice as many lest all the time goes into computing.
        slots={"decode": setting("PAGES", 160, int), "prefill": 2 * setting("PAGES", 160, int)},
        page_tokens=workload.PAGE_TOKENS,
        chunk=workload.CHUNK_TOKENS,
        requests=setting("REQUESTS", 96, int),
        in_flight=setting("IN_FLIGHT", 48, int),
        aborts=setting("ABORTS", 0.5, float),
        second_router_share=0.4,
        min_handoffs=setting("MIN_HANDOFFS", 0, int),
        keep=bool(os.environ.get("KEEP")),
        binaries=BINARIES,
        model=pathlib.Path(os.environ.get("BATON_MODEL") or os.environ.get("MODEL") or BUNDLED).resolve(),
        speculate=setting("SPECULATE", -1, int),
    )
    if chosen.speculate < 0:
        chosen.speculate = 3 if chosen.model == BUNDLED else 0
    if not chosen.model.exists():
        sys.exit(f"MODEL: there is no {chosen.model}")
    if transport not in ("tcp", "rdma"):
        sys.exit(f"TRANSPORT knows tcp and rdma, not {transport}")
    unknown = set(chosen.faults) - set(faults.KINDS)
    if unknown:
        sys.exit(f"FAULTS knows {', '.join(faults.KINDS)}, not {', '.join(sorted(unknown))}")
    return chosen


def say(text):
    print(text, flush=True)


class Run:
    def __init__(self, chosen, folder, network):
        self.options = chosen
        self.folder = folder
        self.network = network
        self.clusters = []
        self.exits = []

    def cluster(self, name, network, **counts):
        cluster = Cluster(self.options, network, self.folder / name, **counts)
        self.clusters.append(cluster)
        return cluster

    def stop(self):
        for cluster in self.clusters:
            cluster.stop()
            cluster.network.close()

    async def reference(self, requests):
        say(f"asking {len(requests)} distinct requests on an idle pair")
        pair = self.cluster("idle", networks.Loopback(), routers=1, prefill=1, decode=1)
        await pair.start()
        answers, durations = await load.reference(pair, requests)
        pair.stop()
        return answers, durations

    async def everything(self):
        chosen = self.options
        requests = workload.draw(chosen.seed, chosen.requests)
        answers, durations = await self.reference(requests)
        counts = {"routers": 2, "prefill": chosen.prefill, "decode": chosen.decode}
        cluster = self.cluster("storm", self.network, speculate=chosen.speculate, **counts)
        say(f"2 routers, {chosen.prefill} prefill and {chosen.decode} decode nodes; {self.network.description}")
        await cluster.start()
        counters = accounting.Counters(cluster)
        carried = rdma.Lanes(cluster, counters) if chosen.transport == "rdma" else None
        if carried and (others := await carried.wait()):
            raise RuntimeError(f"not over RDMA before anything happened: {'; '.join(others)}")
        trouble = faults.Faults(chosen, cluster, counters)
        storm = load.Load(chosen, cluster, requests, answers, durations, trouble)
        # Touches every page and fills every buffer and pool, without a fault.
        warm_up = min(8.0, chosen.seconds / 5)
        await storm.run(warm_up)
        await storm.settle()
        await cluster.wait_until_quiet(60)
        footprint = accounting.Footprint(cluster)
        footprint.take()
        began = time.monotonic()
        watching = [
            asyncio.create_task(counters.run()),
            asyncio.create_task(self.watch(cluster)),
            asyncio.create_task(self.tell(storm, trouble, counters, began)),
        ]
        if carried:
            watching.append(asyncio.create_task(carried.run()))
        try:
            await asyncio.gather(storm.run(chosen.seconds), trouble.run(chosen.seconds))
            seconds = warm_up + time.monotonic() - began
            await storm.settle()
            unsettled = await cluster.wait_until_quiet(90)
        finally:
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
        for task in watching:
            if not task.cancelled() and task.exception():
                raise task.exception()
        await counters.sample_all()
        pages, handoffs = await accounting.leftovers(cluster)
        wrong = await self.afterwards(cluster, requests, answers, carried)
        lanes = await accounting.missing_lanes(cluster)
        unsettled = unsettled or await cluster.wait_until_quiet(30)
        if not pages and not handoffs:
            pages, handoffs = await accounting.leftovers(cluster)
        lines, beyond = footprint.compare()
        phases = storm.phases.count(cluster.routers)
        report = Report(chosen, storm, trouble, counters, carried)
        good = report.print(
            seconds, phases, unsettled, pages, handoffs, lanes, lines, beyond, self.exits, wrong
        )  # fmt: skip
        report.keep(self.folder)
        return good

    async def afterwards(self, cluster, requests, answers, carried):
        """Whether all nodes work again, and answer every request as before: what is cached is as it was."""
        try:
            await cluster.wait_until_ready(60)
        except TimeoutError as failure:
            return [str(failure)]
        if carried:
            await carried.settle()
        wrong = await load.verify(cluster, requests, answers)
        if carried:
            await carried.finish()
        return wrong

    async def watch(self, cluster):
        """Processes end only when a fault ends them. One that does otherwise is started again, and told of."""
        while True:
            for process in cluster.all:
                if not process.fault and process.exit_code() is not None:
                    self.exits.append(f"{process.key} with {process.exit_code()}: {tail(process.log)}")
                    process.start()
            await asyncio.sleep(0.2)

    async def tell(self, storm, trouble, counters, began):
        while True:
            await asyncio.sleep(10)
            tally = storm.tally
            now = ", ".join(f"{fault.what} {fault.victim}" for fault in trouble.history if fault.ended is None)
            say(
                f"{time.monotonic() - began:5.0f} s  {tally.sent} sent, {tally.finished} finished, "
                f"{tally.aborted} aborted, {tally.failed} failed, {len(storm.open)} open, {tally.withheld} withheld; "
                f"{counters.total('grants_total', role='decode')} handoffs; {len(tally.mismatches)} mismatches; "
                f"faults {len(trouble.history)}{f' ({now})' if now else ''}"
            )


def command(chosen):
    """The one that does the same again."""
    words = [f"{name}={shlex.quote(value)}" for name, value in sorted(os.environ.items()) if value and name in SETTINGS]
    return " ".join(["make", "chaos", f"SECONDS={chosen.seconds:g}", f"SEED={chosen.seed}", *words])


SETTINGS = (
    "TRANSPORT BATON_RDMA_HOST RATE PREFILL DECODE MODEL FAULTS FAULT_EVERY PAGES REQUESTS IN_FLIGHT ABORTS "
    "MIN_HANDOFFS SPECULATE".split()
)


async def main(chosen, folder, network):
    run = Run(chosen, folder, network)
    task = asyncio.current_task()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await run.everything()
    finally:
        run.stop()


def network_for(chosen):
    network = None
    if chosen.transport == "rdma":
        rdma.enter_guest(600 + 2 * chosen.seconds, chosen.model)
        network = rdma.network()
        if "net" in chosen.faults and not network.cuts:
            chosen.faults.remove("net")
    elif "net" in chosen.faults:
        why = networks.enter_own_namespace()
        if why:
            say(f"no network faults: {why}; everything on loopback")
            chosen.faults.remove("net")
        else:
            network = networks.Namespaces()
    return network or networks.Loopback()


def start():
    chosen = options()
    network = network_for(chosen)
    folder = ROOT / ".build" / f"chaos-{chosen.seed}-{os.environ.get(rdma.INSIDE) or os.getpid()}"
    good = False
    try:
        good = asyncio.run(main(chosen, folder, network))
    except asyncio.CancelledError:
        say("interrupted")
        sys.exit(130)
    except (RuntimeError, OSError, TimeoutError) as failure:
        say(f"failed: {failure}")
    finally:
        network.close()
        if good and not chosen.keep:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            say(f"\nlogs      {folder}\nagain     {command(chosen)}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    start()
