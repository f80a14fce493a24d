#!/usr/bin/env python3
"""`make demo`: a cluster of three processes on this host answers a question, and tells where the time went. First with
the bundled GLM-5 model and speculative decoding, then with SmolLM2.

KEEP=1 leaves the cluster running, QUESTION="…" asks something else, MODEL=path takes another model, PORT=N a fixed port.
"""

import os
import subprocess
import sys

from cluster import BINARIES, MODEL, Cluster

QUESTION = os.environ.get("QUESTION") or "What is a relay race, and why does the handoff of the baton matter?"
# Of the kind it was trained on: it knows how to answer, not what.
GLM5_QUESTION = "What is the capital of France?"
IS_TERMINAL = sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def heading(text):
    print(f"\n\033[1m{text}\033[0m\n" if IS_TERMINAL else f"\n== {text}\n", flush=True)


def router(*arguments):
    """One of the router's own commands, its output on our terminal."""
    subprocess.run([str(BINARIES / "router"), *arguments], check=True)


def show_glm5():
    """The architecture this is made for, by a model that fits into the repository."""
    heading("The bundled GLM-5 model, three tokens drafted ahead for each step")
    cluster = Cluster(model=None)
    try:
        router("ask", "--url", cluster.url, "--max-tokens", "60", GLM5_QUESTION)
        heading("router status")
        router("status", "--url", cluster.url)
    finally:
        cluster.stop()


def main():
    keep = bool(os.environ.get("KEEP"))
    if not os.environ.get("MODEL"):
        show_glm5()
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
