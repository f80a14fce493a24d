"""Starts and stops a whole cluster with `router up`, for the demo, the client tests and the benchmarks."""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent
BINARIES = pathlib.Path(os.environ.get("BATON_BIN") or ROOT / ".build" / "release")
MODEL = os.environ.get("BATON_MODEL") or os.environ.get("MODEL") or ROOT / ".cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"


_given_ports = set()


def free_port():
    """A port of the loopback address that was free a moment ago, never the same twice. Below those that the kernel
    gives out itself, or somebody who asks for any port could have it before its owner does."""
    for _ in range(100):
        port = random.randrange(10_000, 32_768)
        if port in _given_ports:
            continue
        _given_ports.add(port)
        try:
            socket.create_server(("127.0.0.1", port)).close()
            return port
        except OSError:
            continue
    raise OSError("no free port")


class Cluster:
    """A cluster on this host. It ends with `stop()`, or with this program unless `outlives` says otherwise."""

    def __init__(self, prefill=1, decode=1, http_port=0, log=None, outlives=False, options=(), model=MODEL):
        """`model` None: the bundled one."""
        self.url = f"http://127.0.0.1:{http_port or free_port()}"
        self.address = self.url.removeprefix("http://")
        self.logs = BINARIES.parent / f"cluster-{self.address.split(':')[1]}"
        command = [BINARIES / "router", "up", "--prefill", prefill, "--decode", decode]
        command += ["--model", model] if model else []
        command += ["--http", self.address, "--state-dir", self.logs, *options]
        command += [] if outlives else ["--stop-with-parent"]
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL if outlives else subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,
        )
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop(keep_logs=True)
            raise

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def wait_until_ready(self, seconds=120):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                sys.exit(f"router up ended with {self.process.returncode}; the logs in {self.logs} say why")
            try:
                self.get("/ready")
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.05)
        raise TimeoutError(f"the cluster was not ready in {seconds} s")

    def status(self):
        return json.loads(self.get("/admin/status"))

    def is_quiet(self):
        """Nothing in flight, and every page of every node free or cached."""
        status = self.status()
        return status["handoffs"]["open"] == 0 and all(
            node["requests"]["running"] + node["requests"]["waiting"] == 0
            and node["open_handoffs"] == 0
            and node["pages"]["free"] + node["pages"]["cached"] == node["pages"]["total"]
            for node in status["nodes"]
        )

    def wait_until_quiet(self, seconds):
        deadline = time.monotonic() + seconds
        while not self.is_quiet():
            if time.monotonic() > deadline:
                raise TimeoutError(f"still at work after {seconds} s: {self.status()}")
            time.sleep(0.05)

    def stop(self, keep_logs=False):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.process.stdin:
            self.process.stdin.close()
        if not keep_logs:
            shutil.rmtree(self.logs, ignore_errors=True)
