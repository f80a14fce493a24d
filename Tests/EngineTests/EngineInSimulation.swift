import Engine
import Glibc
import Handoff
import Kernels
import SeededRandom
import Simulation

/// The bundled GLM-5 in the nodes of a simulated cluster: real pages in real memory, moved when the simulation moves them,
/// and every token of every answer computed from what a decode node's slots hold at that moment. Expected are the pages
/// and tokens of the same engine alone.
final class EngineInSimulation: SimulatedEngine {
    /// The most slots a simulated node has.
    private static let slotsMax = 32
    /// A prompt's last page has room for all tokens that a simulated request may want.
    static let pageTokens = 96
    private static let tokensMax = 80

    private struct RequestID: Hashable {
        let router: Incarnation
        let number: UInt64
    }

    private struct Request {
        let prompt: [TokenID]
        let answer: [TokenID]
    }

    private struct Attempt {
        let request: Request
        let delivered: Int
        /// Its pages, as computed by an engine alone.
        let pages: [UInt8]
    }

    private let model: LoadedModel
    private let pool: ComputePool
    private let workspace: any ModelWorkspace
    private let alone: KVMemory
    private var batch = Batch()
    private var requests: [RequestID: Request] = [:]
    private var attempts: [HandoffID: Attempt] = [:]
    private var memories: [Incarnation: KVMemory] = [:]
    private(set) var generatedTokens = 0
    private(set) var failure: (any Error)?
    /// Zeroes every so many writes that land, unseen by digests: what must not go unnoticed.
    var zeroedEvery: Int?
    private var landings = 0

    init(_ model: LoadedModel) throws {
        precondition(model.layout.pageTokens == Self.pageTokens)
        self.model = model
        pool = try ComputePool(threads: 1)
        workspace = try model.model.makeWorkspace(rows: 512, logitRows: 1, pool: pool)
        alone = try KVMemory(layout: model.layout, pageCount: Self.slotsMax)
    }

    deinit { pool.shutdown() }

    func reserved(_ handoff: HandoffID, of document: Int, pages: Int, delivered: Int, tokens: Int) {
        guard attempts[handoff] == nil, delivered <= tokens else { return }
        let id = RequestID(router: handoff.router, number: handoff.request)
        let slots = (0..<UInt32(pages)).map { SlotRef(index: $0, generation: Generation(1)) }
        let request = requests[id] ?? make(id, of: document, slots: slots, tokens: tokens)
        requests[id] = request
        compute(request.prompt + request.answer[..<delivered], slots)
        let bytes = slots.flatMap {
            UnsafeRawBufferPointer(start: alone.page($0.index), count: model.layout.pageBytes)
        }
        attempts[handoff] = Attempt(request: request, delivered: delivered, pages: bytes)
    }

    func computed(_ handoff: HandoffID, page: Int, in source: SlotRef, of prefill: Incarnation, layers: LayerShare) {
        guard let attempt = attempts[handoff], let memory = memory(of: prefill) else { return }
        let part = layers.part(of: model.layout.pageBytes)
        attempt.pages.withUnsafeBytes { pages in
            let start = page * model.layout.pageBytes + part.lowerBound
            (memory.page(source.index) + part.lowerBound).copyMemory(
                from: UnsafeRawBufferPointer(rebasing: pages[start..<start + part.count]).baseAddress!,
                byteCount: part.count)
        }
    }

    func landed(
        from source: SlotRef, of prefill: Incarnation, in target: SlotRef, of decode: Incarnation, layers: LayerShare,
        isCorrupt: Bool
    ) {
        guard let from = memory(of: prefill), let to = memory(of: decode) else { return }
        let part = layers.part(of: model.layout.pageBytes)
        let place = to.page(target.index) + part.lowerBound
        place.copyMemory(from: from.page(source.index) + part.lowerBound, byteCount: part.count)
        landings += 1
        if isCorrupt || zeroedEvery.map({ landings % $0 == 0 }) ?? false { memset(place, 0, part.count) }
    }

    func generated(
        _ handoff: HandoffID, tokens: Range<Int>, from slots: [SlotRef], of decode: Incarnation
    ) -> String? {
        guard let attempt = attempts[handoff], let memory = memory(of: decode) else {
            return "2: \(handoff.request) generates and was never reserved"
        }
        if tokens.lowerBound == attempt.delivered, let page = differing(attempt, slots, memory) {
            return "2: page \(page) of request \(handoff.request) is not what was computed"
        }
        var sequence = attempt.request.prompt + attempt.request.answer[..<tokens.lowerBound]
        for index in tokens {
            let token = step(sequence, sequence.count - 1..<sequence.count, slots, memory)
            guard token == attempt.request.answer[index] else {
                return "5: token \(index) of request \(handoff.request) is not that of an engine alone"
            }
            sequence.append(token)
            generatedTokens += 1
        }
        return nil
    }

    // MARK: The engine

    /// A prompt that leaves room in its last page, and its answer.
    private func make(_ id: RequestID, of document: Int, slots: [SlotRef], tokens: Int) -> Request {
        var random = SplitMix64(state: id.router.value &* 1_000_003 &+ id.number)
        var text = SplitMix64(state: UInt64(document) &+ 7)
        let tail = 1 + random.below(Self.pageTokens - Self.tokensMax - 1)
        let pages = (0..<(slots.count - 1) * Self.pageTokens).map { _ in TokenID(300 + text.below(2700)) }
        let prompt = pages + (0..<tail).map { _ in TokenID(300 + random.below(2700)) }
        var answer: [TokenID] = []
        for _ in 0..<tokens {
            let sequence = prompt + answer
            answer.append(
                answer.isEmpty
                    ? compute(sequence, slots) : step(sequence, sequence.count - 1..<sequence.count, slots, alone))
        }
        return Request(prompt: prompt, answer: answer)
    }

    /// Computes all positions in memory of its own. Returns what is most likely next.
    @discardableResult
    private func compute(_ sequence: [TokenID], _ slots: [SlotRef]) -> TokenID {
        var next: TokenID = 0
        for start in stride(from: 0, to: sequence.count, by: 512) {
            next = step(sequence, start..<min(start + 512, sequence.count), slots, alone)
        }
        return next
    }

    private func step(_ sequence: [TokenID], _ range: Range<Int>, _ slots: [SlotRef], _ memory: KVMemory) -> TokenID {
        batch.clear()
        batch.append(sequence: sequence, range: range, slots: slots, memory: memory, logits: .last)
        _ = model.model.forward(batch, workspace: workspace, pool: pool, hooks: ForwardHooks())
        let logits = UnsafeBufferPointer(start: workspace.logits[0], count: model.facts.vocabularySize)
        return TokenID(logits.indices.max { logits[$0] < logits[$1] } ?? 0)
    }

    private func differing(_ attempt: Attempt, _ slots: [SlotRef], _ memory: KVMemory) -> Int? {
        let size = model.layout.pageBytes
        return attempt.pages.withUnsafeBytes { pages in
            slots.indices.first { memcmp(memory.page(slots[$0].index), pages.baseAddress! + $0 * size, size) != 0 }
        }
    }

    private func memory(of node: Incarnation) -> KVMemory? {
        if let memory = memories[node] { return memory }
        do {
            let memory = try KVMemory(layout: model.layout, pageCount: Self.slotsMax)
            memories[node] = memory
            return memory
        } catch {
            failure = error
            return nil
        }
    }
}
