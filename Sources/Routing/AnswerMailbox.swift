import ControlPlane
package import Cores
package import Messages
import Synchronization

/// Carries what happens to the runs of one client request from the router to the one task that answers it.
///
/// A step's tokens for a choice are one append, and a reader that lags gets everything that has gathered at
/// once. While the task follows (`follow`), the thread that brings tokens also writes them to the client, so a
/// token costs no task switch at all. Bounded: see `backlog`.
package final class AnswerMailbox: Sendable {
    /// What gathered for one choice since the last read.
    package struct Delivery: Sendable {
        package let choice: Int
        /// When the oldest of it reached the router.
        package let at: Duration
        package var tokens: [UInt32] = []
        package var alternatives: [[TokenLogprob]] = []
        package var ending: RunEnding?
    }

    /// What waits for the client.
    package struct Backlog: Sendable {
        package var tokens: Int
        /// When the oldest of it came.
        package var since: Duration
    }

    private struct State {
        var deliveries: [Delivery] = []
        var unread = 0
        var since: Duration?
        var reader: CheckedContinuation<Void, Never>?
        var isCut = false
        /// While the task follows: what takes deliveries for it.
        var follower: Follower?
        /// A thread is in the follower. Whoever appends meanwhile leaves it to that thread.
        var isPumping = false

        mutating func takeAll() -> [Delivery] {
            defer {
                deliveries = []
                unread = 0
                since = nil
            }
            return deliveries
        }

        /// What the follower takes next, whose thread it then is in; nil when there is nothing, or nobody follows.
        mutating func nextTurn() -> (follower: Follower, deliveries: [Delivery])? {
            isPumping = false
            guard let follower, !deliveries.isEmpty else { return nil }
            isPumping = true
            return (follower, takeAll())
        }

        /// Ends following, and gives the continuation to be resumed; nil while a thread is in the follower, which
        /// then does it when it comes out.
        mutating func stopFollowing() -> CheckedContinuation<Void, Never>? {
            follower = nil
            guard !isPumping else { return nil }
            defer { reader = nil }
            return reader
        }
    }

    /// Takes what gathered, on whichever thread brought it; false when the task has to go on itself.
    package typealias Follower = @Sendable ([Delivery]) -> Bool

    private let state = Mutex(State())
    /// Called once, from any thread, when the client is too slow: ends its connection.
    private let onCut: @Sendable () -> Void

    package init(onCut: @escaping @Sendable () -> Void = {}) { self.onCut = onCut }

    /// Adds an event; never blocks. O(1) amortised per token. `pump` is to follow, outside all locks.
    package func append(_ event: RunEvent, choice: Int, now: Duration) {
        let reader = state.withLock { state -> CheckedContinuation<Void, Never>? in
            guard !state.isCut else { return nil }
            var place = state.deliveries.firstIndex { $0.choice == choice }
            if place == nil {
                place = state.deliveries.count
                state.deliveries.append(Delivery(choice: choice, at: now))
            }
            switch event {
            case .tokens(let tokens, let alternatives):
                state.deliveries[place ?? 0].tokens += tokens
                state.deliveries[place ?? 0].alternatives += alternatives
                state.unread += tokens.count
            case .ended(let ending):
                state.deliveries[place ?? 0].ending = ending
            }
            state.since = state.since ?? now
            guard state.follower == nil, !state.isPumping else { return nil }
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
    }

    /// Hands what has gathered to the follower, if there is one. Deliveries reach it in order, one thread at a time.
    package func pump() {
        var turn = state.withLock { $0.isPumping ? nil : $0.nextTurn() }
        while let (follower, deliveries) = turn {
            let goesOn = follower(deliveries)
            let reader: CheckedContinuation<Void, Never>?
            (turn, reader) = state.withLock { state in
                if goesOn, let next = state.nextTurn() { return (next, nil) }
                state.isPumping = false
                // Whoever cut the client off, or cancelled, meanwhile left the rest to this thread.
                return (nil, goesOn && state.follower != nil ? nil : state.stopFollowing())
            }
            reader?.resume()
        }
    }

    /// Lets `follower` take what comes, until it returns false, the client is cut off or the task is cancelled.
    /// When this returns, no thread is in `follower` any more. One reader at a time.
    package func follow(_ follower: @escaping Follower) async {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isOver = state.withLock { state in
                    if state.isCut || Task.isCancelled { return true }
                    state.reader = continuation
                    state.follower = follower
                    return false
                }
                if isOver { continuation.resume() } else { pump() }
            }
        } onCancel: {
            state.withLock { $0.stopFollowing() }?.resume()
        }
    }

    /// Waits until something has gathered and takes it. Empty when the task was cancelled or the client cut off.
    /// One reader at a time.
    package func next() async -> [Delivery] {
        await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isReady = state.withLock { state in
                    if !state.deliveries.isEmpty || state.isCut || Task.isCancelled { return true }
                    state.reader = continuation
                    return false
                }
                if isReady { continuation.resume() }
            }
        } onCancel: {
            state.withLock { $0.stopFollowing() }?.resume()
        }
        return state.withLock { state in
            let deliveries = state.takeAll()
            return state.isCut ? [] : deliveries
        }
    }

    /// What waits for the reader; nil when nothing does.
    package var backlog: Backlog? {
        state.withLock { state in state.since.map { Backlog(tokens: state.unread, since: $0) } }
    }

    /// Gives up on the client: drops what waits, and closes its connection.
    package func cut() {
        let (first, reader) = state.withLock { state -> (Bool, CheckedContinuation<Void, Never>?) in
            defer { state.isCut = true }
            _ = state.takeAll()
            return (!state.isCut, state.stopFollowing())
        }
        reader?.resume()
        if first { onCut() }
    }

    package var isCut: Bool { state.withLock { $0.isCut } }
}
