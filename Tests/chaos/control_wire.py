"""As much of HTTP/2, gRPC and protobuf as a node needs to attach to a router: one stream, both ways.

See Sources/ControlPlane/control.proto.
"""

import socket
import struct
import threading

_DATA, _HEADERS, _RST, _SETTINGS, _PING, _GOAWAY, _WINDOW = 0, 1, 3, 4, 6, 7, 8
_END_HEADERS, _ACK = 4, 1


def varint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Fixed64(int):
    """An integer that goes over the wire as `fixed64`."""


def encode(fields):
    """A message of {number: value}: integers as varints, texts, bytes, messages as dictionaries, and lists of those."""
    out = bytearray()
    for number, value in sorted(fields.items()):
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, Fixed64):
                out += varint(number << 3 | 1) + struct.pack("<Q", one)
            elif isinstance(one, int):
                out += varint(number << 3) + varint(one)
            else:
                data = one.encode() if isinstance(one, str) else encode(one) if isinstance(one, dict) else one
                out += varint(number << 3 | 2) + varint(len(data)) + data
    return bytes(out)


def decode(data):
    """{number: [values]}: integers, and bytes for whatever has a length."""
    fields, position = {}, 0
    while position < len(data):
        key, position = _read_varint(data, position)
        if key & 7 == 0:
            value, position = _read_varint(data, position)
        elif key & 7 == 1:
            value, position = struct.unpack_from("<Q", data, position)[0], position + 8
        elif key & 7 == 5:
            value, position = struct.unpack_from("<I", data, position)[0], position + 4
        else:
            length, position = _read_varint(data, position)
            value, position = bytes(data[position : position + length]), position + length
        fields.setdefault(key >> 3, []).append(value)
    return fields


def _read_varint(data, position):
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def packed(data):
    """A packed repeated field of integers."""
    values, position = [], 0
    while position < len(data):
        value, position = _read_varint(data, position)
        values.append(value)
    return values


class ControlStream:
    """The stream a node keeps open to its router. `send` may be called by any thread, `receive` by one."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.settimeout(None)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.lock = threading.Lock()
        self.messages = bytearray()
        # Windows so large that nothing here ever waits for them.
        settings = struct.pack(">HI", 4, 1 << 30)
        headers = [
            (":method", "POST"), (":scheme", "http"), (":path", "/baton.control.v1.Control/Attach"),
            (":authority", address), ("content-type", "application/grpc"), ("te", "trailers"),
        ]  # fmt: skip
        block = b"".join(
            b"\0" + varint(len(name)) + name.encode() + varint(len(value)) + value.encode() for name, value in headers
        )
        with self.lock:
            self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings))
            self.socket.sendall(_frame(_WINDOW, 0, 0, struct.pack(">I", 1 << 30)))
            self.socket.sendall(_frame(_HEADERS, _END_HEADERS, 1, block))

    def send(self, message):
        """A FromNode message as {number: value}."""
        data = encode(message)
        with self.lock:
            self.socket.sendall(_frame(_DATA, 0, 1, b"\0" + struct.pack(">I", len(data)) + data))

    def receive(self):
        """The next FromRouter message as {number: [values]}; ConnectionError at the stream's end."""
        while True:
            if len(self.messages) >= 5:
                length = struct.unpack_from(">I", self.messages, 1)[0]
                if len(self.messages) >= 5 + length:
                    message = bytes(self.messages[5 : 5 + length])
                    del self.messages[: 5 + length]
                    return decode(message)
            self._take_frame()

    def _take_frame(self):
        head = self._read(9)
        length, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
        payload = self._read(length)
        if kind == _DATA:
            self.messages += payload
            if flags & 1:
                raise ConnectionError("the router ended the stream")
        elif kind == _SETTINGS and not flags & _ACK:
            self._answer(_frame(_SETTINGS, _ACK, 0, b""))
        elif kind == _PING and not flags & _ACK:
            self._answer(_frame(_PING, _ACK, 0, payload))
        elif kind == _HEADERS and flags & 1:
            raise ConnectionError(f"the router ended the stream: {payload!r}")
        elif kind in (_RST, _GOAWAY):
            raise ConnectionError("the router broke off")

    def _answer(self, frame):
        with self.lock:
            self.socket.sendall(frame)

    def _read(self, count):
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionError("the router closed the connection")
            data += part
        return bytes(data)

    def close(self):
        self.socket.close()


def _frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload
