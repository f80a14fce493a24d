import Glibc
import Logging
import Synchronization
import UnixSignals

/// Waits for the reasons to stop: SIGTERM, SIGINT, or the end of standard input when a parent holds its other
/// end. A second SIGINT ends the process at once.
struct StopRequests: Sendable {
    var watchesParent: Bool

    /// Returns at the first reason, and goes on watching for a second SIGINT.
    func first(logger: Logger) async {
        let (reasons, continuation) = AsyncStream<String>.makeStream()
        Task {
            var interrupts = 0
            for await signal in await UnixSignalsSequence(trapping: .sigterm, .sigint) {
                if signal == .sigint {
                    interrupts += 1
                    if interrupts > 1 { _exit(130) }
                }
                continuation.yield("\(signal)")
            }
        }
        if watchesParent {
            startParentWatch { continuation.yield("the parent process is gone") }
        }
        for await reason in reasons {
            logger.notice("stopping", metadata: ["reason": "\(reason)"])
            return
        }
    }
}

/// Reads standard input until it ends, on a thread of its own: a blocking read must not hold a pool thread.
private func startParentWatch(_ onEnd: @escaping @Sendable () -> Void) {
    let box = Unmanaged.passRetained(EndAction(onEnd))
    var thread = pthread_t()
    guard pthread_create(&thread, nil, parentWatchBody, box.toOpaque()) == 0 else {
        box.release()
        return onEnd()
    }
    pthread_detach(thread)
}

private final class EndAction: Sendable {
    let body: @Sendable () -> Void
    init(_ body: @escaping @Sendable () -> Void) { self.body = body }
}

private func parentWatchBody(_ argument: UnsafeMutableRawPointer?) -> UnsafeMutableRawPointer? {
    guard let argument else { return nil }
    let action = Unmanaged<EndAction>.fromOpaque(argument).takeRetainedValue()
    var byte: UInt8 = 0
    while true {
        let count = read(STDIN_FILENO, &byte, 1)
        if count > 0 || (count < 0 && errno == EINTR) { continue }
        break
    }
    action.body()
    return nil
}
