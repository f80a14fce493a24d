/// The writes of one handoff's part: what is ready, posted and acknowledged. Counted in records.
struct WriteProgress: Sendable {
    let terms: PartTerms
    /// The engine's block table; empty until it started.
    var sources: [SlotRef] = []
    /// The first layer that is not ready, per page of the part.
    private var readyLayers: [Int]
    private var unreadyPages: Int
    /// Ranges not posted yet: those from `pendingHead` on.
    private var pending: [WriteRange] = []
    private var pendingHead = 0
    /// Where in `pending` a page's last range is, to grow it while it waits.
    private var lastPending: [Int]
    var posted = 0
    var completed = 0
    var bytes = 0
    /// Release came before the completion record's acknowledgement.
    var released = false
    var isUnpinned = false
    /// Whether the engine has more to compute when the last of this part is ready.
    let endsEarly: Bool

    init(terms: PartTerms, layers: Int) {
        self.terms = terms
        endsEarly = terms.pages.upperBound < terms.tablePages || terms.layers.upperBound < layers
        readyLayers = Array(repeating: terms.layers.lowerBound, count: terms.slots.count)
        lastPending = Array(repeating: -1, count: terms.slots.count)
        unreadyPages = terms.slots.count
    }

    var id: HandoffID { terms.handoff }
    var key: LaneKey { terms.key }
    var isQuiet: Bool { posted == completed }
    var isFullyPosted: Bool { unreadyPages == 0 && pendingHead == pending.count }

    /// More layers of some pages are final. Layers of a page come in ascending order. What is not of the part is left to
    /// others.
    mutating func ready(layers: Range<Int>, pages: Range<Int>, shape: PageShape) {
        precondition(sources.count == terms.tablePages, "pages of \(id) ready before its block table")
        precondition(pages.lowerBound >= 0 && pages.upperBound <= sources.count, "pages \(pages) out of range")
        precondition(!layers.isEmpty && layers.upperBound <= shape.layerCount, "layers \(layers) out of range")
        let layers = layers.clamped(to: terms.layers)
        if layers.isEmpty { return }
        let bytes = shape.bytes(of: layers)
        for page in pages.clamped(to: terms.pages) {
            let index = page - terms.pages.lowerBound
            precondition(readyLayers[index] == layers.lowerBound, "layer \(layers) of page \(page) out of order")
            readyLayers[index] = layers.upperBound
            if layers.upperBound == terms.layers.upperBound { unreadyPages -= 1 }
            let last = lastPending[index]
            if last >= pendingHead, last < pending.count, pending[last].page == page,
                pending[last].end == bytes.lowerBound
            {
                pending[last].length += bytes.count
            } else {
                lastPending[index] = pending.count
                pending.append(
                    WriteRange(
                        page: page, source: sources[page], target: terms.slots[index], offset: bytes.lowerBound,
                        length: bytes.count))
            }
        }
    }

    /// The records that may be posted now.
    mutating func post() -> [SendingAction] {
        var actions: [SendingAction] = []
        while pendingHead < pending.count, posted - completed < WriteLimits.recordsInFlightMax {
            var taken = 0
            var batchBytes = 0
            for range in pending[pendingHead...].prefix(WriteLimits.rangesMax) {
                if taken > 0, batchBytes + range.length > WriteLimits.recordBytesAim { break }
                taken += 1
                batchBytes += range.length
            }
            let ranges = Array(pending[pendingHead..<pendingHead + taken])
            pendingHead += taken
            posted += 1
            bytes += batchBytes
            actions.append(.post(key, WriteBatch(handoff: id, part: terms.number, epoch: terms.epoch, ranges: ranges)))
        }
        if pendingHead == pending.count {
            pending.removeAll(keepingCapacity: true)
            pendingHead = 0
        }
        return actions
    }

    /// Takes a cumulative acknowledgement; false when it claims more than was posted or takes some back.
    mutating func acknowledge(_ records: Int) -> Bool {
        guard records <= posted, records >= completed else { return false }
        completed = records
        return true
    }
}
