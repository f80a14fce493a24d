"""What the processes count, over all their starts, and what they hold at the end."""

import asyncio
import collections
import time

import prometheus

# Kept connected from each prefill node to each decode node unless --lanes says otherwise.
LANES = 4


class Counters:
    """The last sample of every instance. A process that was killed is sampled right before, so little is missing."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.instances = {}
        self.peaks = collections.Counter()

    async def sample(self, process):
        key = (process.role, process.key)
        try:
            values = prometheus.parse(await process.metrics())
        except OSError:
            return False
        self.instances[key] = values
        for (name, labels), value in values.items():
            if name == "kv_pages" and ("state", "quarantined") in labels:
                self.peaks[process.name] = max(self.peaks[process.name], value)
        return True

    async def sample_all(self):
        return await asyncio.gather(*(self.sample(process) for process in self.cluster.all))

    async def run(self, every=1.0):
        while True:
            await asyncio.gather(self.sample_all(), asyncio.sleep(every))

    def _of_role(self, role):
        return [values for (of, _), values in self.instances.items() if role in (None, of)]

    def total(self, name, role=None):
        """A counter's sum over all instances; None if none of them has it."""
        found = [
            value
            for values in self._of_role(role)
            for (metric, _), value in values.items()
            if metric == name
        ]
        return int(sum(found)) if found else None

    def by_label(self, label, name, role=None):
        sums = collections.Counter()
        for values in self._of_role(role):
            for (metric, has), value in values.items():
                if metric == name:
                    sums[dict(has).get(label, "")] += int(value)
        return sums

    def quantiles(self, wanted, name, role=None):
        """Quantiles of a histogram in seconds, None of nothing, and how many values it has."""
        buckets = collections.Counter()
        for values in self._of_role(role):
            buckets.update(prometheus.histogram(values, name))
        return [prometheus.quantile(buckets, share) for share in wanted], int(max(buckets.values(), default=0))


class Footprint:
    """Open files and memory of every process when idle; what they may have grown to at the end."""

    FILES_SLACK = 12
    MEMORY_SLACK = 64 << 20

    def __init__(self, cluster):
        self.cluster = cluster
        self.files = collections.Counter()
        self.memory = collections.Counter()

    def take(self):
        """The idle level by role: the highest of its processes."""
        for process in self.cluster.all:
            self.files[process.role] = max(self.files[process.role], process.open_files())
            self.memory[process.role] = max(self.memory[process.role], process.resident_bytes())

    def compare(self):
        """Lines about every process, and those beyond the bounds."""
        lines, beyond = [], []
        for process in self.cluster.all:
            files, memory = process.open_files(), process.resident_bytes()
            text = (
                f"{process.key}: {files} files (idle {self.files[process.role]}), "
                f"{memory >> 20} MiB (idle {self.memory[process.role] >> 20})"
            )
            lines.append(text)
            if files > self.files[process.role] + self.FILES_SLACK:
                beyond.append(f"open files of {text}")
            if memory > self.memory[process.role] * 5 // 4 + self.MEMORY_SLACK:
                beyond.append(f"memory of {text}")
        return lines, beyond


async def missing_lanes(cluster, patience=30.0):
    """Pairs of nodes that are not connected again by as many lanes as they keep, as the routers see it."""
    deadline = time.monotonic() + patience
    while True:
        try:
            missing = await _missing_lanes(cluster)
        except OSError as failure:
            missing = [str(failure)]
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.5)


async def _missing_lanes(cluster):
    missing = []
    for router in cluster.routers:
        nodes = (await cluster.status(router))["nodes"]
        decodes = sum(node["role"] == "decode" for node in nodes)
        prefills = len(nodes) - decodes
        for node in nodes:
            wanted = LANES * (prefills if node["role"] == "decode" else decodes)
            if node["lanes"]["idle"] != wanted or node["lanes"]["busy"]:
                missing.append(f"{node['name']} as {router.name} sees it: {node['lanes']}, not {wanted} idle")
    return missing


async def leftovers(cluster, patience=30.0):
    """Lost pages and open handoffs by every account there is: the nodes' own and that of every router."""
    deadline = time.monotonic() + patience
    while True:
        try:
            pages, handoffs = await _leftovers(cluster)
        except OSError as failure:
            pages, handoffs = {"asked": str(failure)}, {}
        if not pages and not handoffs or time.monotonic() > deadline:
            return pages, handoffs
        await asyncio.sleep(0.5)


async def _leftovers(cluster):
    pages, handoffs = {}, {}
    for node in cluster.nodes:
        values = prometheus.parse(await node.metrics(5))
        states = {dict(labels)["state"]: int(value) for (name, labels), value in values.items() if name == "kv_pages"}
        total = cluster.options.slots[node.role]
        lost = total - states.get("free", 0) - states.get("cached", 0)
        if lost:
            pages[node.key] = f"{lost} of {total}: {states}"
        if open_ := int(values.get(("open_handoffs", ()), 0)):
            handoffs[node.key] = open_
    for router in cluster.routers:
        status = await cluster.status(router)
        if status["handoffs"]["open"]:
            handoffs[router.key] = status["handoffs"]
        for node in status["nodes"]:
            counts = node["pages"]
            if counts["free"] + counts["cached"] != counts["total"]:
                pages[f"{node['name']} as {router.name} sees it"] = str(counts)
    return pages, handoffs
