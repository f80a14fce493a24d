#!/usr/bin/env python3
"""`make demo`: a cluster of three processes on this host answers a question, and tells where the time went.

KEEP=1 leaves the cluster running, QUESTION="…" asks something else, MODEL=path takes another model, PORT=N a fixed port.
"""

import os
import subprocess
import sys

from cluster import BINARIES, MODEL, Cluster

QUESTION = os.environ.get("QUESTION") or "What is a relay race, and why does the handoff of the baton matter?"
IS_TERMINAL = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def heading(text):
    print(f"\n\033[1m{text}\033[0m\n" if IS_TERMINAL else f"\n== {text}\n", flush=True)


def router(*arguments):
    """One of the router's own commands, its output on our terminal."""
    subprocess.run([str(BINARIES / "router"), *arguments], check=True)


def main():
    keep = bool(os.environ.get("KEEP"))
    heading("Starting router, prefill node and decode node")
    print(f"model  {MODEL}", flush=True)
    cluster = Cluster(http_port=int(os.environ.get("PORT") or 0), outlives=keep)
    try:
        heading(QUESTION)
        router("ask", "--url", cluster.url, "--max-tokens", "160", QUESTION)
        heading("router status")
        router("status", "--url", cluster.url)
    except BaseException:
        keep = False
        raise
    finally:
        if not keep:
            cluster.stop()
    if keep:
        heading("The cluster is still running (KEEP=1)")
        print(f"ask it    {BINARIES}/router ask --url {cluster.url} 'Who are you?'\nstop it   kill {cluster.process.pid}")
    else:
        heading("Stopped")


if __name__ == "__main__":
    main()
