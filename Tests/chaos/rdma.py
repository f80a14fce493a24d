"""`TRANSPORT=rdma`: the same cluster with lanes over RDMA, in a guest with Soft-RoCE or on this machine's own device.

In the guest (Tests/rdma) each node has an adapter of its own, on a cable to a switch that forwards between them, and a
path to the routers that only it uses; either can be cut alone, and what is on the cable can be delayed, held back or
lost. Lanes over TCP go neither way, so that a node whose cable is cut still has those to fall back to.
"""

import asyncio
import collections
import os
import pathlib
import re
import subprocess
import sys
import time

import networks
from cluster import ROOT

sys.path.insert(0, str(ROOT / "Tests" / "rdma"))
import guest

HOST = "BATON_RDMA_HOST"
# Set in the guest, to the process outside that it is of: process numbers in there are always the same.
INSIDE = "BATON_CHAOS_GUEST"
# Of a rate that costs nothing, yet finds what was written late into a page that nobody reads.
DIGESTS = ["--digests", "scrub", "--scrub-rate", 50_000_000]
# The last is longer than the drain budget: what was under way lands when its pages are others'.
DELAYS = {"delayed": "delay 20ms 10ms", "lossy": "loss 2%", "held back": "delay 2600ms"}
# Of pages in one packet at most: the largest payload InfiniBand knows.
PACKET_BYTES = 4096
NOWHERE = "02:00:00:00:00:01"
DEVICES = pathlib.Path("/sys/class/infiniband")


def enter_guest(seconds, model):
    """Runs this program again in a guest and ends with its status, unless it runs there or has a device to use."""
    if os.environ.get(HOST) or os.environ.get(INSIDE):
        return
    # That of the system: a home folder is not there.
    command = ["python3", str(pathlib.Path(sys.argv[0]).resolve()), *sys.argv[1:]]
    os.chdir(ROOT)
    sys.exit(guest.run(command, "none", seconds, 4096, {INSIDE: str(os.getpid()), "BATON_MODEL": str(model)}))


def network():
    return Cables() if os.environ.get(INSIDE) else OwnDevice(os.environ[HOST])


class OwnDevice(networks.Loopback):
    """All lanes over the device that has this address; nothing can be cut."""

    def __init__(self, host):
        super().__init__()
        self.host = host
        self.description = f"lanes over the RDMA device with {host}; no path can be cut"

    def node_hosts(self, name):
        return "127.0.0.1", self.host

    def lane_options(self, name):
        return DIGESTS

    def sent_bytes(self):
        """Unknown: not every adapter counts what it sends to itself."""


