import FoundationEssentials
import Glibc
import Synchronization

/// One of our executables, running as a process of its own, its output in a file.
///
/// The process's standard input is a pipe that this object holds open: the executables are started with
/// `--stop-with-parent`, so they end when the tests do, however those end.
final class ChildProcess: Sendable {
    struct LaunchFailure: Error, CustomStringConvertible {
        let description: String
    }

    /// How a process ended.
    enum Exit: Equatable, Sendable {
        case code(Int32)
        case signal(Int32)
    }

    let name: String
    let pid: pid_t
    let logPath: String
    private let standardInput: Int32
    private let exit = Mutex<Exit?>(nil)

    /// Where the executables are: beside the tests' own.
    static let folder: String = {
        var buffer = [UInt8](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count)
        let path = String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
        return path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
    }()

    init(_ executable: String, _ arguments: [String], name: String, logPath: String) throws {
        let path = "\(Self.folder)/\(executable)"
        var pipes: [Int32] = [0, 0]
        guard pipe(&pipes) == 0 else { throw LaunchFailure(description: "pipe: errno \(errno)") }
        for descriptor in pipes { _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC) }
        var actions = posix_spawn_file_actions_t()
        posix_spawn_file_actions_init(&actions)
        defer { posix_spawn_file_actions_destroy(&actions) }
        posix_spawn_file_actions_adddup2(&actions, pipes[0], 0)
        posix_spawn_file_actions_addopen(&actions, 1, logPath, O_WRONLY | O_CREAT | O_APPEND, 0o644)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        var strings = ([path] + arguments).map { strdup($0) } + [nil]
        defer { for string in strings { free(string) } }
        var child: pid_t = 0
        let failure = posix_spawn(&child, path, &actions, nil, &strings, environ)
        close(pipes[0])
        guard failure == 0 else {
            close(pipes[1])
            throw LaunchFailure(description: "\(path): \(String(cString: strerror(failure))); is it built?")
        }
        self.name = name
        self.logPath = logPath
        pid = child
        standardInput = pipes[1]
    }

    deinit {
        if !hasExited { send(SIGKILL) }
        close(standardInput)
    }

    func send(_ signal: Int32) { kill(pid, signal) }

    /// Collects the exit if there is one by now.
    var hasExited: Bool {
        exit.withLock { exit in
            if exit != nil { return true }
            var status: Int32 = 0
            guard waitpid(pid, &status, WNOHANG) == pid else { return false }
            exit = status & 0x7f == 0 ? .code((status >> 8) & 0xff) : .signal(status & 0x7f)
            return true
        }
    }

    /// The exit, or nil if the process still runs after `limit`.
    func waitForExit(_ limit: Duration) async -> Exit? {
        let deadline = ContinuousClock.now + limit
        while !hasExited {
            if ContinuousClock.now > deadline { return nil }
            try? await Task.sleep(for: .milliseconds(5))
        }
        return exit.withLock { $0 }
    }

    /// Asks the process to end as an operator would; kills it if it does not.
    func stop() async {
        if hasExited { return }
        send(SIGTERM)
        if await waitForExit(.seconds(15)) == nil {
            send(SIGKILL)
            _ = await waitForExit(.seconds(5))
        }
    }

    var log: String {
        FileManager.default.contents(atPath: logPath).map { String(decoding: $0, as: UTF8.self) } ?? ""
    }

    /// Resident memory in bytes; 0 when the process is gone.
    var residentBytes: Int {
        guard let data = FileManager.default.contents(atPath: "/proc/\(pid)/statm") else { return 0 }
        let fields = String(decoding: data, as: UTF8.self).split(separator: " ")
        return fields.count > 1 ? (Int(fields[1]) ?? 0) * Int(sysconf(Int32(_SC_PAGESIZE))) : 0
    }

    /// Open file descriptors; 0 when the process is gone.
    var openFiles: Int {
        (try? FileManager.default.contentsOfDirectory(atPath: "/proc/\(pid)/fd"))?.count ?? 0
    }
}

private let givenPorts = Mutex<Set<UInt16>>([])

/// A TCP port of the loopback address that was free a moment ago, never the same twice. Below those that the kernel gives
/// out itself, or somebody who asks for any port could have it before its owner does.
func freePort() throws -> Int {
    for _ in 0..<100 {
        let port = UInt16.random(in: 10_000..<32_768)
        guard givenPorts.withLock({ $0.insert(port).inserted }) else { continue }
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_addr.s_addr = UInt32(0x7f00_0001).bigEndian
        address.sin_port = port.bigEndian
        let isFree = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
            }
        }
        if isFree { return Int(port) }
    }
    throw ChildProcess.LaunchFailure(description: "no free port: errno \(errno)")
}
