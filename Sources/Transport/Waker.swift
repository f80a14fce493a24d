import Glibc
import Synchronization

/// A pipe that wakes a thread out of `poll`.
final class Waker: Sendable {
    let readEnd: Int32
    private let writeEnd: Int32
    /// A byte is in the pipe, or about to be: no other is needed.
    private let isSet = Atomic(false)

    init() throws(TransportError) {
        var ends: [Int32] = [-1, -1]
        guard pipe(&ends) == 0 else { throw TransportError(.system, "can't open a pipe", errno: errno) }
        for end in ends {
            _ = fcntl(end, F_SETFD, FD_CLOEXEC)
            _ = fcntl(end, F_SETFL, O_NONBLOCK)
        }
        readEnd = ends[0]
        writeEnd = ends[1]
    }

    deinit {
        close(readEnd)
        close(writeEnd)
    }

    /// To be called when there is something to look at.
    func wake() {
        if isSet.exchange(true, ordering: .acquiringAndReleasing) { return }
        var byte: UInt8 = 1
        _ = write(writeEnd, &byte, 1)
    }

    /// To be called when `readEnd` is readable, before looking.
    func clear() {
        var byte: UInt8 = 0
        _ = read(readEnd, &byte, 1)
        isSet.store(false, ordering: .sequentiallyConsistent)
    }
}
