import Glibc

/// Named threads that can be waited for together. A thread counts until its last instruction that touches anything
/// of ours.
final class ThreadGroup: Sendable {
    private let running = Monitor(0)

    /// Starts a thread; throws when the system has none to give.
    func start(_ name: String, _ body: @escaping @Sendable () -> Void) throws(TransportError) {
        running.update { $0 += 1 }
        let work = ThreadWork(name: name, body: body, running: running)
        var thread = pthread_t()
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED))
        let context = Unmanaged.passRetained(work)
        let result = pthread_create(&thread, &attributes, runThreadWork, context.toOpaque())
        pthread_attr_destroy(&attributes)
        guard result == 0 else {
            context.release()
            running.update { $0 -= 1 }
            throw TransportError(.system, "can't start thread \(name)", errno: result)
        }
    }

    /// Waits until all have ended, or until the deadline.
    func waitForAll(until deadline: Instant? = nil) {
        _ = running.wait(until: deadline) { $0 == 0 ? true : nil }
    }
}

private final class ThreadWork: Sendable {
    let name: String
    let body: @Sendable () -> Void
    let running: Monitor<Int>

    init(name: String, body: @escaping @Sendable () -> Void, running: Monitor<Int>) {
        self.name = name
        self.body = body
        self.running = running
    }
}

/// A file-scope function, because a closure literal inside isolated code would trap as a C callback.
private func runThreadWork(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    // Counted down after the work and all it held is gone.
    finish(context).update { $0 -= 1 }
    return nil
}

private func finish(_ context: UnsafeMutableRawPointer) -> Monitor<Int> {
    let work = Unmanaged<ThreadWork>.fromOpaque(context).takeRetainedValue()
    nameThisThread(work.name)
    work.body()
    return work.running
}

/// Shows in `top -H` and in debuggers; the kernel keeps 15 bytes.
private func nameThisThread(_ name: String) {
    let file = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return }
    _ = name.utf8.prefix(15).withContiguousStorageIfAvailable { write(file, $0.baseAddress, $0.count) }
    close(file)
}
