"""What the processes count, over all their starts, and what they hold at the end."""

import asyncio
import collections
import re
import time

SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ([0-9.eE+-]+|NaN|\+Inf)$")
# Kept connected from each prefill node to each decode node unless --lanes says otherwise.
LANES = 4
LABEL = re.compile(r'(\w+)="([^"]*)"')


def parse(text):
    """Prometheus text as {(name, labels): value}."""
    values = {}
    for line in text.splitlines():
        match = SAMPLE.match(line)
        if match:
            labels = tuple(sorted(LABEL.findall(match[2] or "")))
            values[match[1].removeprefix("baton_"), labels] = float(match[3])
    return values


class Counters:
    """The last sample of every instance. A process that was killed is sampled right before, so little is missing."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.instances = {}
        self.peaks = collections.Counter()

    async def sample(self, process):
        key = (process.role, process.key)
        try:
            values = parse(await process.metrics())
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

    def total(self, *names, role=None, **labels):
        """A counter's sum over all instances, under the first of the names that any of them has; None if none."""
        wanted = set(labels.items())
        for name in names:
            found = [
                value
                for (of, _), values in self.instances.items()
                if role in (None, of)
                for (metric, has), value in values.items()
                if metric == name and wanted <= set(has)
            ]
            if found:
                return int(sum(found))
        return None

    def by_label(self, label, *names, role=None):
        for name in names:
            sums = collections.Counter()
            for (of, _), values in self.instances.items():
                for (metric, has), value in values.items():
                    if metric == name and role in (None, of):
                        sums[dict(has).get(label, "")] += int(value)
            if sums:
                return sums
        return None

    def quantiles(self, wanted, *names, role=None):
        """Quantiles of a histogram in seconds, and how many values it has; each the upper bound of its bucket,
        interpolated within."""
        for name in names:
            buckets = collections.Counter()
            for (of, _), values in self.instances.items():
                for (metric, has), value in values.items():
                    if metric == f"{name}_bucket" and role in (None, of):
                        buckets[float(dict(has)["le"].replace("+Inf", "inf"))] += value
            if buckets:
                return [_quantile(sorted(buckets.items()), share) for share in wanted], int(max(buckets.values()))
        return None


def _quantile(cumulative, share):
    total = cumulative[-1][1]
    if not total:
        return None
    lower, below = 0.0, 0
    for bound, count in cumulative:
        if count >= share * total:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (share * total - below) / max(count - below, 1e-9)
        lower, below = bound, count
    return lower


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
        missing = []
        for router in cluster.routers:
            nodes = (await cluster.status(router))["nodes"]
            decodes = sum(node["role"] == "decode" for node in nodes)
            prefills = len(nodes) - decodes
            for node in nodes:
                wanted = LANES * (prefills if node["role"] == "decode" else decodes)
                if node["lanes"]["idle"] != wanted or node["lanes"]["busy"]:
                    missing.append(f"{node['name']} as {router.name} sees it: {node['lanes']}, not {wanted} idle")
        if not missing or time.monotonic() > deadline:
            return missing
        await asyncio.sleep(0.5)


async def leftovers(cluster, patience=30.0):
    """Lost pages and open handoffs by every account there is: the nodes' own and that of every router."""
    deadline = time.monotonic() + patience
    while True:
        pages, handoffs = await _leftovers(cluster)
        if not pages and not handoffs or time.monotonic() > deadline:
            return pages, handoffs
        await asyncio.sleep(0.5)


async def _leftovers(cluster):
    pages, handoffs = {}, {}
    for node in cluster.nodes:
        values = parse(await node.metrics(5))
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