class Cables(networks.Loopback):
    """An adapter per node, on cables to a switch. Of a guest of our own, whose routes are changed for good."""

    def __init__(self):
        super().__init__()
        self.numbers = {}
        for name in ("all", "default"):
            pathlib.Path(f"/proc/sys/net/ipv4/conf/{name}/rp_filter").write_text("0")
            pathlib.Path(f"/proc/sys/net/ipv4/conf/{name}/accept_local").write_text("1")
        pathlib.Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        # Our own rules come before that for local addresses.
        networks.ip("rule add pref 1000 lookup local")
        networks.ip("rule del pref 0")
        # Where packets to routers go whose path is cut: onto a cable with nobody at that address.
        networks.ip("route add default via 10.9.0.254 dev v0 onlink table 98")
        networks.ip(f"neigh add 10.9.0.254 lladdr {NOWHERE} dev v0 nud permanent")
        # No carrier is taken away: a port that is down while its node connects, or is connected to, ends Soft-RoCE's
        # management queue pair for good.
        self.cuts = ("drop", "deaf", *DELAYS)
        self.description = f"an RDMA adapter per node on cables to a switch; those: {', '.join(self.cuts)}"

    def add_node(self, name):
        if name in self.numbers:
            return
        number = self.numbers[name] = len(self.numbers) + 1
        host = f"10.9.{number}.1"
        networks.ip(f"link add n{number} mtu 9000 type veth peer name s{number} mtu 9000")
        networks.ip(f"addr add {host}/32 dev n{number}")
        networks.ip(f"link set n{number} up")
        networks.ip(f"link set s{number} up")
        # What arrives at a node is for it; at the switch, what has come over a cable is passed on to another.
        networks.ip(f"rule add pref 10 iif n{number} lookup local")
        networks.ip(f"rule add pref 11 iif s{number} lookup 99")
        networks.ip(f"rule add pref 12 from {host} to {host} lookup local")
        networks.ip(f"rule add pref 13 from {host} to 10.9.0.0/16 lookup {100 + number}")
        networks.ip(f"route add default via 10.9.{number}.254 dev n{number} onlink src {host} table {100 + number}")
        networks.ip(f"route add {host} dev s{number} table 99")
        for neighbour in self._neighbours(number):
            networks.ip(neighbour)
        networks.ip(f"addr add {self.router_host(name)}/32 dev lo")
        subprocess.run(["rdma", "link", "add", f"rxe{number}", "type", "rxe", "netdev", f"n{number}"], check=True)

    def control_host(self):
        return "0.0.0.0"

    def router_host(self, name):
        return f"10.77.{self.numbers[name]}.1"

    def node_hosts(self, name):
        return "127.0.0.1", f"10.9.{self.numbers[name]}.1"

    def lane_options(self, name):
        return ["--rdma", f"rxe{self.numbers[name]}", *DIGESTS]

    def draw_cut(self, dice):
        plane = dice.choice(networks.PLANES)
        return plane, dice.choice(self.cuts) if plane == "data" else "drop"

    async def cut(self, name, plane, how):
        number = self.numbers[name]
        if plane == "control":
            await networks.run(f"ip rule add pref 5 to {self.router_host(name)} lookup 98")
        elif how in DELAYS:
            # Of what the switch sends to the node: pages to a decode node, acknowledgements to a prefill node.
            await networks.run(f"tc qdisc add dev s{number} root netem {DELAYS[how]} limit 100000")
        else:
            hears, is_heard = self._neighbours(number, NOWHERE)
            for neighbour in (hears, is_heard) if how == "drop" else (hears,):
                await networks.run(f"ip {neighbour}")

    async def heal(self, name, plane, how):
        number = self.numbers[name]
        if plane == "control":
            await networks.run(f"ip rule del pref 5 to {self.router_host(name)} lookup 98")
        elif how in DELAYS:
            await networks.run(f"tc qdisc del dev s{number} root")
        else:
            for neighbour in self._neighbours(number):
                await networks.run(f"ip {neighbour}")

    @staticmethod
    def _neighbours(number, at=None):
        """Who the switch takes the node for, and the node the switch."""
        node, switch = (at or pathlib.Path(f"/sys/class/net/{end}{number}/address").read_text().strip() for end in "ns")
        return (
            f"neigh replace 10.9.{number}.1 lladdr {node} dev s{number} nud permanent",
            f"neigh replace 10.9.{number}.254 lladdr {switch} dev n{number} nud permanent",
        )

    def sent_bytes(self):
        """At most what the prefill nodes' adapters have sent, by their own count of packets; they outlive the nodes."""
        numbers = [number for name, number in self.numbers.items() if name.startswith("prefill")]
        counters = [DEVICES / f"rxe{number}/ports/1/hw_counters/sent_pkts" for number in numbers]
        return PACKET_BYTES * sum(int(counter.read_text()) for counter in counters)


