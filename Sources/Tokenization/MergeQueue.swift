/// A binary heap of proposed merges, lowest priority number first.
struct MergeQueue {
    struct Proposal {
        /// Rank (or inverted score) in the upper half, position in the lower: of equal ranks the leftmost goes
        /// first.
        var priority: UInt64
        /// Bytes of both halves together when proposed; if they have changed since, the proposal is stale.
        var size: Int32
        var result: Int32
    }

    private var heap: [Proposal] = []

    mutating func removeAll() {
        heap.removeAll(keepingCapacity: true)
    }

    mutating func push(_ proposal: Proposal) {
        heap.append(proposal)
        var child = heap.count - 1
        while child > 0 {
            let parent = (child - 1) / 2
            if heap[parent].priority <= proposal.priority { break }
            heap[child] = heap[parent]
            child = parent
        }
        heap[child] = proposal
    }

    mutating func pop() -> Proposal? {
        guard let top = heap.first, let last = heap.popLast() else { return nil }
        guard !heap.isEmpty else { return top }
        var parent = 0
        while true {
            var child = 2 * parent + 1
            if child >= heap.count { break }
            if child + 1 < heap.count && heap[child + 1].priority < heap[child].priority { child += 1 }
            if last.priority <= heap[child].priority { break }
            heap[parent] = heap[child]
            parent = child
        }
        heap[parent] = last
        return top
    }
}
