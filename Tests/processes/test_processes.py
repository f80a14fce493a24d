"""What happens around a process: its log pipe, its descriptors, its signals, its crash."""

import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "scripts"))
from cluster import BINARIES, ROOT, free_port  # noqa: E402

MODEL = ROOT / "Models" / "glm5-nano"
LIMIT_S = 120


def wait_for(what, condition, limit=LIMIT_S):
    deadline = time.monotonic() + limit
    while True:
        try:
            if condition():
                return
        except OSError:
            pass
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(0.05)


def full_pipe():
    """A pipe that takes not one byte more. Both ends; nobody reads."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 4096)
    except BlockingIOError:
        pass
    try:
        while True:
            os.write(writing, b"x")
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    return reading, writing


class Processes(unittest.TestCase):
    def setUp(self):
        self.http, self.control = free_port(), free_port()

    def start(self, name, *arguments, stderr=None, files=None):
        def limit():
            if files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

        process = subprocess.Popen(
            [str(BINARIES / name), "serve", *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=stderr or subprocess.DEVNULL, preexec_fn=limit)
        self.addCleanup(self.end, process)
        return process

    def end(self, process):
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()

    def router(self, *arguments, **options):
        return self.start(
            "router", "--http", f"127.0.0.1:{self.http}", "--control", f"127.0.0.1:{self.control}", "--model", MODEL,
            *arguments, **options)

    def node(self, role, *arguments, **options):
        return self.start(
            f"{role}-node", *(arguments or ("--router", f"127.0.0.1:{self.control}")), "--name", f"{role}-1", "--model",
            MODEL, "--pages", 64, "--threads", 1, **options)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.http}{path}", timeout=LIMIT_S) as answer:
            return answer.read().decode()

    def is_up(self, path):
        self.get(path)
        return True

    def ask(self):
        model = json.loads(self.get("/v1/models"))["data"][0]["id"]
        body = {"model": model, "prompt": "the cat", "max_tokens": 4, "temperature": 0}
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.http}/v1/completions", json.dumps(body).encode(),
            {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return json.load(answer)["choices"][0]["text"]

    def test_a_log_that_nobody_reads_stops_nobody(self):
        pipes = [full_pipe() for _ in range(3)]
        for ends in pipes:
            for end in ends:
                self.addCleanup(os.close, end)
        processes = [
            self.router("--log-level", "debug", stderr=pipes[0][1]),
            self.node("prefill", "--router", f"127.0.0.1:{self.control}", "--log-level", "debug", stderr=pipes[1][1]),
            self.node("decode", "--router", f"127.0.0.1:{self.control}", "--log-level", "debug", stderr=pipes[2][1]),
        ]
        wait_for("ready", lambda: self.is_up("/ready"))
        first = self.ask()
        for _ in range(50):
            self.assertEqual(self.ask(), first)
        self.assertIn("log_lines_dropped_total", self.get("/metrics"))
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            self.assertEqual(process.wait(LIMIT_S), 0)

    def test_a_router_with_another_model_ends_nobody(self):
        other_http, other_control = free_port(), free_port()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for file in MODEL.iterdir():
            shutil.copy(file, folder.name)
        with open(pathlib.Path(folder.name) / "config.json", "a") as config:
            config.write(" \n")
        other = self.start(
            "router", "--http", f"127.0.0.1:{other_http}", "--control", f"127.0.0.1:{other_control}", "--model",
            folder.name, stderr=subprocess.PIPE)
        self.router()
        nodes = [
            self.node(role, "--router", f"127.0.0.1:{other_control}", "--router", f"127.0.0.1:{self.control}")
            for role in ("prefill", "decode")
        ]
        refused = 0
        for line in other.stderr:
            refused += b"node refused" in line and b"model fingerprint" in line
            if refused == len(nodes):
                break
        wait_for("ready", lambda: self.is_up("/ready"))
        answer = self.ask()
        # A newcomer that has the name of one of them does not get in, and ends nobody.
        newcomer = self.node("decode", stderr=subprocess.PIPE)
        for line in newcomer.stderr:
            if b"belongs to a node" in line:
                break
        self.assertEqual(self.ask(), answer)
        self.assertEqual([node.poll() for node in nodes], [None, None])

    def test_the_end_of_the_terminal_drains_a_node(self):
        for name in (signal.SIGHUP, signal.SIGQUIT):
            self.http, self.control = free_port(), free_port()
            router, node = self.router(), self.node("decode")
            wait_for("attached", lambda: json.loads(self.get("/admin/nodes")))
            node.send_signal(name)
            self.assertEqual(node.wait(LIMIT_S), 0)
            router.send_signal(name)
            self.assertEqual(router.wait(LIMIT_S), 0)

    def test_a_crash_is_short(self):
        router = self.router(stderr=subprocess.PIPE)
        wait_for("up", lambda: self.is_up("/health"))
        router.send_signal(signal.SIGSEGV)
        report = router.stderr.read().decode()
        self.assertEqual(router.wait(LIMIT_S), -signal.SIGSEGV)
        self.assertIn("router: crashed: SIGSEGV in thread ", report)
        # Nothing of what its memory or registers held, and nobody who keeps its ports.
        self.assertNotIn("Registers", report)
        self.assertLess(len(report), 16_000)
        for port in (self.http, self.control):
            socket.create_server(("127.0.0.1", port)).close()

    def test_too_few_descriptors_are_refused(self):
        router = self.router(stderr=subprocess.PIPE, files=64)
        self.assertNotEqual(router.wait(LIMIT_S), 0)
        self.assertIn("open files", router.stderr.read().decode())

    def test_idle_clients_cannot_take_all_descriptors(self):
        router = self.router(files=320)
        wait_for("up", lambda: self.is_up("/health"))
        ordinary = http.client.HTTPConnection("127.0.0.1", self.http, timeout=LIMIT_S)
        ordinary.request("GET", "/health")
        ordinary.getresponse().read()
        idle = []
        for _ in range(400):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", self.http))
            idle.append(connection)
        for _ in range(50):
            ordinary.request("GET", "/health")
            self.assertEqual(ordinary.getresponse().read() and router.poll(), None)
        # Nodes find a descriptor as well.
        self.node("decode")
        ordinary_nodes = lambda: (ordinary.request("GET", "/admin/nodes"), json.load(ordinary.getresponse()))[1]
        wait_for("attached", ordinary_nodes)
        for connection in idle:
            connection.close()
        wait_for("new clients", lambda: self.is_up("/health"))
        ordinary.close()


if __name__ == "__main__":
    unittest.main()
