import Handoff

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
