import Glibc
package import Threads

/// Whoever starts a process as its child holds the other end of its standard input: when that ends, so should the child.
package enum ParentWatch {
    /// Reads standard input until it ends, on a thread of its own, and calls `onEnd` once.
    package static func start(_ onEnd: @escaping @Sendable () -> Void) throws(ThreadError) {
        try OwnThread.detach("parent-watch") {
            var byte: UInt8 = 0
            while true {
                let count = read(STDIN_FILENO, &byte, 1)
                if count > 0 || (count < 0 && errno == EINTR) { continue }
                break
            }
            onEnd()
        }
    }
}