class Lanes:
    """What carries the pages: looked at every second, pair by pair, and counted by the nodes."""

    # Of the pages moved in the storm. The rest is what goes over TCP while a path is cut or RDMA is tried again.
    SHARE = 0.5

    def __init__(self, cluster, counters):
        self.cluster = cluster
        self.counters = counters
        self.seen = collections.defaultdict(collections.Counter)
        self.reasons = collections.Counter()
        # Bytes up to the end of the storm, and of what was asked when all was quiet again.
        self.storm = collections.Counter()
        self.quiet = collections.Counter()
        self.missing = []
        # Looks that the router did not answer in time: the guest has one processor for all processes.
        self.unanswered = 0

    async def look(self):
        """What `/admin/status` says of each pair, by the router that no fault touches."""
        pairs = {
            (prefill.name, decode.name): {"transport": "", "reason": "not attached"}
            for prefill in self.cluster.nodes if prefill.role == "prefill"
            for decode in self.cluster.nodes if decode.role == "decode"
        }  # fmt: skip
        status = await self.cluster.status(self.cluster.routers[-1])
        for node in status["nodes"]:
            for peer in node["lanes"]["peers"]:
                if (node["name"], peer["decode"]) in pairs:
                    pairs[node["name"], peer["decode"]] = peer
        return pairs

    async def run(self, every=1.0):
        while True:
            try:
                self.count(await self.look())
            except OSError:
                self.unanswered += 1
            await asyncio.sleep(every)

    def count(self, pairs):
        for pair, peer in pairs.items():
            self.seen[pair][peer["transport"] or "none"] += 1
            if "tcp" in peer["transport"].split("+") and peer["reason"]:
                self.reasons[re.sub(r"(\d+\.){3}\d+:\d+|(prefill|decode)-\d+", "…", peer["reason"])] += 1

    async def wait(self, patience=60.0):
        """Until all pairs are on RDMA, which is tried every 30 s at least; those that are not."""
        deadline = time.monotonic() + patience
        while True:
            try:
                others = [
                    f"{prefill} → {decode}: {peer['transport'] or 'none'}, {peer['reason']}"
                    for (prefill, decode), peer in (await self.look()).items() if peer["transport"] != "rdma"
                ]  # fmt: skip
            except OSError as failure:
                others = [str(failure)]
            if not others or time.monotonic() > deadline:
                return others
            await asyncio.sleep(0.2)

    def bytes(self):
        """KV bytes written by what carried them: `tcp`, or the name of a device."""
        return self.counters.by_label("over", "lane_bytes_total", role="prefill")

    async def settle(self):
        """When all is over: what follows goes over RDMA alone."""
        self.missing = await self.wait()
        await self.counters.sample_all()
        self.storm = self.bytes()

    async def finish(self):
        await self.counters.sample_all()
        self.quiet = self.bytes() - self.storm
        self.missing += await self.wait()

    def report(self, report):
        print("\nLanes")
        for (prefill, decode), seen in sorted(self.seen.items()):
            looks = sum(seen.values())
            shares = ", ".join(f"{over} {count / looks:.0%}" for over, count in seen.most_common())
            report.line(f"{prefill} → {decode}, of the time", shares)
        if self.unanswered:
            report.line("looks that the router did not answer in time", self.unanswered)
        for reason, count in self.reasons.most_common(8):
            report.line("not RDMA, as a pair saw it for", f"{count} s: {reason}")
        for what, moved in (("in the storm", self.storm), ("afterwards", self.quiet)):
            carried = ", ".join(f"{over} {count / 1e6:,.1f} MB" for over, count in sorted(moved.items()))
            report.line(f"KV bytes {what}", carried or "none")
        sent = self.cluster.network.sent_bytes()
        if sent is not None:
            report.line("sent by the prefill nodes' adapters", f"at most {sent / 1e6:,.1f} MB, as they count packets")

    @staticmethod
    def over_rdma(moved):
        devices = {device.name for device in DEVICES.iterdir()}
        return sum(count for over, count in moved.items() if over in devices)

    def problems(self):
        """What shows that the pages did not go over RDMA."""
        found = []
        for when, moved, share in (("in the storm", self.storm, self.SHARE), ("when all was quiet", self.quiet, 1)):
            if self.over_rdma(moved) < max(1, share * sum(moved.values())):
                found.append(f"{when} {self.over_rdma(moved):,} of {sum(moved.values()):,} bytes over RDMA")
        sent, moved = self.cluster.network.sent_bytes(), self.over_rdma(self.storm + self.quiet)
        if sent is not None and sent < moved:
            found.append(f"{moved:,} bytes over RDMA, of which the adapters know {sent:,} at most")
        return found
