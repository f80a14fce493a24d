import Handoff

/// SplitMix64: a run is its seed.
struct Seeded: RandomNumberGenerator {
    private var state: UInt64
    init(_ seed: UInt64) { state = seed &* 0x9E37_79B9_7F4A_7C15 }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var z = state
        z = (z ^ (z >> 30)) &* 0xBF58_476D_1CE4_E5B9
        z = (z ^ (z >> 27)) &* 0x94D0_49BB_1331_11EB
        return z ^ (z >> 31)
    }

    mutating func chance(_ oneIn: Int) -> Bool { Int.random(in: 0..<oneIn, using: &self) == 0 }
    mutating func below(_ count: Int) -> Int { Int.random(in: 0..<count, using: &self) }
}

let routerA = Incarnation(0xA)
let decodeD = Incarnation(0xD)
let prefillP = Incarnation(0x1)

func handoff(_ request: UInt64, attempt: UInt32 = 1, router: Incarnation = routerA) -> HandoffID {
    HandoffID(router: router, request: request, attempt: attempt)
}

func record(_ terms: GrantTerms, epoch: LaneEpoch? = nil, slots: [SlotRef]? = nil) -> CompletionRecord {
    CompletionRecord(
        handoff: terms.handoff, epoch: epoch ?? terms.epoch,
        pages: (slots ?? terms.slots).map { SealedPage(slot: $0, digest: UInt64($0.index)) })
}

struct Missing: Error {}

/// `#require` for expressions on values that can't be copied, which the macro can't take apart.
func need<Value>(_ value: Value?) throws -> Value {
    guard let value else { throw Missing() }
    return value
}
