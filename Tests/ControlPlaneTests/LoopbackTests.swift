import Cores
import GRPCCore
import GRPCNIOTransportHTTP2
import Glibc
import Handoff
import Logging
import Messages
import SeededRandom
import SwiftProtobuf
import Synchronization
import Testing
import Threads

@testable import ControlPlane

/// Server and client over real gRPC on loopback.
@Suite(.serialized) struct LoopbackTests {
    @Test func registersTalksAndLeaves() async throws {
        try await withRouter { router in
            let node = TestNode(port: router.server.port, registration: .sample())
            let task = node.start()
            let attached = try await router.joined("decode-1")
            #expect(attached.registration == .sample())
            try await eventually { node.client.router == Incarnation(77) }
            // Router to node.
            #expect(attached.send(.listHandoffs))
            try await eventually { node.received.contains(.listHandoffs) }
            // Node to router, in order.
            for index in 0..<500 {
                node.client.send(.drained(handoff(UInt64(index)), posted: 1, completed: 1))
            }
            try await eventually { router.messages.count >= 500 }
            let drains = router.messages.compactMap { message -> UInt64? in
                if case .drained(let handoff, _, _) = message { handoff.request } else { nil }
            }
            #expect(drains == Array(0..<500))
            try await eventually { attached.load?.running == 3 }
            node.client.send(.draining)
            try await eventually { attached.isDraining }
            node.client.stop()
            try await task.value
            try await eventually { router.leaves == [.disconnected] }
            #expect(router.server.nodes.isEmpty)
            #expect(!attached.send(.drain))
            #expect(node.events.filter { $0 == "lost" }.count == 1)
        }
    }

    @Test func aBadReservationIsRefusedAndTheStreamLives() async throws {
        try await withRouter { router in
            let node = TestNode(port: router.server.port, registration: .sample())
            let task = node.start()
            let attached = try await router.joined("decode-1")
            let empty = Reservation(
                handoff: handoff(7), shares: [Share(writer: Incarnation(3))], tokens: [], delivered: 0,
                sampling: SamplingTerms())
            #expect(attached.send(.reserve(empty)))
            #expect(attached.send(.listHandoffs))
            let reason = ControlError.invalid(field: "reserve.tokens", reason: "is empty").description
            try await eventually {
                router.messages == [.refused(Refusal(handoff: handoff(7), reason: .invalid, message: reason))]
            }
            try await eventually { node.received == [.listHandoffs] }
            #expect(node.events == ["attached"])
            node.client.stop()
            try await task.value
        }
    }

    @Test func nothingOvertakesTheWelcome() async throws {
        try await withRouter { router in
            for index in 0..<30 {
                let name = "node-\(index)"
                let node = TestNode(
                    port: router.server.port, registration: .sample(name, incarnation: UInt64(index + 1)))
                let task = node.start()
                while true {
                    if let attached = router.server.node(named: name) {
                        attached.send(.listHandoffs)
                        break
                    }
                    await Task.yield()
                }
                try await eventually { node.received == [.listHandoffs] }
                #expect(node.events == ["attached"])
                node.client.stop()
                try await task.value
            }
        }
    }

    @Test func refusesWhatThePolicyRefuses() async throws {
        let ours = Registration.sample().compatibility
        try await withRouter(admit: { new, _ in new.compatibility.difference(from: ours) }) { router in
            let node = TestNode(port: router.server.port, registration: .sample(fingerprint: "other"))
            let task = node.start()
            await #expect(throws: ControlError.self) { try await task.value }
            #expect(node.refusals == ["model fingerprint is other, not abc"])
            #expect(router.server.nodes.isEmpty)
        }
    }

    @Test func aNewcomerWaitsForTheNameOfALivingNode() async throws {
        try await withRouter { router in
            let old = TestNode(port: router.server.port, registration: .sample(incarnation: 1))
            let oldTask = old.start()
            _ = try await router.joined("decode-1")
            let new = TestNode(port: router.server.port, registration: .sample(incarnation: 2))
            let newTask = new.start()
            try await eventually { new.refusals.count >= 2 }
            #expect(new.refusals.allSatisfy { $0.contains("belongs to a node that was heard from") })
            #expect(router.server.nodes.map(\.incarnation) == [Incarnation(1)])
            #expect(router.leaves.isEmpty)
            // The old one ends, and the new one gets in by itself.
            old.client.stop()
            try await oldTask.value
            try await eventually { router.server.node(named: "decode-1")?.incarnation == Incarnation(2) }
            // The old process comes back and is told to stop.
            let back = TestNode(port: router.server.port, registration: .sample(incarnation: 1))
            new.client.stop()
            try await newTask.value
            await #expect(throws: ControlError.self) { try await back.start().value }
        }
    }

