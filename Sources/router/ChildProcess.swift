import Glibc
import OrderedJSON
import Subprocess
import Synchronization

#if canImport(System)
import System
#else
import SystemPackage
#endif

/// One process of `router up`. Its standard error goes to a log file; its standard input is a pipe that ends
/// when this process does, however it does, and with it the child.
final class ChildProcess: Sendable {
    enum Event: Sendable {
        /// It logged that it is ready; the log line's fields.
        case ready(ChildProcess, JSON)
        /// It is gone: how, in words.
        case ended(ChildProcess, String)
    }

    private struct State {
        /// From when the process runs until it has been waited for: as long as the number is its own.
        var pid: pid_t?
        /// What was to be sent before it ran.
        var pending: CInt?
        var isExpectedToEnd = false
        var hasEnded = false
        var lastLines: [String] = []
    }

    let name: String
    let logPath: String
    private let executable: String
    private let arguments: [String]
    private let environment: [Environment.Key: String?]
    private let state = Mutex(State())

    /// - Parameter environment: what differs from this process's own; nil takes a variable out.
    init(
        name: String, executable: String, arguments: [String], environment: [Environment.Key: String?],
        logDirectory: String
    ) {
        self.name = name
        self.executable = executable
        self.arguments = arguments
        self.environment = environment
        logPath = "\(logDirectory)/\(name).log"
    }

    /// It has not ended; also while it is being started.
    var isRunning: Bool { state.withLock { !$0.hasEnded } }
    /// It was told to stop.
    var isExpectedToEnd: Bool { state.withLock { $0.isExpectedToEnd } }
    /// The last messages it logged, newest last.
    var lastLines: [String] { state.withLock { $0.lastLines } }

    /// Sends a signal, if it still runs; once it runs, when it is just being started. Not started yet, it
    /// never will be.
    func send(_ signal: CInt) {
        state.withLock { state in
            state.isExpectedToEnd = true
            if let pid = state.pid { kill(pid, signal) } else { state.pending = signal }
        }
    }

    /// Starts it and follows it until it ends.
    func run(_ onEvent: @escaping @Sendable (Event) -> Void) async {
        defer { state.withLock { $0.hasEnded = true } }
        if isExpectedToEnd { return }
        guard let log = fopen(logPath, "w") else {
            return onEvent(.ended(self, "cannot write \(logPath): \(String(cString: strerror(errno)))"))
        }
        defer { fclose(log) }
        // A group of its own: an interrupt typed at the terminal is ours to pass on, in the right order.
        var options = PlatformOptions()
        options.processGroupID = 0
        do {
            let result = try await Subprocess.run(
                .path(FilePath(executable)), arguments: .init(arguments),
                environment: .inherit.updating(environment), platformOptions: options,
                input: .inputWriter, output: .discarded, error: .sequence
            ) { execution in
                started(execution.processIdentifier.value)
                for try await line in execution.standardError.strings() { follow(line, log, onEvent) }
            }
            state.withLock { $0.pid = nil }
            onEvent(.ended(self, Self.words(result.terminationStatus)))
        } catch {
            state.withLock { $0.pid = nil }
            onEvent(.ended(self, "\(error)"))
        }
    }

    private func started(_ pid: pid_t) {
        state.withLock { state in
            state.pid = pid
            if let signal = state.pending { kill(pid, signal) }
        }
    }

    private func follow(_ line: String, _ log: UnsafeMutablePointer<FILE>, _ onEvent: (Event) -> Void) {
        fputs(line.hasSuffix("\n") ? line : line + "\n", log)
        fflush(log)
        let fields = try? JSON.parse(line)
        let text = fields?["message"]?.string.map { message in
            (fields?["reason"]?.string ?? fields?["error"]?.string).map { "\(message): \($0)" } ?? message
        }
        state.withLock { state in
            state.lastLines.append(text ?? line)
            if state.lastLines.count > 5 { state.lastLines.removeFirst() }
        }
        if let fields, fields["message"]?.string == "ready" { onEvent(.ready(self, fields)) }
    }

    private static func words(_ status: TerminationStatus) -> String {
        switch status {
        case .exited(let code): code == 0 ? "ended" : "ended with status \(code)"
        case .signaled(let signal): "was ended by signal \(signal)"
        }
    }
}
