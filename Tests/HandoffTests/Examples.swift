import Handoff

let routerA = Incarnation(0xA)
let decodeD = Incarnation(0xD)
let prefillP = Incarnation(0x1)

func handoff(_ request: UInt64, attempt: UInt32 = 1, router: Incarnation = routerA) -> HandoffID {
    HandoffID(router: router, request: request, attempt: attempt)
}

/// The completion record of a part.
func record(
    _ terms: GrantTerms, part: Int = 0, epoch: LaneEpoch? = nil, slots: [SlotRef]? = nil
) -> CompletionRecord {
    CompletionRecord(
        handoff: terms.handoff, part: part, epoch: epoch ?? terms.parts[part].epoch,
        pages: (slots ?? terms.part(part)?.slots ?? []).map { SealedPage(slot: $0, digest: UInt64($0.index)) })
}

/// Of a grant with one part.
extension GrantTerms {
    var lane: LaneID { parts[0].lane }
    var epoch: LaneEpoch { parts[0].epoch }
    var whole: PartTerms? { part(0) }
}

struct Missing: Error {}

/// `#require` for expressions on values that can't be copied, which the macro can't take apart.
func need<Value>(_ value: Value?) throws -> Value {
    guard let value else { throw Missing() }
    return value
}