    @Test func aNodeThatOneRouterRefusesGoesOn() async throws {
        try await withRouter(admit: { _, _ in "model fingerprint is other, not abc" }) { router in
            let node = TestNode(port: router.server.port, registration: .sample(), endsAfterRefusal: { _ in false })
            let task = node.start()
            try await eventually { node.refusals.count >= 2 }
            node.client.stop()
            try await task.value
        }
    }

    @Test func everyAddressOfANameIsTried() async throws {
        try await withRouter { router in
            // A port that takes connections and never answers, then the router.
            let mute = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
            defer { close(mute) }
            let mutePort = try freePort()
            var place = address(mutePort)
            let status = withUnsafePointer(to: &place) { pointer in
                pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                    bind(mute, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
                }
            }
            try #require(status == 0 && listen(mute, 64) == 0)
            let port = router.server.port
            let node = TestNode(
                port: 1, registration: .sample(),
                resolve: { _ in [HostPort(host: "127.0.0.1", port: mutePort), HostPort(host: "127.0.0.1", port: port)] }
            )
            let task = node.start()
            _ = try await router.joined("decode-1")
            node.client.stop()
            try await task.value
        }
    }

    @Test func silentNodeLosesItsLease() async throws {
        try await withRouter(lease: .milliseconds(300)) { router in
            // A node that registers and then says nothing.
            try await withRawClient(port: router.server.port) { client in
                try await client.attach(
                    requestProducer: { writer in
                        try await writer.write(.with { $0.register = Registration.sample().wire })
                        try await Task.sleep(for: .seconds(20))
                    },
                    onResponse: { response in
                        _ = await #expect(throws: RPCError.self) { for try await _ in response.messages {} }
                    })
            }
            #expect(router.leaves == [.leaseExpired])
            #expect(router.server.nodes.isEmpty)
        }
    }

    /// The node is told, in one sentence with both versions, before the stream ends.
    @Test func refusesANodeOfAnotherVersion() async throws {
        try await withRouter { router in
            try await withRawClient(port: router.server.port) { client in
                let answers = Mutex<[Baton_Control_V1_FromRouter]>([])
                try await client.attach(
                    requestProducer: { writer in
                        var register = Registration.sample().wire
                        register.protocolVersion = 1
                        try await writer.write(.with { $0.register = register })
                        try await Task.sleep(for: .seconds(20))
                    },
                    onResponse: { response in
                        do {
                            for try await message in response.messages { answers.withLock { $0.append(message) } }
                        } catch {}
                    })
                let told = answers.withLock { $0 }
                let message = "the node speaks version 1 of the control protocol, this router version 2: "
                #expect(told.map(\.rejected.message) == [message + "run the same release of both"])
                #expect(told.map(\.rejected.permanent) == [false])
            }
            #expect(router.server.nodes.isEmpty)
        }
    }

    @Test func reattachesToARestartedRouter() async throws {
        let port = try freePort()
        let node = TestNode(port: port, registration: .sample())
        let task = node.start()
        for incarnation in 1...3 as ClosedRange<UInt64> {
            try await withRouter(port: port, incarnation: incarnation) { router in
                _ = try await router.joined("decode-1")
                try await eventually { node.client.router == Incarnation(incarnation) }
            }
        }
        try await eventually { node.events.filter { $0 == "lost" }.count == 3 }
        node.client.stop()
        try await task.value
        #expect(node.events.filter { $0 == "attached" }.count == 3)
    }

