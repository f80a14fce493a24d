package import API
import Synchronization

/// The memory that request bodies take, over all requests: from the first byte that arrives until the body has been
/// read into a prompt. Bodies that clients begin and never finish count like all others.
package final class BodyBudget: Sendable {
    package let limit: Int
    /// What only small bodies may take, so that a few large ones, withheld or slow, do not keep everybody out.
    private let reserve: Int
    private let smallBytes: Int
    private let used = Mutex(0)

    /// - Parameters:
    ///   - limit: bytes over all bodies.
    ///   - smallBytes: a body of up to this many bytes may use the reserve, an eighth of the limit.
    package init(limit: Int, smallBytes: Int = 64 << 10) {
        self.limit = limit
        self.smallBytes = smallBytes
        reserve = limit / 8
    }

    /// Bytes of bodies that are held now.
    package var bytesHeld: Int { used.withLock { $0 } }

    fileprivate func take(_ count: Int, of whole: Int) -> Bool {
        let limit = whole <= smallBytes ? limit : limit - reserve
        return used.withLock { used in
            guard count <= limit, used <= limit - count else { return false }
            used += count
            return true
        }
    }

    fileprivate func giveBack(_ count: Int) { used.withLock { $0 -= count } }
}

/// What one body takes of the budget; it is given back when this goes.
package final class BodyShare: Sendable {
    private let budget: BodyBudget
    private let bytes = Mutex(0)

    package init(_ budget: BodyBudget) { self.budget = budget }

    deinit {
        let bytes = bytes.withLock { $0 }
        if bytes > 0 { budget.giveBack(bytes) }
    }

    /// More of the body has arrived.
    /// - Throws: 503 when all bodies together take what they may.
    package func grow(by count: Int) throws(APIError) {
        let isTaken = bytes.withLock { bytes in
            guard budget.take(count, of: bytes + count) else { return false }
            bytes += count
            return true
        }
        guard !isTaken else { return }
        var error = APIError.unavailable(
            "Request bodies take \(budget.limit >> 20) MiB already, as much as they may together. Try again later.",
            code: "body_memory", retryAfter: .seconds(2))
        error.closesConnection = true
        throw error
    }
}
