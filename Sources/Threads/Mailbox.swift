/// Messages from any thread for the one thread that takes them, which sleeps in the kernel while there are none.
package final class Mailbox<Message: Sendable>: Sendable {
    private struct State: Sendable {
        var messages: [Message] = []
        var isWoken = false
    }

    private let monitor = Monitor(State())

    package init() {}

    package func send(_ message: Message) { monitor.update { $0.messages.append(message) } }

    /// Ends the present or the next wait, without a message.
    package func wake() { monitor.update { $0.isWoken = true } }

    package var isEmpty: Bool { monitor.withLock { $0.messages.isEmpty } }

    /// Takes all messages there are; `taken` is cleared first and keeps its capacity.
    package func take(into taken: inout [Message]) {
        taken.removeAll(keepingCapacity: true)
        monitor.withLock { state in
            swap(&state.messages, &taken)
            state.isWoken = false
        }
    }

    /// Returns when there is a message or a `wake`, or after `timeout`; nil waits without end.
    package func wait(timeout: Duration?) {
        _ = monitor.wait(until: timeout.map { Instant.after($0) }) { !$0.messages.isEmpty || $0.isWoken ? true : nil }
    }
}
