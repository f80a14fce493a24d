"""Reads a decode node's KV slab from outside, through /proc, so that nothing has to be believed of the node itself."""

import hashlib
import itertools


class Slab:
    def __init__(self, pid, pages, page_bytes):
        self.pid = pid
        self.pages = pages
        self.page_bytes = page_bytes
        self.base = None

    def find(self, slots, fill):
        """Finds the slab by slots whose pages are this byte, but for what was decoded into them since: where the most
        of it lies in these slots. Any other place that begins on a system page has less, by what it is shifted."""
        most = 0
        with open(f"/proc/{self.pid}/maps") as maps, open(f"/proc/{self.pid}/mem", "rb") as memory:
            for line in maps:
                span, mode, *_ = line.split()
                low, high = (int(end, 16) for end in span.split("-"))
                if not mode.startswith("rw") or high - low < self.pages * self.page_bytes:
                    continue
                memory.seek(low)
                count = Counts(memory.read(high - low), fill)
                # The mapping may hold neighbours too, but the slab begins on a system page.
                for base in range(0, high - low - self.pages * self.page_bytes + 1, Counts.STEP):
                    starts = (base + slot * self.page_bytes for slot in slots)
                    found = sum(count.within(start, start + self.page_bytes) for start in starts)
                    if found > most:
                        most, self.base = found, low + base
        return most > 0.75 * len(slots) * self.page_bytes

    def page(self, slot):
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            memory.seek(self.base + slot * self.page_bytes)
            return memory.read(self.page_bytes)

    def digests(self):
        """A digest of every page, by slot."""
        with open(f"/proc/{self.pid}/mem", "rb") as memory:
            memory.seek(self.base)
            content = memoryview(memory.read(self.pages * self.page_bytes))
        size = self.page_bytes
        return [hashlib.blake2b(content[at : at + size]).digest() for at in range(0, len(content), size)]

    def spoil(self, slot):
        """Changes one byte of a page, as a write that came too late would."""
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as memory:
            memory.seek(self.base + slot * self.page_bytes + self.page_bytes // 2)
            byte = memory.read(1)[0]
            memory.seek(-1, 1)
            memory.write(bytes([byte ^ 0xFF]))


class Counts:
    """How often a byte occurs in any part of a content, cheaply for many parts."""

    STEP = 4096

    def __init__(self, content, byte):
        self.content = content
        self.byte = byte
        steps = (content.count(byte, at, at + self.STEP) for at in range(0, len(content), self.STEP))
        self.before = [0, *itertools.accumulate(steps)]

    def within(self, low, high):
        return self._up_to(high) - self._up_to(low)

    def _up_to(self, end):
        whole = end // self.STEP
        return self.before[whole] + self.content.count(self.byte, whole * self.STEP, end)
