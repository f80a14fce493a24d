"""Where the nodes' addresses are: plain loopback, or a network namespace per node whose paths can be cut.

Each node has two links, one for the control plane and one for the lanes, so that either can be cut alone. Their other
ends are ports of two bridges in the harness's own namespace. All of it is anonymous: when the harness ends, however it
ends, the kernel takes everything away.
"""

import asyncio
import os
import pathlib
import subprocess
import sys
import time

from cluster import free_port

ENTERED = "BATON_CHAOS_NAMESPACE"
PLANES = ("control", "data")
# The children of a harness that is killed die with it.
MORTAL = ["setpriv", "--pdeathsig", "KILL"]


def enter_own_namespace():
    """Starts this program anew in a network namespace of its own; returns why that cannot be done."""
    if os.environ.get(ENTERED):
        return None
    missing = [tool for tool in ("unshare", "nsenter", "ip") if not _exists(tool)]
    if missing:
        return f"{', '.join(missing)} not found (Debian: util-linux, iproute2)"
    for options in (["--net"], ["--user", "--map-root-user", "--net"]):
        probe = "ip link add probe0 type veth peer name probe1 && ip link add probe2 type bridge"
        if subprocess.run(["unshare", *options, "sh", "-c", probe], capture_output=True).returncode == 0:
            os.environ[ENTERED] = "1"
            sys.stdout.flush()
            os.execvp("unshare", ["unshare", *options, sys.executable, *sys.argv])
    return "neither root nor allowed to make user namespaces, or the kernel has no veth or bridge"


def _exists(tool):
    folders = os.environ.get("PATH", "").split(":") + ["/usr/sbin", "/sbin"]
    return any(os.access(pathlib.Path(folder) / tool, os.X_OK) for folder in folders)


class Loopback:
    """Everything on 127.0.0.1; nothing can be cut."""

    cuts = ()
    description = "loopback; no path can be cut"

    def __init__(self):
        self.ports = {}

    def add_node(self, name):
        pass

    def prefix(self, name):
        return MORTAL

    def control_host(self):
        return "127.0.0.1"

    def router_host(self, name):
        """Where the node reaches the routers."""
        return self.control_host()

    def node_hosts(self, name):
        """Host of the node on the control and on the data plane."""
        return "127.0.0.1", "127.0.0.1"

    def lane_options(self, name):
        return []

    def port(self, name, use):
        """A port that stays the same over restarts."""
        if (name, use) not in self.ports:
            self.ports[name, use] = free_port()
        return self.ports[name, use]

    def close(self):
        """Nothing of it outlives the processes."""


class Namespaces(Loopback):
    """A namespace per node, on two bridges."""

    def __init__(self):
        super().__init__()
        self.nodes = {}
        ip("link set lo up")
        for index, plane in enumerate(PLANES):
            ip(f"link add {plane} type bridge")
            ip(f"addr add 10.77.{index}.1/24 dev {plane}")
            ip(f"link set {plane} up")
        ip("link add probe0 type veth peer name probe1")
        self.delays = [kind for kind, options in _DELAYS.items() if _try(f"tc qdisc add dev probe0 root {options}")
                       and _try("tc qdisc del dev probe0 root")]  # fmt: skip
        ip("link del probe0")
        # Dropping without a word, dropping one direction, losing the carrier.
        self.cuts = ("drop", "deaf", "unplugged", *self.delays)
        slow = ", ".join(self.delays) or "none in this kernel"
        self.description = f"a namespace per node; cut by taking bridge ports out; delays: {slow}"

    def add_node(self, name):
        if name in self.nodes:
            return
        holder = subprocess.Popen([*MORTAL, "unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{holder.pid}/ns/net") == own:
            time.sleep(0.005)
        number = len(self.nodes) + 2
        self.nodes[name] = (holder, number)
        inside = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        subprocess.run([*inside, "ip", "link", "set", "lo", "up"], check=True)
        for index, plane in enumerate(PLANES):
            port = self._link(name, plane)
            ip(f"link add {port} type veth peer name {plane} netns {holder.pid}")
            ip(f"link set {port} master {plane} up")
            subprocess.run([*inside, "ip", "addr", "add", f"10.77.{index}.{number}/24", "dev", plane], check=True)
            subprocess.run([*inside, "ip", "link", "set", plane, "up"], check=True)

    def prefix(self, name):
        if name not in self.nodes:
            return MORTAL
        return [*MORTAL, "nsenter", f"--net=/proc/{self.nodes[name][0].pid}/ns/net"]

    def control_host(self):
        return "10.77.0.1"

    def node_hosts(self, name):
        if name not in self.nodes:
            return "127.0.0.1", "127.0.0.1"
        number = self.nodes[name][1]
        return f"10.77.0.{number}", f"10.77.1.{number}"

    def _link(self, name, plane):
        return f"{plane[0]}{self.nodes[name][1]}"

    def draw_cut(self, dice):
        """A plane, and how it is cut."""
        how = dice.choice(self.cuts)
        return dice.choice(PLANES), how

    async def cut(self, name, plane, how):
        link = self._link(name, plane)
        if how == "drop":
            await run(f"ip link set {link} nomaster")
        elif how == "deaf":
            # The node hears nothing; what it says arrives.
            await run(
                f"ip link set dev {link} type bridge_slave learning off flood off mcast_flood off bcast_flood off"
            )
            await run(f"ip link set dev {link} type bridge_slave fdb_flush")
        elif how == "unplugged":
            await run(f"ip link set {link} down")
        else:
            await run(f"tc qdisc add dev {link} root {_DELAYS[how]}")

    async def heal(self, name, plane, how):
        link = self._link(name, plane)
        if how == "drop":
            await run(f"ip link set {link} master {plane}")
        elif how == "deaf":
            await run(f"ip link set dev {link} type bridge_slave learning on flood on mcast_flood on bcast_flood on")
        elif how == "unplugged":
            await run(f"ip link set {link} up")
        else:
            await run(f"tc qdisc del dev {link} root")

    def close(self):
        for holder, _ in self.nodes.values():
            holder.kill()
            holder.wait()
        self.nodes = {}


_DELAYS = {
    "delayed": "netem delay 80ms 40ms",
    "lossy": "netem loss 20%",
    "slow": "tbf rate 8mbit burst 32kb latency 300ms",
}


def ip(arguments):
    subprocess.run(["ip", *arguments.split()], check=True)


def _try(command):
    return subprocess.run(command.split(), capture_output=True).returncode == 0


async def run(command):
    process = await asyncio.create_subprocess_exec(*command.split(), stderr=subprocess.PIPE)
    _, error = await process.communicate()
    if process.returncode:
        raise OSError(f"{command}: {error.decode().strip()}")
