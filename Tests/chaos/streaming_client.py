"""A client of the HTTP API on raw asyncio streams: cheap enough to share the cores with what it tests."""

import asyncio
import dataclasses
import json


@dataclasses.dataclass
class Answer:
    """What a client saw. `finished` only with a finish reason and `[DONE]`, both; anything less is no answer."""

    text: str = ""
    logprobs: list = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    events: int = 0
    done: bool = False
    status: int = 0
    error: str | None = None

    @property
    def finished(self):
        return self.done and self.finish_reason is not None and self.error is None

    def equals(self, other):
        return (self.text, self.logprobs, self.finish_reason) == (other.text, other.logprobs, other.finish_reason)

    def is_start_of(self, other):
        return other.text.startswith(self.text) and other.logprobs[: len(self.logprobs)] == self.logprobs

    def take(self, event):
        """One server-sent event's data."""
        if event == b"[DONE]":
            self.done = True
            return
        chunk = json.loads(event)
        if "error" in chunk:
            self.error = chunk["error"].get("message") or "error"
            return
        self.events += 1
        for choice in chunk["choices"]:
            delta = choice.get("delta")
            self.text += (delta.get("content") or "") if delta is not None else choice.get("text", "")
            self._take_logprobs(choice.get("logprobs"))
            self.finish_reason = choice.get("finish_reason") or self.finish_reason

    def _take_logprobs(self, logprobs):
        if not logprobs:
            return
        if "content" in logprobs:
            self.logprobs += [json.dumps(entry, sort_keys=True) for entry in logprobs["content"]]
        else:
            columns = (logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"])
            self.logprobs += [json.dumps(entry, sort_keys=True) for entry in zip(*columns)]


class Dechunker:
    """Takes the chunks of HTTP/1.1 apart as they come."""

    def __init__(self):
        self.raw = bytearray()
        self.ended = False

    def feed(self, data):
        self.raw += data
        out = bytearray()
        while not self.ended:
            line = self.raw.find(b"\r\n")
            if line < 0:
                break
            size = int(self.raw[:line].split(b";")[0], 16)
            if size == 0:
                self.ended = True
            elif len(self.raw) < line + 2 + size + 2:
                break
            else:
                out += self.raw[line + 2 : line + 2 + size]
                del self.raw[: line + 2 + size + 2]
        return bytes(out)


async def _open(address):
    host, port = address.rsplit(":", 1)
    return await asyncio.open_connection(host, int(port), limit=1 << 20)


async def _head(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return int(lines[0].split()[1]), headers


async def ask(address, request, answer):
    """Sends a request and fills `answer` as the stream comes. Cancelling the task closes the connection at once."""
    writer = None
    try:
        reader, writer = await _open(address)
        writer.write(
            b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Content-Length: %d\r\n\r\n" % (request.path.encode(), address.encode(), len(request.body))
        )
        writer.write(request.body)
        answer.status, headers = await _head(reader)
        if answer.status != 200:
            body = await reader.read(1 << 16)
            answer.error = f"{answer.status} {_message(body)}"
            return
        await _read_events(reader, answer, "chunked" in headers.get("transfer-encoding", ""))
        if not answer.finished and answer.error is None:
            answer.error = "the stream was cut off"
    except (OSError, EOFError, ValueError) as failure:
        answer.error = f"{type(failure).__name__} {failure}".strip()
    finally:
        if writer:
            writer.transport.abort()


async def _read_events(reader, answer, chunked):
    dechunker = Dechunker()
    pending = b""
    while not (chunked and dechunker.ended):
        data = await reader.read(1 << 16)
        if not data:
            return
        pending += dechunker.feed(data) if chunked else data
        *events, pending = pending.split(b"\n\n")
        for event in events:
            if event.startswith(b"data: "):
                answer.take(event[6:])


def _message(body):
    try:
        text = body[body.index(b"{") : body.rindex(b"}") + 1]
        return json.loads(text)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return body[:100].decode("latin-1")


async def get(address, path, timeout=2.0):
    """The body of a GET; OSError when there is none in time."""
    try:
        # Not wait_for, which in Python 3.11 may swallow a cancel that comes with the answer.
        async with asyncio.timeout(timeout):
            return await _get(address, path)
    except (TimeoutError, asyncio.TimeoutError, EOFError) as failure:
        raise OSError(f"no answer from {address}{path}") from failure


async def _get(address, path):
    reader, writer = await _open(address)
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        status, headers = await _head(reader)
        body = await reader.read()
        if "chunked" in headers.get("transfer-encoding", ""):
            body = Dechunker().feed(body)
        if status != 200:
            raise OSError(f"{address}{path}: {status} {body[:100]!r}")
        return body.decode()
    finally:
        writer.transport.abort()
