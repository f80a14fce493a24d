import Glibc
import Simulation

/// Seeds that one process runs. A trap in a state machine ends that process alone, and is put down to its seed.
struct Slice {
    var seeds: Range<UInt64>
    let arguments: [String]
}

enum Slices {
    static let trapped = "a state machine trapped"

    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private struct Running {
        let slice: Slice
        let process: pid_t
        let output: Int32
        var text: [UInt8] = []
    }

    /// Runs all slices, some at a time. `onEnd` hears of each as it ends.
    static func run(
        _ slices: [Slice], jobs: Int, continuesAfterTraps: Bool = true, onEnd: (Slice, Report) -> Void = { _, _ in }
    ) throws -> Report {
        var pending = Array(slices.reversed())
        var running: [Running] = []
        var whole = Report()
        while !pending.isEmpty || !running.isEmpty {
            while running.count < jobs, let slice = pending.popLast() { running.append(try start(slice)) }
            var polled = running.map { pollfd(fd: $0.output, events: Int16(POLLIN), revents: 0) }
            guard poll(&polled, nfds_t(polled.count), -1) >= 0 || errno == EINTR else {
                throw Failure(description: "waiting for slices failed: error \(errno)")
            }
            for index in running.indices.reversed() where polled[index].revents != 0 {
                guard !read(&running[index]) else { continue }
                let ended = running.remove(at: index)
                var report = Report()
                for line in String(decoding: ended.text, as: UTF8.self).split(separator: "\n") { report.read(line) }
                if let seed = try wait(for: ended, report) {
                    report.add(Report.Failure(seed: seed, violation: trapped))
                    var rest = ended.slice
                    rest.seeds = seed + 1..<ended.slice.seeds.upperBound
                    if continuesAfterTraps, !rest.seeds.isEmpty { pending.append(rest) }
                    // What it had done before is lost with it.
                    var before = ended.slice
                    before.seeds = ended.slice.seeds.lowerBound..<seed
                    if continuesAfterTraps, !before.seeds.isEmpty { pending.append(before) }
                }
                whole.add(report)
                onEnd(ended.slice, report)
            }
        }
        return whole
    }

    /// Whether a run of this seed ends its process.
    static func traps(_ seed: UInt64, _ arguments: [String]) -> Bool {
        let slice = Slice(seeds: seed..<seed + 1, arguments: arguments)
        let report = try? run([slice], jobs: 1, continuesAfterTraps: false)
        return report?.failures.contains { $0.violation == trapped } ?? false
    }

    /// Says something to the process that started this slice, at once: what is buffered is lost in a trap.
    static func tell(_ line: String) {
        let bytes = Array((line + "\n").utf8)
        var sent = 0
        while sent < bytes.count {
            let count = bytes[sent...].withUnsafeBytes { write(STDOUT_FILENO, $0.baseAddress, $0.count) }
            if count < 0 && errno != EINTR { return }
            sent += max(0, count)
        }
    }

    /// Reads what there is; false at the end.
    private static func read(_ running: inout Running) -> Bool {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = Glibc.read(running.output, &bytes, bytes.count)
        if count < 0 && errno == EINTR { return true }
        guard count > 0 else { return false }
        running.text += bytes[..<count]
        return true
    }

    /// Nil when the process ended as it should, else the seed it was at.
    private static func wait(for ended: Running, _ report: Report) throws -> UInt64? {
        close(ended.output)
        var status: Int32 = 0
        while waitpid(ended.process, &status, 0) < 0 && errno == EINTR {}
        if status == 0 { return nil }
        guard let seed = report.running else {
            throw Failure(description: "a slice ended with status \(status) before its first seed")
        }
        return seed
    }

    private static func start(_ slice: Slice) throws -> Running {
        var ends: [Int32] = [0, 0]
        guard pipe(&ends) == 0 else { throw Failure(description: "no pipe: error \(errno)") }
        for end in ends { _ = fcntl(end, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO)
        // A trap writes a backtrace; the parent says what there is to say.
        posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0)
        let seeds = "\(slice.seeds.lowerBound)..<\(slice.seeds.upperBound)"
        let arguments = ["simulate", "--slice", "--seeds", seeds] + slice.arguments
        var list: [UnsafeMutablePointer<CChar>?] = arguments.map { strdup($0) } + [nil]
        defer { for argument in list { free(argument) } }
        var environment: [UnsafeMutablePointer<CChar>?] = [strdup("SWIFT_BACKTRACE=enable=no"), nil]
        defer { for entry in environment { free(entry) } }
        var process: pid_t = 0
        let code = posix_spawn(&process, "/proc/self/exe", &actions, nil, &list, &environment)
        close(ends[1])
        guard code == 0 else {
            close(ends[0])
            throw Failure(description: "a slice could not be started: error \(code)")
        }
        return Running(slice: slice, process: process, output: ends[0])
    }
}
