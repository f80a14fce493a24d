"""What the router adds to a request on an idle cluster of one pair, from what it reports of itself.

To the first token: everything between the request's head and its first token that neither queueing for a busy node nor
the nodes' own work accounts for: parsing, template, tokenising, placing, and every message on its way between router
and nodes. To each next token: from the arrival of the decode node's message to the bytes in the client's socket.
"""

import http.client
import json
import re
import statistics
import subprocess

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
    answer = connection.getresponse()
    account = None
    for line in answer:
        data = line.decode().removeprefix("data: ").strip()
        if data.startswith("{"):
            account = json.loads(data).get("baton") or account
    return account["ms"]


def forward_buckets(cluster):
    """The cumulative counts of the histogram of forwarding times, by upper bound in seconds."""
    pattern = re.compile(r'router_forward_seconds_bucket\{le="([^"]+)"\} (\d+)')
    return {float(bound): int(count) for bound, count in pattern.findall(cluster.get("/metrics"))}


def median_of_buckets(before, after):
    """The median of what was counted between two readings, interpolated inside its bucket, in milliseconds."""
    counts = {bound: after[bound] - before.get(bound, 0) for bound in sorted(after)}
    half, lower, below = max(counts.values()) / 2, 0.0, 0
    for bound, count in counts.items():
        if count >= half:
            return 1e3 * (lower + (bound - lower) * (half - below) / max(1, count - below))
        lower, below = bound, count
    return float("inf")


def measure_router():
    """Medians over the requests: milliseconds added to the first token, and to each next one."""
    cluster = Cluster(log=subprocess.DEVNULL)
    try:
        model = json.loads(cluster.get("/v1/models"))["data"][0]["id"]
        connection = http.client.HTTPConnection(cluster.address, timeout=120)
        for number in range(3):
            ask(connection, model, number)
        before, first = forward_buckets(cluster), []
        for number in range(REQUESTS):
            spent = ask(connection, model, number + 100)
            first.append(spent["router"] + spent["queue"] + spent["control"])
        return [statistics.median(first)], [median_of_buckets(before, forward_buckets(cluster))]
    finally:
        cluster.stop()
