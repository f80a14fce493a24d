package import ControlPlane
import Synchronization

/// Carries what happens to the runs of one client request from the router to the one task that answers it.
///
/// A step's tokens for a choice are one append, and a reader that lags gets everything that has gathered at
/// once, so a token never costs a task switch of its own. Bounded: see `backlog`.
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
    }

    private let state = Mutex(State())
    /// Called once, from any thread, when the client is too slow: ends its connection.
    private let onCut: @Sendable () -> Void

    package init(onCut: @escaping @Sendable () -> Void = {}) { self.onCut = onCut }

    /// Adds an event; never blocks. O(1) amortised per token.
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
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
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
            wake()
        }
        return state.withLock { state in
            defer {
                state.deliveries = []
                state.unread = 0
                state.since = nil
            }
            return state.isCut ? [] : state.deliveries
        }
    }

    /// What waits for the reader; nil when nothing does.
    package var backlog: Backlog? {
        state.withLock { state in state.since.map { Backlog(tokens: state.unread, since: $0) } }
    }

    /// Gives up on the client: drops what waits, and closes its connection.
    package func cut() {
        let (first, reader) = state.withLock { state -> (Bool, CheckedContinuation<Void, Never>?) in
            defer {
                state.isCut = true
                state.deliveries = []
                state.unread = 0
                state.since = nil
                state.reader = nil
            }
            return (!state.isCut, state.reader)
        }
        reader?.resume()
        if first { onCut() }
    }

    package var isCut: Bool { state.withLock { $0.isCut } }

    private func wake() {
        let reader = state.withLock { state in
            defer { state.reader = nil }
            return state.reader
        }
        reader?.resume()
    }
}
