import Glibc
import HostProcess
import Logging
import Threads
import UnixSignals

/// Waits for the reasons to stop: SIGTERM, SIGINT, SIGHUP, SIGQUIT, or the end of standard input when a parent holds its other
/// end. A second SIGINT ends the process at once.
struct StopRequests: Sendable {
    var watchesParent: Bool

    /// Returns at the first reason, and goes on watching for a second SIGINT.
    func first(logger: Logger) async {
        let (reasons, continuation) = AsyncStream<String>.makeStream()
        Task {
            var interrupts = 0
            let hangup: [UnixSignal] = HostProcess.isHangupIgnored ? [] : [.sighup]
            for await signal in await UnixSignalsSequence(trapping: [.sigterm, .sigint, .sigquit] + hangup) {
                if signal == .sigint {
                    interrupts += 1
                    if interrupts > 1 { _exit(130) }
                }
                continuation.yield("\(signal)")
            }
        }
        if watchesParent {
            let gone: @Sendable () -> Void = { continuation.yield("the parent process is gone") }
            // A process that cannot watch its parent must not outlive it.
            do throws(ThreadError) { try ParentWatch.start(gone) } catch { gone() }
        }
        for await reason in reasons {
            logger.notice("stopping", metadata: ["reason": "\(reason)"])
            return
        }
    }
}
