import Glibc
import Logging
import Messages
import Synchronization
import Testing
import Threads

@testable import ControlPlane

/// A port whose connections nobody accepts or answers, as of a machine that hangs.
@Suite struct AttachTimeoutTests {
    @Test(.timeLimit(.minutes(1))) func aRouterThatNeverAnswersIsTriedAgain() async throws {
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        try #require(descriptor >= 0 && listen(descriptor, 64) == 0)
        defer { close(descriptor) }
        var address = sockaddr_in()
        var length = socklen_t(MemoryLayout<sockaddr_in>.size)
        let named = withUnsafeMutablePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        try #require(named == 0)
        let port = Int(UInt16(bigEndian: address.sin_port))

        var configuration = ControlClient.Configuration(
            router: HostPort(host: "127.0.0.1", port: port), registration: .sample())
        configuration.attachTimeout = .milliseconds(100)
        configuration.backoff = Backoff(initial: .milliseconds(10), limit: .milliseconds(20))
        let client = ControlClient(
            configuration: configuration, logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() },
            load: { NodeLoad() }, onEvent: { _ in Issue.record("an event without a router") })
        let task = Task { try await client.run() }
        // Each attempt leaves one connection in the backlog.
        let attempts = Task.detached {
            for _ in 0..<3 {
                let connection = accept(descriptor, nil, nil)
                if connection >= 0 { close(connection) }
            }
        }
        await attempts.value
        client.stop()
        task.cancel()
        try await task.value
    }
}
