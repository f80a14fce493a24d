"""The processes of a cluster: routers and nodes that can be killed, stopped and started again."""

import asyncio
import json
import os
import pathlib
import signal
import subprocess
import time

from streaming_client import get


class Process:
    """One member of the cluster over all its starts. Each start is an instance with a log of its own."""

    def __init__(self, cluster, name, role, arguments, http):
        self.cluster = cluster
        self.name = name
        self.role = role
        self.arguments = [str(argument) for argument in arguments]
        # Addresses of /metrics, the first that answers counts.
        self.http = http
        self.instance = 0
        self.running = None
        # A fault that has this process in hand; nothing else may touch it then.
        self.fault = None

    @property
    def key(self):
        return f"{self.name}.{self.instance}"

    @property
    def pid(self):
        return self.running.pid

    @property
    def log(self):
        return self.cluster.folder / f"{self.key}.log"

    def start(self):
        self.instance += 1
        with open(self.log, "wb") as log:
            self.running = subprocess.Popen(
                [*self.cluster.network.prefix(self.name), *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def send(self, number):
        if self.running and self.running.poll() is None:
            os.killpg(self.running.pid, number)

    def end(self):
        """At once, and waits until it is gone."""
        if self.running:
            self.send(signal.SIGKILL)
            self.running.wait()

    def exit_code(self):
        return self.running.poll()

    async def metrics(self, timeout=1.0):
        failure = None
        for address in self.http:
            try:
                return await get(address, "/metrics", timeout)
            except OSError as why:
                failure = why
        raise failure

    def open_files(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def resident_bytes(self):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        return 0


class Cluster:
    """Routers, prefill nodes and decode nodes; every node serves every router."""

    def __init__(self, options, network, folder, routers, prefill, decode, speculate=0):
        self.options = options
        self.speculate = speculate
        self.network = network
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.routers = [self._router(f"router-{number + 1}") for number in range(routers)]
        self.nodes = [self._node(f"prefill-{number + 1}", "prefill") for number in range(prefill)]
        self.nodes += [self._node(f"decode-{number + 1}", "decode") for number in range(decode)]

    @property
    def all(self):
        return self.routers + self.nodes

    def _router(self, name):
        http = f"127.0.0.1:{self.network.port(name, 'http')}"
        control = f"{self.network.control_host()}:{self.network.port(name, 'control')}"
        command = [self.options.binaries / "router", "serve", "--model", self.options.model, "--model-name", "chaos"]
        command += ["--http", http, "--control", control, "--log-format", "json", "--drain-timeout", 5]
        router = Process(self, name, "router", command, [http])
        router.control = control
        router.address = http
        return router

    def _node(self, name, role):
        self.network.add_node(name)
        control, data = self.network.node_hosts(name)
        port = self.network.port(name, "http")
        command = [self.options.binaries / f"{role}-node", "--model", self.options.model, "--name", name]
        for router in self.routers:
            command += ["--router", f"{self.network.router_host(name)}:{self.network.port(router.name, 'control')}"]
        # Metrics can be asked for over either plane, so that a cut one does not hide them.
        command += ["--http", f"0.0.0.0:{port}", "--advertise", data, "--threads", 1, "--log-format", "json"]
        command += ["--page-tokens", self.options.page_tokens, "--pages", self.options.slots[role]]
        if role == "prefill":
            command += ["--chunk", self.options.chunk]
        else:
            command += ["--speculate", self.speculate]
            command += ["--lane", f"{data}:{self.network.port(name, 'lane')}", "--evidence", self.folder / "evidence"]
        command += self.network.lane_options(name)
        return Process(self, name, role, command, [f"{control}:{port}", f"{data}:{port}"])

    async def start(self):
        for process in self.all:
            process.start()
        await self.wait_until_ready(120)

    async def status(self, router=None):
        return json.loads(await get((router or self.routers[0]).address, "/admin/status"))

    async def wait_until_ready(self, seconds):
        """Every node ready at every router, and a round trip shown."""
        await self._wait(seconds, "ready", self._unready)

    async def wait_until_quiet(self, seconds):
        """Nothing in flight anywhere and every page free or cached; what is missing is returned, if anything."""
        try:
            await self._wait(seconds, "quiet", self._unquiet)
        except TimeoutError as failure:
            return str(failure)
        return None

    async def _wait(self, seconds, what, lacks):
        deadline = time.monotonic() + seconds
        while True:
            try:
                missing = await lacks()
            except OSError as failure:
                missing = str(failure)
            if missing is None:
                return
            for process in self.all:
                if process.exit_code() is not None and not process.fault:
                    missing = f"{process.key} ended with {process.exit_code()}: {tail(process.log)}"
                    raise TimeoutError(missing)
            if time.monotonic() > deadline:
                raise TimeoutError(f"not {what} after {seconds} s: {missing}")
            await asyncio.sleep(0.1)

    async def _unready(self):
        for router in self.routers:
            status = await self.status(router)
            ready = {node["name"] for node in status["nodes"] if node["state"] == "ready"}
            missing = {node.name for node in self.nodes} - ready
            if missing:
                return f"{router.name} lacks {', '.join(sorted(missing))}"
            await get(router.address, "/ready")
        return None

    async def _unquiet(self):
        for router in self.routers:
            status = await self.status(router)
            if status["handoffs"]["open"] or status["requests"]["running"] or status["requests"]["waiting"]:
                return f"{router.name}: {status['handoffs']} {status['requests']}"
            for node in status["nodes"]:
                pages = node["pages"]
                if node["requests"]["running"] + node["requests"]["waiting"] + node["open_handoffs"]:
                    return f"{node['name']}: {node['requests']}, {node['open_handoffs']} open handoffs"
                if pages["free"] + pages["cached"] != pages["total"]:
                    return f"{node['name']}: {pages}"
        return None

    def stop(self):
        for process in self.all:
            process.send(signal.SIGCONT)
            process.send(signal.SIGKILL)
        for process in self.all:
            process.end()


def tail(log, characters=500):
    try:
        return log.read_text(errors="replace")[-characters:]
    except OSError:
        return ""
