import Threads

extension OwnThread {
    /// Runs `body` on a new thread and waits for it without blocking the caller's.
    static func run<Value: Sendable>(
        _ name: String, _ body: @escaping @Sendable () throws(NodeError) -> Value
    ) async throws(NodeError) -> Value {
        let result: Result<Value, NodeError> = await withCheckedContinuation { continuation in
            do throws(ThreadError) {
                try detach(name) {
                    do throws(NodeError) {
                        continuation.resume(returning: .success(try body()))
                    } catch {
                        continuation.resume(returning: .failure(error))
                    }
                }
            } catch {
                continuation.resume(returning: .failure(.thread(reason: error.description)))
            }
        }
        return try result.get()
    }
}
