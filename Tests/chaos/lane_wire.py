"""The writing side of a TCP lane. See Sources/Transport/LaneWire.swift."""

import ctypes
import ctypes.util
import socket
import struct

_HELLO = struct.Struct("<QIIQQQQ")
_HELLO_ANSWER = struct.Struct("<QIIII")
# Magic, kind, count, epoch, router, request, attempt, part, sequence.
_HEADER = struct.Struct("<IIIIQQIII")
_RANGE = struct.Struct("<IIIII")
_COMPLETION_HEAD = struct.Struct("<II")
_SLOT = struct.Struct("<II")
_HELLO_MAGIC = 0x314E4C4E4F544142
_FRAME_MAGIC = 0x43455242
DATA, COMPLETION, READY = 1, 2, 5
_VERSION = 3
_XXH3_PER_LAYER = 1


class Lane:
    """One lane to a decode node, dialled and greeted."""

    def __init__(self, address, prefill, decode, page_bytes, layers):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        layout = 0xCBF29CE484222325
        for layer in range(layers + 1):
            layout = ((layout ^ layer * page_bytes // layers) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
        self.socket.sendall(_HELLO.pack(_HELLO_MAGIC, _VERSION, _XXH3_PER_LAYER, prefill, decode, page_bytes, layout))
        answer = b""
        while len(answer) < _HELLO_ANSWER.size:
            part = self.socket.recv(_HELLO_ANSWER.size - len(answer))
            if not part:
                raise ConnectionError("the decode node closed a lane in its hello")
            answer += part
        _, status, self.number, _, reason = _HELLO_ANSWER.unpack(answer)
        if status:
            raise ConnectionError(self.socket.recv(reason).decode())
        self.socket.sendall(_HEADER.pack(_FRAME_MAGIC, READY, 0, 0, 0, 0, 0, 0, 0))
        self.socket.settimeout(None)

    def is_alive(self):
        """Whether the decode node has it open still; reads away acknowledgements."""
        try:
            return self.socket.recv(1 << 16, socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False


def record(grant, sequence, page, page_bytes):
    """Header and range of a record that carries one whole page."""
    slot, generation = grant.slots[page]
    header = _HEADER.pack(_FRAME_MAGIC, DATA, 1, grant.epoch, grant.router, grant.request, grant.attempt, 0, sequence)
    return header + _RANGE.pack(page, slot, generation, 0, page_bytes)


def completion(grant, sequence, digests):
    """The completion record of a grant all of whose pages are alike, with these digests of their layers."""
    count = len(grant.slots)
    header = _HEADER.pack(
        _FRAME_MAGIC, COMPLETION, count, grant.epoch, grant.router, grant.request, grant.attempt, 0, sequence
    )
    layers = struct.pack(f"<{len(digests)}Q", *digests)
    pages = b"".join(_SLOT.pack(slot, generation) + layers for slot, generation in grant.slots)
    return header + _COMPLETION_HEAD.pack(_XXH3_PER_LAYER, len(digests)) + pages


def page_digests(page, layers):
    """The digests of a page: XXH3-64 of each layer."""
    name = ctypes.util.find_library("xxhash")
    if not name:
        raise RuntimeError("libxxhash is missing (Debian: libxxhash-dev)")
    xxh3 = ctypes.CDLL(name).XXH3_64bits
    xxh3.restype = ctypes.c_uint64
    xxh3.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    size = len(page) // layers
    return [xxh3(page[layer * size : (layer + 1) * size], size) for layer in range(layers)]
