import Glibc

/// No thread could be started: the system has none to give.
package struct ThreadError: Error, Sendable, Equatable, CustomStringConvertible {
    package let name: String
    package let errno: Int32

    package var description: String {
        "can't start thread \(name): \(String(cString: strerror(errno))); see the limits of the process (ulimit -u)"
    }
}

/// A thread of our own, for work that computes, polls or blocks: Swift's concurrency pool must stay free.
///
/// `@unchecked Sendable`: `thread` is written once in `init`, and read by the one caller of `join`.
package final class OwnThread: @unchecked Sendable {
    private var thread = pthread_t()

    /// Starts a thread that is to be joined, once.
    /// - Parameter stackBytes: the system's default where nil.
    package init(
        _ name: String, stackBytes: Int? = nil, _ body: sending @escaping () -> Void
    ) throws(ThreadError) {
        try Self.start(&thread, name, stackBytes: stackBytes, isDetached: false, body)
    }

    package func join() { pthread_join(thread, nil) }

    /// Starts a thread that nobody waits for.
    package static func detach(_ name: String, _ body: sending @escaping () -> Void) throws(ThreadError) {
        var thread = pthread_t()
        try start(&thread, name, stackBytes: nil, isDetached: true, body)
    }

    private static func start(
        _ thread: inout pthread_t, _ name: String, stackBytes: Int?, isDetached: Bool,
        _ body: sending @escaping () -> Void
    ) throws(ThreadError) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        if let stackBytes { pthread_attr_setstacksize(&attributes, stackBytes) }
        if isDetached { pthread_attr_setdetachstate(&attributes, Int32(PTHREAD_CREATE_DETACHED)) }
        let work = Unmanaged.passRetained(ThreadWork(name: name, body: body))
        let code = pthread_create(&thread, &attributes, runThreadWork, work.toOpaque())
        guard code == 0 else {
            work.release()
            throw ThreadError(name: name, errno: code)
        }
    }
}

private final class ThreadWork {
    let name: String
    let body: () -> Void

    init(name: String, body: sending @escaping () -> Void) {
        self.name = name
        self.body = body
    }
}

/// File-scope, because a closure literal inside isolated code would trap when C calls it.
private func runThreadWork(_ context: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let context else { return nil }
    let work = Unmanaged<ThreadWork>.fromOpaque(context).takeRetainedValue()
    nameThisThread(work.name)
    work.body()
    return nil
}

/// Shows in `top -H` and in debuggers; the kernel keeps 15 bytes. pthread_setname_np is not visible to Swift.
private func nameThisThread(_ name: String) {
    let file = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard file >= 0 else { return }
    defer { close(file) }
    _ = Array(name.utf8.prefix(15)).withUnsafeBytes { write(file, $0.baseAddress, $0.count) }
}
