package import API
import Synchronization
import Threads

/// Reads large request bodies on a thread of its own. Parsing, rendering and tokenising megabytes takes seconds,
/// and the concurrency pool, which also carries the nodes' leases and everybody's tokens, must stay free.
///
/// One body is read at a time, in order of arrival. What those that wait take is bounded by `BodyBudget`, their number
/// here. The thread exists while there are any.
package final class LargeBodyThread: Sendable {
    private struct State {
        var waiting: [@Sendable () -> Void] = []
        var isRunning = false
    }

    private let inlineBytes: Int
    private let waitingMax: Int
    private let state = Mutex(State())

    /// - Parameters:
    ///   - inlineBytes: bodies up to this are read where the caller runs: that takes less than a decode step.
    ///   - waitingMax: large bodies that may wait; one more is refused with 429.
    package init(inlineBytes: Int = 32 << 10, waitingMax: Int = 1024) {
        self.inlineBytes = inlineBytes
        self.waitingMax = waitingMax
    }

    /// What `work` makes of a body of `bytes` bytes; it must not wait for anything.
    package func run<Value: Sendable>(
        bytes: Int, _ work: @escaping @Sendable () throws(APIError) -> Value
    ) async throws(APIError) -> Value {
        guard bytes > inlineBytes else { return try work() }
        let result: Result<Value, APIError> = await withCheckedContinuation { continuation in
            let refusal = add {
                do throws(APIError) {
                    continuation.resume(returning: .success(try work()))
                } catch {
                    continuation.resume(returning: .failure(error))
                }
            }
            if let refusal { continuation.resume(returning: .failure(refusal)) }
        }
        return try result.get()
    }

    /// Nil when the work was taken and will be done.
    private func add(_ work: @escaping @Sendable () -> Void) -> APIError? {
        state.withLock { state in
            guard state.waiting.count < waitingMax else {
                return .queueFull(limit: waitingMax, retryAfter: .seconds(2))
            }
            state.waiting.append(work)
            if state.isRunning { return nil }
            do throws(ThreadError) {
                try OwnThread.detach("large-bodies") { self.runAll() }
            } catch {
                // Nothing ran, so this is all there is.
                state.waiting = []
                return .unavailable("No thread for a large body.", code: "no_thread", retryAfter: .seconds(2))
            }
            state.isRunning = true
            return nil
        }
    }

    private func runAll() {
        while true {
            let work = state.withLock { state -> (@Sendable () -> Void)? in
                guard !state.waiting.isEmpty else {
                    state.isRunning = false
                    return nil
                }
                return state.waiting.removeFirst()
            }
            guard let work else { return }
            work()
        }
    }
}