    @Test func wrongMessagesEndTheStreamOnly() async throws {
        try await withRouter { router in
            let good = TestNode(port: router.server.port, registration: .sample("good"))
            let task = good.start()
            _ = try await router.joined("good")
            let wrong: [Baton_Control_V1_FromNode] = [
                .with { $0.heartbeat = .init() },  // before Register
                .with { $0.register = .init() },
                .init(),
                .with { $0.register.model = String(repeating: "x", count: 17 << 20) },  // above the size limit
            ]
            for message in wrong {
                await #expect(throws: (any Error).self) { try await attachRaw(router.server.port, [message]) }
            }
            // After a good Register.
            let register = Baton_Control_V1_FromNode.with { $0.register = Registration.sample("bad").wire }
            let badGrant = Baton_Control_V1_FromNode.with { $0.granted = .init() }
            await #expect(throws: (any Error).self) { try await attachRaw(router.server.port, [register, badGrant]) }
            try await eventually { router.leaves.count == 1 }
            guard case .protocolError(let text)? = router.leaves.first else {
                Issue.record("left for \(router.leaves)")
                return
            }
            #expect(text.contains("granted.handoff"))
            #expect(router.server.nodes.map(\.name) == ["good"])
            good.client.stop()
            try await task.value
        }
    }

    @Test func garbageOnThePortDoesNoHarm() async throws {
        try await withRouter { router in
            var random = SplitMix64(state: 1)
            for length in [0, 1, 24, 4096] {
                let bytes = (0..<length).map { _ in UInt8(truncatingIfNeeded: random.next()) }
                try sendRaw(port: router.server.port, bytes)
            }
            try sendRaw(port: router.server.port, Array("GET / HTTP/1.1\r\n\r\n".utf8))
            try sendRaw(
                port: router.server.port, Array("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".utf8) + [255, 255, 255, 4, 0])
            let node = TestNode(port: router.server.port, registration: .sample())
            let task = node.start()
            _ = try await router.joined("decode-1")
            node.client.stop()
            try await task.value
        }
    }

    @Test func portInUseIsAClearError() throws {
        let first = try ControlServer(
            configuration: .init(host: "127.0.0.1", port: 0, router: Incarnation(1)), logger: quiet, onEvent: { _ in })
        do {
            _ = try ControlServer(
                configuration: .init(host: "127.0.0.1", port: first.port, router: Incarnation(1)), logger: quiet,
                onEvent: { _ in })
            Issue.record("the port was given twice")
        } catch {
            #expect("\(error)" == "cannot listen on 127.0.0.1:\(first.port): Address already in use")
        }
    }
}

// MARK: Both ends

private let quiet = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

private func handoff(_ request: UInt64) -> HandoffID {
    HandoffID(router: Incarnation(77), request: request, attempt: 1)
}

private struct TimedOut: Error {}

private func eventually(_ condition: @Sendable () -> Bool) async throws {
    let deadline = ContinuousClock.now + .seconds(20)
    while !condition() {
        guard ContinuousClock.now < deadline else { throw TimedOut() }
        try await Task.sleep(for: .milliseconds(5))
    }
}

private final class TestRouter: Sendable {
    let server: ControlServer
    private let log: EventLog

    final class EventLog: Sendable {
        let messages = Mutex<[NodeMessage]>([])
        let leaves = Mutex<[LeaveReason]>([])
    }

    init(
        port: Int, incarnation: UInt64, lease: Duration,
        admit: @escaping @Sendable (Registration, [Registration]) -> String?
    ) throws {
        let log = EventLog()
        self.log = log
        server = try ControlServer(
            configuration: .init(
                host: "127.0.0.1", port: port, router: Incarnation(incarnation), heartbeat: .milliseconds(50),
                lease: lease),
            logger: quiet, admit: admit
        ) { event in
            switch event {
            case .joined: break
            case .message(_, .heartbeat): break
            case .message(_, let message): log.messages.withLock { $0.append(message) }
            case .left(_, let reason): log.leaves.withLock { $0.append(reason) }
            }
        }
    }

    var messages: [NodeMessage] { log.messages.withLock { $0 } }
    var leaves: [LeaveReason] { log.leaves.withLock { $0 } }

    func joined(_ name: String) async throws -> AttachedNode {
        try await eventually { self.server.node(named: name) != nil }
        return try #require(server.node(named: name))
    }
}

