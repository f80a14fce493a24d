import Threads

/// Named threads that can be waited for together. A thread counts until its last instruction that touches anything
/// of ours.
final class ThreadGroup: Sendable {
    private let running = Monitor(0)

    /// Starts a thread; throws when the system has none to give.
    func start(_ name: String, _ body: @escaping @Sendable () -> Void) throws(TransportError) {
        running.update { $0 += 1 }
        let work = Work(body)
        let running = running
        do throws(ThreadError) {
            try OwnThread.detach(name) {
                work.run()
                // Counted down after the work and all it held is gone.
                running.update { $0 -= 1 }
            }
        } catch {
            running.update { $0 -= 1 }
            throw TransportError(.system, "can't start thread \(name)", errno: error.errno)
        }
    }

    /// Waits until all have ended, or until the deadline.
    func waitForAll(until deadline: Instant? = nil) {
        _ = running.wait(until: deadline) { $0 == 0 ? true : nil }
    }

    /// A closure that is let go of once it has run.
    private final class Work: Sendable {
        private let body = Monitor<(@Sendable () -> Void)?>(nil)

        init(_ body: @escaping @Sendable () -> Void) { self.body.withLock { $0 = body } }

        func run() {
            let taken = body.withLock { body in
                defer { body = nil }
                return body
            }
            taken?()
        }
    }
}
