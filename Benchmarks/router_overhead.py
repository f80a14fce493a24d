"""What the router adds to a request on an idle cluster of one pair, from what it reports of itself.

To the first token: from the request's head until Reserve is sent (parsing, template, tokenising, placing), and from the
arrival of the first token's message to its text given to the client's connection. To each next token: the latter alone.
Beside these, the same up to the bytes in the client's socket, which adds what the kernel takes for them and for waking
the client, and what is left of the time to the first token when all that router and nodes account for is taken off: the
control messages on their way between the processes, there and back.
"""

import http.client
import json
import os
import statistics
import subprocess

import prometheus
from cluster import Cluster

REQUESTS, TOKENS = 40, 48


def ask(connection, model, number):
    """One streamed chat request; the router's account of its time, in milliseconds."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": f"Write a few words about the number {number}."}],
        "max_tokens": TOKENS,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    headers = {"content-type": "application/json", "x-baton-timing": "1"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    # Read whole before it is looked at: a client that parses as it goes competes with the router for the free core.
    answer = connection.getresponse().read().decode()
    account = None
    for line in answer.splitlines():
        data = line.removeprefix("data: ").strip()
        if data.startswith("{"):
            account = json.loads(data).get("baton") or account
    return account["ms"]


def buckets(cluster, name):
    """The cumulative counts of a histogram of the router's, by upper bound in seconds."""
    return prometheus.histogram(prometheus.parse(cluster.get("/metrics")), name)


def median_between(before, after):
    """The median of what was counted between two readings, in milliseconds."""
    return 1e3 * prometheus.quantile({bound: after[bound] - before.get(bound, 0) for bound in after}, 0.5)


def measure_router():
    """Milliseconds, medians over the requests: added to the first token, added to each next one, the same up to the
    socket, control messages."""
    # A core stays free for the router: on several hosts it does not compete with kernels either.
    threads = max(1, (os.cpu_count() or 2) // 2)
    cluster = Cluster(log=subprocess.DEVNULL, options=("--threads", str(threads)))
    try:
        model = json.loads(cluster.get("/v1/models"))["data"][0]["id"]
        connection = http.client.HTTPConnection(cluster.address, timeout=120)
        for number in range(3):
            ask(connection, model, number)
        names = ("router_forward_seconds", "router_send_seconds")
        before = [buckets(cluster, name) for name in names]
        spent = [ask(connection, model, number + 100) for number in range(REQUESTS)]
        forward, send = (median_between(b, buckets(cluster, name)) for b, name in zip(before, names))
        own = statistics.median(one["router"] + one["queue"] for one in spent)
        return own + forward, forward, send, statistics.median(one["control"] for one in spent)
    finally:
        cluster.stop()
