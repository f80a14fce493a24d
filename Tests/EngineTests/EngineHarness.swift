import Engine
import Glibc
import Handoff
import Synchronization

/// Collects the events of one loop and waits for what a test wants to see.
final class EventLog: Sendable {
    struct Answer {
        var tokens: [TokenID] = []
        var logprobs: [[TokenLogprob]] = []
        var reason: FinishReason?
        var stats = DecodeStats()
        var error: EngineError?
        var slots: [SlotRef] = []
        var cachedTokens = 0
        /// By layer: pages that were said to be ready, in order.
        var ready: [Int: [Range<Int>]] = [:]
        var prefilled = false
        var endings = 0
        var ended: Bool { endings > 0 }
    }

    private let answers = Mutex<[HandoffID: Answer]>([:])

    func record(_ event: EngineEvent) {
        answers.withLock { answers in
            switch event {
            case .started(let id, let cachedTokens, let slots):
                answers[id, default: Answer()].slots = slots
                answers[id, default: Answer()].cachedTokens = cachedTokens
            case .pagesReady(let id, let layers, let pages):
                for layer in layers { answers[id, default: Answer()].ready[layer, default: []].append(pages) }
            case .prefilled(let id, _):
                answers[id, default: Answer()].prefilled = true
                answers[id, default: Answer()].endings += 1
            case .tokens(let runs):
                for run in runs {
                    answers[run.id, default: Answer()].tokens += run.tokens
                    answers[run.id, default: Answer()].logprobs += run.logprobs
                }
            case .finished(let id, let reason, let stats):
                answers[id, default: Answer()].reason = reason
                answers[id, default: Answer()].stats = stats
                answers[id, default: Answer()].endings += 1
            case .failed(let id, let error):
                answers[id, default: Answer()].error = error
                answers[id, default: Answer()].endings += 1
            }
        }
    }

    subscript(_ id: HandoffID) -> Answer { answers.withLock { $0[id] ?? Answer() } }

    /// Waits until `condition` holds of an answer; false after a minute.
    func wait(_ id: HandoffID, until condition: (Answer) -> Bool = { $0.ended }) -> Bool {
        for _ in 0..<60_000 {
            if condition(self[id]) { return true }
            // Polled: the conditions are many, and the engine's closure must not block on a test.
            usleep(1000)
        }
        return false
    }
}

func handoff(_ request: Int) -> HandoffID {
    HandoffID(router: Incarnation(9), request: UInt64(request), attempt: 1)
}

/// Memory whose every byte is a NaN at first (for every cache type), as stale contents may be.
func poisonedMemory(_ model: LoadedModel, pages: Int) throws -> KVMemory {
    let memory = try KVMemory(layout: model.layout, pageCount: pages)
    memset(memory.slab.base, 0xFF, memory.slab.bytes)
    return memory
}

/// What a handoff does: sealed slots on the receiver with the contents of the sender's.
func copyPages(_ slots: [SlotRef], from source: KVMemory, to target: KVMemory) -> [SlotRef]? {
    guard let taken = target.pool.withLock({ [count = slots.count] in $0.lease(count) }) else { return nil }
    for (from, to) in zip(slots, taken) {
        target.page(to.index).copyMemory(from: source.page(from.index), byteCount: source.layout.pageBytes)
    }
    return taken
}