private func withRouter(
    port: Int = 0, incarnation: UInt64 = 77, lease: Duration = .seconds(5),
    admit: @escaping @Sendable (Registration, [Registration]) -> String? = { _, _ in nil },
    _ body: @Sendable (TestRouter) async throws -> Void
) async throws {
    let router = try TestRouter(port: port, incarnation: incarnation, lease: lease, admit: admit)
    let task = Task { try await router.server.run() }
    do {
        try await body(router)
    } catch {
        router.server.stop()
        _ = try? await task.value
        throw error
    }
    router.server.stop()
    try await task.value
}

private final class TestNode: Sendable {
    let client: ControlClient
    private let log: EventLog

    final class EventLog: Sendable {
        let events = Mutex<[String]>([])
        let received = Mutex<[RouterMessage]>([])
        let refusals = Mutex<[String]>([])
    }

    init(
        port: Int, registration: Registration, resolve: (@Sendable (HostPort) async -> [HostPort])? = nil,
        endsAfterRefusal: @escaping @Sendable (Bool) -> Bool = { $0 }
    ) {
        let log = EventLog()
        self.log = log
        var configuration = ControlClient.Configuration(
            router: HostPort(host: "127.0.0.1", port: port), registration: registration)
        configuration.backoff = Backoff(initial: .milliseconds(20), limit: .milliseconds(100))
        configuration.refusalPause = .milliseconds(20)
        if let resolve {
            configuration.resolve = resolve
            configuration.attachTimeout = .milliseconds(500)
        }
        client = ControlClient(
            configuration: configuration, logger: quiet,
            load: {
                var load = NodeLoad()
                load.running = 3
                return load
            },
            endsAfterRefusal: endsAfterRefusal,
            onEvent: { event in
                switch event {
                case .attached: log.events.withLock { $0.append("attached") }
                case .lost: log.events.withLock { $0.append("lost") }
                case .message(let message, _): log.received.withLock { $0.append(message) }
                case .refused(let message, _): log.refusals.withLock { $0.append(message) }
                }
            })
    }

    var events: [String] { log.events.withLock { $0 } }
    var received: [RouterMessage] { log.received.withLock { $0 } }
    var refusals: [String] { log.refusals.withLock { $0 } }

    func start() -> Task<Void, any Error> {
        Task { try await self.client.run() }
    }
}

private typealias RawClient = Baton_Control_V1_Control.Client<HTTP2ClientTransport.Posix>

private func withRawClient(port: Int, _ body: @Sendable (RawClient) async throws -> Void) async throws {
    let transport = try HTTP2ClientTransport.Posix(
        target: .ipv4(address: "127.0.0.1", port: port), transportSecurity: .plaintext)
    try await withGRPCClient(transport: transport) { client in
        try await body(Baton_Control_V1_Control.Client(wrapping: client))
    }
}

/// Sends messages, then reads until the server ends the stream; throws what it ended it with.
private func attachRaw(_ port: Int, _ messages: [Baton_Control_V1_FromNode]) async throws {
    try await withRawClient(port: port) { client in
        var options = CallOptions.defaults
        options.maxRequestMessageBytes = 64 << 20
        try await client.attach(
            options: options,
            requestProducer: { writer in
                try await writer.write(contentsOf: messages)
                try await Task.sleep(for: .seconds(20))
            },
            onResponse: { response in for try await _ in response.messages {} })
    }
}

private func address(_ port: Int) -> sockaddr_in {
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = in_port_t(UInt16(port)).bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return address
}

private func sendRaw(port: Int, _ bytes: [UInt8]) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    try #require(descriptor >= 0)
    defer { close(descriptor) }
    let status = withUnsafePointer(to: address(port)) { pointer in
        pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
        }
    }
    try #require(status == 0)
    _ = send(descriptor, bytes, bytes.count, Int32(MSG_NOSIGNAL))
}

/// A port that was free a moment ago, below those that the kernel gives to whoever asks for any.
private func freePort() throws -> Int {
    for _ in 0..<100 {
        let port = Int.random(in: 10_000..<32_768)
        let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { close(descriptor) }
        var place = address(port)
        let status = withUnsafePointer(to: &place) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        if status == 0 { return port }
    }
    return try #require(nil, "no free port")
}
