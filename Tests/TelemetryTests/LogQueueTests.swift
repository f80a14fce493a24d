import Glibc
import Logging
import Testing
import Threads

@testable import Telemetry

@Suite struct LogQueueTests {
    /// A pipe; both ends are closed with it.
    private final class Pipe {
        let reading: Int32
        let writing: Int32

        init() {
            var ends: [Int32] = [0, 0]
            precondition(pipe(&ends) == 0)
            (reading, writing) = (ends[0], ends[1])
        }

        /// Everything up to and including a line with this text.
        func read(until text: String) -> String {
            var got = ""
            var buffer = [UInt8](repeating: 0, count: 65536)
            while !got.contains(text) || !got.hasSuffix("\n") {
                let count = Glibc.read(reading, &buffer, buffer.count)
                if count <= 0 { break }
                got += String(decoding: buffer[..<count], as: UTF8.self)
            }
            return got
        }

        deinit {
            close(reading)
            close(writing)
        }
    }

    @Test func aPipeThatNobodyReadsStopsNobody() {
        let pipe = Pipe()
        let queue = LogQueue(descriptor: pipe.writing)
        let logger = Logger(label: "test") { LineLogHandler(label: $0, format: .text, level: .info, queue: queue) }
        // Far more than the pipe and the queue hold. It returns, which is what this test is about.
        for line in 0..<20_000 { logger.info("line \(line) of a log that nobody reads, with some text to fill it") }
        #expect(queue.dropped > 0)
        #expect(!queue.flush(within: .milliseconds(10)))
        // Somebody reads at last. What was taken comes whole and in order.
        let first = pipe.read(until: "line 100 ")
        let numbers = first.split(separator: "\n").compactMap { $0.split(separator: " ").dropFirst(4).first }
        #expect(numbers.prefix(100).elementsEqual((0..<100).map { "\($0)" }))
        let reader = pipe.reading
        let drained = Monitor("")
        let thread = try? OwnThread("reader") {
            var buffer = [UInt8](repeating: 0, count: 65536)
            while true {
                let count = Glibc.read(reader, &buffer, buffer.count)
                if count <= 0 { return }
                let text = String(decoding: buffer[..<count], as: UTF8.self)
                drained.update { $0 += text }
                if drained.withLock({ $0.contains("the end\n") }) { return }
            }
        }
        #expect(queue.flush(within: .seconds(60)))
        let dropped = queue.dropped
        logger.info("the end")
        thread?.join()
        let rest = drained.withLock { $0 }
        #expect(rest.contains("log lines were dropped: nobody read them fast enough dropped=\(dropped)\n"))
        #expect(rest.hasSuffix("the end\n"))
    }

    @Test func boundsHoldByLinesAndByBytes() {
        var lines = BoundedLines(linesMax: 3, bytesMax: 10)
        for text in ["12345", "1234", "12", "1"] { lines.append(text) { _ in "!" } }
        #expect(lines.take() == ["12345", "1234"])
        #expect(lines.droppedTotal == 2)
        lines.append("next") { "\($0)" }
        #expect(lines.take() == ["2", "next"])
    }

    @Test func aClosedPipeIsNoWait() {
        signal(SIGPIPE, SIG_IGN)
        var ends: [Int32] = [0, 0]
        precondition(pipe(&ends) == 0)
        close(ends[0])
        let queue = LogQueue(descriptor: ends[1])
        queue.append("line\n") { _ in "" }
        #expect(queue.flush(within: .seconds(60)))
        close(ends[1])
    }
}
