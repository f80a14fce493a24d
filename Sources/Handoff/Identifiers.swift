/// The names everything in the handoff contract goes by. All are plain values: 64-bit numbers never wrap in
/// practice, and none is ever reused inside one incarnation.

/// A random number a process draws when it starts. A restarted process behind the same address is another one.
package struct Incarnation: Hashable, Sendable {
    package let value: UInt64
    package init(_ value: UInt64) { self.value = value }
}

/// One attempt to move one request's KV from one sender to one receiver.
package struct HandoffID: Hashable, Sendable {
    /// The incarnation of the router that owns the request.
    package let router: Incarnation
    /// The request's number, unique within that router incarnation.
    package let request: UInt64
    /// 1 for the first attempt; a retry takes the next number.
    package let attempt: UInt32

    package init(router: Incarnation, request: UInt64, attempt: UInt32) {
        self.router = router
        self.request = request
        self.attempt = attempt
    }
}

extension HandoffID: Comparable {
    /// By router, request, attempt: the order in which a state machine walks its handoffs, so that a run replays.
    package static func < (a: HandoffID, b: HandoffID) -> Bool {
        (a.router.value, a.request, a.attempt) < (b.router.value, b.request, b.attempt)
    }
}

/// A slot's generation, bumped every time the slot leaves an owner.
package struct Generation: Hashable, Comparable, Sendable {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package static func < (a: Generation, b: Generation) -> Bool { a.value < b.value }
    package var next: Generation { Generation(value &+ 1) }
}

/// A page-sized place in a slab, at one generation. A reference of an older generation names nothing.
package struct SlotRef: Hashable, Sendable {
    package let index: UInt32
    package let generation: Generation
    package init(index: UInt32, generation: Generation) {
        self.index = index
        self.generation = generation
    }
}

/// A lane's number, given by the receiver when the lane connects; unique within the decode incarnation.
package struct LaneID: Hashable, Comparable, Sendable {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package static func < (a: LaneID, b: LaneID) -> Bool { a.value < b.value }
}

/// A lane as a sender names it: lane numbers are unique within one decode incarnation only.
package struct LaneKey: Hashable, Sendable {
    package let decode: Incarnation
    package let lane: LaneID
    package init(decode: Incarnation, lane: LaneID) {
        self.decode = decode
        self.lane = lane
    }
}

/// Bumped every time a lane is handed to another handoff, so a record of an older use is recognised.
package struct LaneEpoch: Hashable, Sendable {
    package let value: UInt32
    package init(_ value: UInt32) { self.value = value }
    package var next: LaneEpoch { LaneEpoch(value &+ 1) }
}
