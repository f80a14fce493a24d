import Messages
import Synchronization

/// Messages that wait for one writer task. Offering never blocks; the writer takes all that is there at once, so
/// a burst costs one hop.
final class Outbox<Message: Sendable>: Sendable {
    enum Offer {
        case accepted, full, closed
    }

    private struct State {
        var pending: [Message] = []
        var bytes = 0
        var waiter: CheckedContinuation<Void, Never>?
        var isClosed = false
    }

    private let state = Mutex(State())
    private let messagesLimit: Int
    private let bytesLimit: Int

    init(messagesLimit: Int = ControlLimits.outboxMessages, bytesLimit: Int = ControlLimits.outboxBytes) {
        self.messagesLimit = messagesLimit
        self.bytesLimit = bytesLimit
    }

    /// Adds a message, unless the box is full or closed. An empty box takes a message of any size.
    func offer(_ message: Message, bytes: Int) -> Offer {
        let (result, waiter) = state.withLock { state -> (Offer, CheckedContinuation<Void, Never>?) in
            if state.isClosed { return (.closed, nil) }
            guard
                state.pending.isEmpty
                    || (state.pending.count < messagesLimit && state.bytes + bytes <= bytesLimit)
            else { return (.full, nil) }
            state.pending.append(message)
            state.bytes += bytes
            defer { state.waiter = nil }
            return (.accepted, state.waiter)
        }
        waiter?.resume()
        return result
    }

    /// No message is accepted from now on; those accepted are still delivered.
    func close() {
        let waiter = state.withLock { state in
            state.isClosed = true
            defer { state.waiter = nil }
            return state.waiter
        }
        waiter?.resume()
    }

    /// All waiting messages, in order, as soon as there is one. nil when the box is closed and empty, or when
    /// the calling task is cancelled. One caller at a time.
    func take() async -> [Message]? {
        while !Task.isCancelled {
            let (batch, isClosed) = state.withLock { state in
                defer {
                    state.pending = []
                    state.bytes = 0
                }
                return (state.pending, state.isClosed)
            }
            if !batch.isEmpty { return batch }
            if isClosed { return nil }
            await withTaskCancellationHandler {
                await withCheckedContinuation { continuation in
                    let isReady = state.withLock { state in
                        if !state.pending.isEmpty || state.isClosed || Task.isCancelled { return true }
                        precondition(state.waiter == nil, "an outbox has one reader")
                        state.waiter = continuation
                        return false
                    }
                    if isReady { continuation.resume() }
                }
            } onCancel: {
                let waiter = state.withLock { state in
                    defer { state.waiter = nil }
                    return state.waiter
                }
                waiter?.resume()
            }
        }
        return nil
    }
}
