"""A prefill node that writes late: a process of its own that attaches to a router, is granted pages, and can be
stopped at any point of its writing. Told what to do by lines of JSON on its standard input; tells by such lines.

What it writes is NaN in every element type, so that whoever reads a single element of it reads nonsense.
"""

import dataclasses
import json
import os
import random
import sys
import threading
import time

import lane_wire
from control_wire import ControlStream, Fixed64, decode, packed

FILL = 0x7E
# Prompts up to this long are the router's own probes, and get served.
PROBE_TOKENS = 32
SLICE = 16 << 10
SLOW_SLICE = 512


@dataclasses.dataclass(frozen=True)
class Grant:
    router: int
    request: int
    attempt: int
    decode: int
    lane: int
    epoch: int
    slots: tuple

    @property
    def handoff(self):
        return {1: Fixed64(self.router), 2: self.request, 3: self.attempt}

    @property
    def name(self):
        return (self.router, self.request, self.attempt)

    @staticmethod
    def of(data):
        grant = decode(data)
        handoff = decode(grant[1][0])
        slots = [decode(slot) for slot in grant[5]]
        part = decode(grant[7][0])
        return Grant(
            router=handoff[1][0],
            request=handoff.get(2, [0])[0],
            attempt=handoff[3][0],
            decode=grant[2][0],
            lane=part.get(2, [0])[0],
            epoch=part.get(3, [0])[0],
            slots=tuple((slot.get(1, [0])[0], slot.get(2, [0])[0]) for slot in slots),
        )


