"""Reads a decode node's KV slab from outside, through /proc, so that nothing has to be believed of the node itself."""

import hashlib


class Slab:
    def __init__(self, pid, pages, page_bytes):
        self.pid = pid
        self.pages = pages
        self.page_bytes = page_bytes
        self.base = None

    def find(self, slot, fill):
        """Finds the slab by a slot whose page is mostly this byte, up to its end and not beyond."""
        edge = bytes([fill]) * 64
        with open(f"/proc/{self.pid}/maps") as maps, open(f"/proc/{self.pid}/mem", "rb") as memory:
            for line in maps:
                span, mode, *_ = line.split()
                low, high = (int(end, 16) for end in span.split("-"))
                if not mode.startswith("rw") or high - low < self.pages * self.page_bytes:
                    continue
                memory.seek(low)
                content = memory.read(high - low)
                # The mapping may hold neighbours too, but the slab begins on a system page.
                for base in range(0, len(content) - self.pages * self.page_bytes + 1, 4096):
                    end = base + (slot + 1) * self.page_bytes
                    if content[end - 64 : end] != edge or content[end : end + 64] == edge:
                        continue
                    if content.count(fill, end - self.page_bytes, end) > self.page_bytes // 2:
                        self.base = low + base
                        return True
        return False

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
