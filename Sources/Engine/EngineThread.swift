import Glibc

/// One joinable thread that runs a closure.
///
/// `@unchecked Sendable`: `thread` is written once in `init`, and `joined` only by the one caller of `join`, which
/// `EngineLoop.shutdown` guards.
final class EngineThread: @unchecked Sendable {
    private var thread = pthread_t()
    private let isRunning: Bool

    /// Attention keeps its tiles on the stack.
    private static let stackBytes = 8 << 20

    init(name: String, _ body: sending @escaping () -> Void) throws(EngineError) {
        var attributes = pthread_attr_t()
        pthread_attr_init(&attributes)
        defer { pthread_attr_destroy(&attributes) }
        pthread_attr_setstacksize(&attributes, Self.stackBytes)
        let box = Unmanaged.passRetained(EngineThreadBody(name: name, run: body))
        let code = pthread_create(&thread, &attributes, runEngineThread, box.toOpaque())
        isRunning = code == 0
        guard isRunning else {
            box.release()
            throw .memory(reason: "no thread: \(String(cString: strerror(code)))")
        }
    }

    func join() { pthread_join(thread, nil) }
}

private final class EngineThreadBody {
    let name: String
    let run: () -> Void

    init(name: String, run: sending @escaping () -> Void) {
        self.name = name
        self.run = run
    }
}

/// File-scope, because a closure literal inside isolated code would trap when C calls it.
private func runEngineThread(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let body = Unmanaged<EngineThreadBody>.fromOpaque(argument).takeRetainedValue()
    nameThisThread(body.name)
    body.run()
    return nil
}

/// For `top -H` and debuggers; the system keeps 15 bytes. pthread_setname_np is not visible to Swift.
private func nameThisThread(_ name: String) {
    let descriptor = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    _ = Array(name.utf8.prefix(15)).withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
}
