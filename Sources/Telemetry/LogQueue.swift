import Glibc
import Threads

/// Log lines on their way to a descriptor, which may be a pipe that nobody reads: whoever logs never waits for it.
///
/// Lines go into a bounded queue, and one thread of its own writes them. What finds no room is dropped and counted, and
/// a line says so as soon as there is room again. The descriptor's flags are left alone: others share it.
package final class LogQueue: Sendable {
    /// Of this process.
    package static let standardError = LogQueue(descriptor: STDERR_FILENO)

    package static let linesMax = 4096
    package static let bytesMax = 1 << 20

    private struct State: Sendable {
        var lines = BoundedLines(linesMax: LogQueue.linesMax, bytesMax: LogQueue.bytesMax)
        var isStarted = false
        /// The thread is writing what it took.
        var isWriting = false
    }

    private let descriptor: Int32
    private let state = Monitor(State())

    /// - Parameter descriptor: stays the caller's, and open for as long as anything is logged.
    package init(descriptor: Int32) { self.descriptor = descriptor }

    /// Lines that were dropped since the start.
    package var dropped: Int { state.withLock { $0.lines.droppedTotal } }

    /// Takes a line, its end included. Never waits.
    /// - Parameter notice: the line that tells of this many dropped ones.
    package func append(_ line: String, notice: (Int) -> String) {
        let mustStart = state.update { state in
            state.lines.append(line, notice: notice)
            defer { state.isStarted = true }
            return !state.isStarted
        }
        guard mustStart else { return }
        do throws(ThreadError) {
            try OwnThread.detach("log") { [self] in writeAll() }
        } catch {
            // The next line tries again.
            state.update { $0.isStarted = false }
        }
    }

    /// Waits until all that was logged has been written. False when that took longer than `limit`.
    @discardableResult
    package func flush(within limit: Duration) -> Bool {
        let isIdle: (inout State) -> Bool? = { $0.lines.isEmpty && !$0.isWriting || !$0.isStarted ? true : nil }
        return state.wait(until: .after(limit), isIdle) ?? false
    }

    private func writeAll() {
        var taken: [String] = []
        while true {
            let more = state.wait(until: nil) { state -> [String]? in
                guard !state.lines.isEmpty else { return nil }
                state.isWriting = true
                return state.lines.take()
            }
            taken = more ?? []
            for line in taken { write(line) }
            state.update { $0.isWriting = false }
        }
    }

    /// With one `write` where the kernel takes it whole, so that lines of several processes do not mix.
    private func write(_ line: String) {
        var line = line
        line.withUTF8 { bytes in
            var rest = UnsafeRawBufferPointer(bytes)
            while !rest.isEmpty {
                let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
                if count > 0 {
                    rest = UnsafeRawBufferPointer(rebasing: rest[count...])
                } else if errno == EAGAIN {
                    // Somebody who shares it made it so that it does not wait: then this thread waits.
                    var entry = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
                    poll(&entry, 1, 1000)
                } else if errno != EINTR {
                    // Nobody can read the log (any more): there is no place left to report that.
                    return
                }
            }
        }
    }
}

/// Lines in order, within bounds of number and bytes. Pure.
struct BoundedLines: Sendable {
    private let linesMax: Int
    private let bytesMax: Int
    private var lines: [String] = []
    private var bytes = 0
    /// Dropped, and not yet told of.
    private var untold = 0
    private(set) var droppedTotal = 0

    init(linesMax: Int, bytesMax: Int) {
        self.linesMax = linesMax
        self.bytesMax = bytesMax
    }

    var isEmpty: Bool { lines.isEmpty }
    var count: Int { lines.count }

    /// The newest line is the one that is dropped: the oldest ones say how it began.
    mutating func append(_ line: String, notice: (Int) -> String) {
        if untold > 0 {
            let told = notice(untold)
            guard fits(told.utf8.count + line.utf8.count, lines: 2) else { return drop() }
            untold = 0
            add(told)
        }
        guard fits(line.utf8.count, lines: 1) else { return drop() }
        add(line)
    }

    /// All of them.
    mutating func take() -> [String] {
        defer {
            lines = []
            bytes = 0
        }
        return lines
    }

    private func fits(_ more: Int, lines count: Int) -> Bool {
        lines.count + count <= linesMax && bytes + more <= bytesMax
    }

    private mutating func add(_ line: String) {
        lines.append(line)
        bytes += line.utf8.count
    }

    private mutating func drop() {
        untold += 1
        droppedTotal += 1
    }
}
