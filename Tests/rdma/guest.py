#!/usr/bin/env python3
"""Runs a command on a machine with a Soft-RoCE device, on a host that has none: Tests/rdma/guest.py [options] COMMAND...

The machine is a user-mode Linux kernel (kernel.sh) that sees this host's files, the current directory writable and all
else not, with fresh /tmp, /run and /dev/shm: any program of this host runs there as it is. Its output and its exit status
come back; 124 when it took too long, 125 when the guest did not come so far as to run it.

--net one: rxe0 with 10.9.0.1, which talks to itself. --net two: rxe0 with 10.9.0.1 and rxe1 with 10.9.1.1 at the ends of
a cable, and rules that send what is between them over it. --net none: no device at first.
"""

import argparse
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
KERNEL = HERE.parent.parent / ".cache" / "rdma" / "linux"


def run(command, net="one", seconds=300, memory=2048, environment=None):
    if not KERNEL.exists():
        sys.exit(f"no {KERNEL}: run Tests/rdma/kernel.sh first")
    # Short, for it holds the guest's sockets.
    job = pathlib.Path(tempfile.mkdtemp(prefix="rdma-", dir="/tmp"))
    try:
        variables = {**os.environ, **(environment or {})}
        for name in ("PWD", "OLDPWD", "SHLVL", "TMPDIR", "_"):
            variables.pop(name, None)
        lines = [f"export {name}={shlex.quote(value)}" for name, value in variables.items() if name.isidentifier()]
        lines += [f"cd {shlex.quote(os.getcwd())}", f"exec {shlex.join(command)}"]
        (job / "command").write_text("\n".join(lines) + "\n")
        (job / "writable").write_text(os.getcwd() + "\n")
        (job / "net").write_text(net + "\n")
        shutil.copy(HERE / "guest_network.sh", job / "network")
        # It ends with this program, however that ends.
        kernel = ["setpriv", "--pdeathsig", "KILL", KERNEL, f"mem={memory}M", "root=none", "rootfstype=hostfs",
                  "rootflags=/", "ro", f"init={HERE / 'guest_init.sh'}", "con=null", "con0=null,fd:2", "con1=null,fd:1",
                  "quiet", "loglevel=1", f"uml_dir={job}/", f"job={job}"]  # fmt: skip
        with open(job / "errors", "w") as errors:
            try:
                subprocess.run(kernel, stdin=subprocess.DEVNULL, stderr=errors, timeout=seconds)
            except subprocess.TimeoutExpired:
                print(f"the guest did not end within {seconds} s", file=sys.stderr)
                return 124
        status = job / "status"
        if status.exists() and status.read_text().strip():
            return int(status.read_text())
        print("the guest ended before its command did:", (job / "errors").read_text()[-2000:], file=sys.stderr)
        return 125
    finally:
        shutil.rmtree(job, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=["one", "two", "none"], default="one")
    parser.add_argument("--seconds", type=float, default=300, help="how long it may take")
    parser.add_argument("--memory", type=int, default=2048, help="of the guest, in MiB")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no command")
    sys.exit(run(command, options.net, options.seconds, options.memory))


if __name__ == "__main__":
    main()
