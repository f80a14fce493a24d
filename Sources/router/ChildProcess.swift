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
        var pid: pid_t?
        var isExpectedToEnd = false
        var lastLines: [String] = []
    }

    let name: String
    let logPath: String
    private let executable: String
    private let arguments: [String]
    private let state = Mutex(State())

    init(name: String, executable: String, arguments: [String], logDirectory: String) {
        self.name = name
        self.executable = executable
        self.arguments = arguments
        logPath = "\(logDirectory)/\(name).log"
    }

    var isRunning: Bool { state.withLock { $0.pid != nil } }
    /// It was told to stop.
    var isExpectedToEnd: Bool { state.withLock { $0.isExpectedToEnd } }
    /// The last messages it logged, newest last.
    var lastLines: [String] { state.withLock { $0.lastLines } }

    /// Sends a signal, if it still runs.
    func send(_ signal: CInt) {
        state.withLock { state in
            state.isExpectedToEnd = true
            if let pid = state.pid { kill(pid, signal) }
        }
    }

    /// Starts it and follows it until it ends.
    func run(_ onEvent: @escaping @Sendable (Event) -> Void) async {
        guard let log = fopen(logPath, "w") else {
            return onEvent(.ended(self, "cannot write \(logPath): \(String(cString: strerror(errno)))"))
        }
        defer { fclose(log) }
        // A group of its own: an interrupt typed at the terminal is ours to pass on, in the right order.
        var options = PlatformOptions()
        options.processGroupID = 0
        do {
            let result = try await Subprocess.run(
                .path(FilePath(executable)), arguments: .init(arguments), platformOptions: options,
                input: .inputWriter, output: .discarded, error: .sequence
            ) { execution in
                state.withLock { $0.pid = execution.processIdentifier.value }
                for try await line in execution.standardError.strings() { follow(line, log, onEvent) }
                // The pipe ended, so the process is ending: from here its number may come to name another.
                state.withLock { $0.pid = nil }
            }
            onEvent(.ended(self, Self.words(result.terminationStatus)))
        } catch {
            state.withLock { $0.pid = nil }
            onEvent(.ended(self, "\(error)"))
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