class Sender:
    def __init__(self, settings):
        self.settings = settings
        self.incarnation = random.getrandbits(63) | 1
        self.layers = settings["layers"]
        self.page = bytes([FILL]) * settings["page_bytes"]
        self.digests = lane_wire.page_digests(self.page, self.layers)
        self.lock = threading.Lock()
        self.lanes = {}
        self.peer = None
        self.stream = None
        self.plans = []
        self.posted = {}
        self.known = set()
        self.go = threading.Event()

    def tell(self, **event):
        with self.lock:
            print(json.dumps(event), flush=True)

    # What the router says

    def attach(self):
        """Attaches again whenever the stream is lost: a stopped node's lease ends."""
        while True:
            try:
                self.stream = ControlStream(self.settings["router"])
                self.stream.send({1: self.registration()})
                while True:
                    self.take(self.stream.receive())
            except OSError as failure:
                self.tell(event="detached", why=str(failure))
                time.sleep(0.1)

    def registration(self):
        has = self.settings["compatibility"]
        compatibility = {
            1: has["fingerprint"], 2: has["page_layout"], 3: has["kv_dtype"], 4: has["isa_class"],
            5: has["page_tokens"], 6: has["page_bytes"],
        }  # fmt: skip
        return {
            1: 2, 2: "late-sender", 3: 1, 4: Fixed64(self.incarnation), 5: compatibility, 6: "chaos",
            9: self.settings["pages"], 10: 4096, 11: 64, 12: "0", 13: self.settings["lanes"],
        }  # fmt: skip

    def take(self, message):
        if 1 in message:
            self.tell(event="attached")
            self.beat()
        elif 6 in message:
            prefill = decode(message[6][0])
            grant = Grant.of(prefill[1][0])
            self.stream.send({15: {1: grant.handoff}})
            if grant.name in self.known:
                return
            self.known.add(grant.name)
            tokens = sum(len(packed(part)) for part in prefill[2])
            plan = {"mode": "serve"} if tokens <= PROBE_TOKENS else self.plans.pop(0) if self.plans else None
            threading.Thread(target=self.write, args=(grant, plan or {"mode": "serve"}), daemon=True).start()
        elif 7 in message or 9 in message:
            self.drained(decode(decode((message.get(7) or message[9])[0])[1][0]))
        elif 8 in message:
            peers = [decode(peer) for peer in decode(message[8][0]).get(1, [])]
            self.peer = (peers[0][1][0], peers[0][2][0].decode()) if peers else None
        elif 11 in message:
            self.stream.send({12: {}})

    def drained(self, handoff):
        name = (handoff[1][0], handoff.get(2, [0])[0], handoff[3][0])
        posted = self.posted.get(name, 0)
        self.stream.send({10: {1: {1: Fixed64(name[0]), 2: name[1], 3: name[2]}, 2: posted, 3: posted}})

    def beat(self):
        if self.stream:
            self.stream.send({2: {1: self.settings["pages"]}})

    def look_after(self):
        """Heartbeats, and lanes connected ahead of need."""
        while True:
            try:
                self.connect_lanes()
                self.beat()
                if self.peer and self.stream:
                    idle = len(self.lanes)
                    self.stream.send({14: {1: [{1: Fixed64(self.peer[0]), 2: idle, 4: "tcp"}]}})
            except OSError:
                pass  # `attach` sees it too, and tells
            time.sleep(0.2)

    def connect_lanes(self):
        for number, lane in list(self.lanes.items()):
            if not getattr(lane, "busy", False) and not lane.is_alive():
                del self.lanes[number]
        while self.peer and len(self.lanes) < self.settings["lanes"]:
            lane = lane_wire.Lane(
                self.peer[1], self.incarnation, self.peer[0], self.settings["page_bytes"], self.layers
            )
            self.lanes[lane.number] = lane

    # Writing

    def write(self, grant, plan):
        lane = self.lanes[grant.lane]
        lane.busy = True
        try:
            if plan["mode"] == "serve":
                self.write_all(lane, grant)
            else:
                self.write_late(lane, grant, plan)
        except OSError as failure:
            self.tell(event="failed", handoff=grant.name, why=str(failure))
        finally:
            lane.busy = False

    def write_all(self, lane, grant):
        for page in range(len(grant.slots)):
            lane.socket.sendall(lane_wire.record(grant, page + 1, page, len(self.page)) + self.page)
        lane.socket.sendall(lane_wire.completion(grant, len(grant.slots) + 1, self.digests))
        self.posted[grant.name] = len(grant.slots)
        self.stream.send({9: {1: grant.handoff, 6: len(self.page) * len(grant.slots)}})
        self.tell(event="served", slots=grant.slots)

    def write_late(self, lane, grant, plan):
        """Writes up to the plan's point, and the rest when all is long over."""
        records = [
            lane_wire.record(grant, page + 1, page, len(self.page)) + self.page for page in range(len(grant.slots))
        ]
        stream = b"".join(records) + lane_wire.completion(grant, len(records) + 1, self.digests)
        whole = min(plan["records"], len(records) - 1)
        at = sum(len(record) for record in records[:whole])
        head = len(records[0]) - len(self.page)
        mode = plan["mode"]
        if mode in ("in payload", "lies in payload", "anywhere"):
            at += head + 1 + int(plan["part"] * (len(self.page) - 2))
        elif mode == "in header":
            at += 1 + int(plan["part"] * (head - 2))
        elif mode == "before completion":
            at = len(stream) - len(grant.slots) * 16 - (head - 20)
        lane.socket.sendall(stream[:at])
        self.posted[grant.name] = whole
        self.tell(event="holding", handoff=grant.name, slots=grant.slots, sent=at, total=len(stream))
        if mode != "anywhere":
            # Else it goes on at its own pace until it is stopped from outside, in the middle of whatever it does.
            self.go.wait()
        self.write_rest(lane, grant, stream, at)

    def write_rest(self, lane, grant, stream, at):
        sent, why = 0, "all was taken"
        try:
            while at < len(stream):
                late = self.go.is_set()
                part = stream[at : at + (SLICE if late else SLOW_SLICE)]
                lane.socket.sendall(part)
                at += len(part)
                sent += len(part) if late else 0
                time.sleep(0.0005 if late else 0.002)
            # What came into the dead connection's buffer is refused when it arrives.
            deadline = time.monotonic() + 5
            while lane.is_alive() and time.monotonic() < deadline:
                time.sleep(0.01)
            why = "closed behind it" if time.monotonic() < deadline else "still open"
        except OSError as failure:
            why = os.strerror(failure.errno) if failure.errno else str(failure)
        self.tell(event="wrote late", handoff=grant.name, sent=sent, why=why)


def main():
    sender = Sender(json.loads(sys.stdin.readline()))
    threading.Thread(target=sender.attach, daemon=True).start()
    threading.Thread(target=sender.look_after, daemon=True).start()
    for line in sys.stdin:
        order = json.loads(line)
        if order["order"] == "plan":
            sender.go.clear()
            sender.plans = order["plans"]
            sender.tell(event="planned")
        elif order["order"] == "go":
            sender.go.set()
    os._exit(0)


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
