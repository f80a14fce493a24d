import Glibc

/// Threads of the node's own, for work that blocks: the concurrency pool must stay free.
enum OwnThread {
    /// Runs `body` on a new thread and waits for it without blocking the caller's.
    static func run<Value: Sendable>(
        _ name: String, _ body: @escaping @Sendable () throws(NodeError) -> Value
    ) async throws(NodeError) -> Value {
        let result: Result<Value, NodeError> = await withCheckedContinuation { continuation in
            do throws(NodeError) {
                try start(name) {
                    do throws(NodeError) {
                        continuation.resume(returning: .success(try body()))
                    } catch {
                        continuation.resume(returning: .failure(error))
                    }
                }
            } catch {
                continuation.resume(returning: .failure(error))
            }
        }
        return try result.get()
    }

    /// Starts a detached thread.
    static func start(_ name: String, _ body: @escaping @Sendable () -> Void) throws(NodeError) {
        let box = Unmanaged.passRetained(ThreadBody(name: name, body: body))
        var thread = pthread_t()
        let status = pthread_create(&thread, nil, runThreadBody, box.toOpaque())
        guard status == 0 else {
            box.release()
            throw .thread(reason: String(cString: strerror(status)))
        }
        pthread_detach(thread)
    }
}

private final class ThreadBody: Sendable {
    let name: String
    let body: @Sendable () -> Void

    init(name: String, body: @escaping @Sendable () -> Void) {
        self.name = name
        self.body = body
    }
}

/// For debuggers; the kernel keeps 15 bytes of a name.
private func name(_ name: String) {
    let descriptor = open("/proc/thread-self/comm", O_WRONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return }
    defer { close(descriptor) }
    _ = Array(name.utf8.prefix(15)).withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
}

private func runThreadBody(_ pointer: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let pointer else { return nil }
    let thread = Unmanaged<ThreadBody>.fromOpaque(pointer).takeRetainedValue()
    name(thread.name)
    thread.body()
    return nil
}
