import Handoff
import Messages
import SeededRandom
import Testing

@testable import Cores

extension Registration {
    static func sample(
        _ name: String = "decode-1", role: NodeRole = .decode, incarnation: UInt64 = 1, fingerprint: String = "abc"
    ) -> Registration {
        Registration(
            name: name, role: role, incarnation: Incarnation(incarnation),
            compatibility: ModelCompatibility(
                fingerprint: fingerprint, pageLayout: "llama/2x(k2x8,v2x8)/16", kvType: "f16", isaClass: "x86",
                pageTokens: 16, pageBytes: 4096),
            model: "tiny", laneAddress: role == .decode ? "127.0.0.1:9000" : "", slots: 64, contextLimit: 512,
            maxRunning: 8, version: "0.1.0", lanesPerPeer: 4)
    }
}

@Suite struct RegistryTests {
    let lease = Duration.seconds(3)

    @Test func joinsAndLeaves() {
        var registry = Registry(lease: lease)
        #expect(registry.opened(1, now: .zero) == [])
        #expect(registry.register(1, .sample(), refusal: nil, now: .zero) == [.admit(1)])
        #expect(registry.attached.map(\.name) == ["decode-1"])
        #expect(registry.ended(1, .disconnected) == [.expel(1, .disconnected)])
        #expect(registry.ended(1, .disconnected) == [])
        #expect(registry.attached.isEmpty)
    }

    @Test func aLivingNodesNameCannotBeTaken() {
        var registry = Registry(lease: lease)
        _ = registry.opened(1, now: .zero)
        _ = registry.register(1, .sample(incarnation: 1), refusal: nil, now: .zero)
        for session in 2...5 as ClosedRange<UInt64> {
            _ = registry.opened(session, now: .seconds(2))
            let actions = registry.register(
                session, .sample(incarnation: session), refusal: nil, now: .seconds(2))
            guard case .reject(session, let message, isPermanent: false)? = actions.first, actions.count == 1 else {
                Issue.record("the newcomer got \(actions)")
                return
            }
            #expect(message.contains(Incarnation(1).text) && message.contains("--name"))
        }
        #expect(registry.heard(1, now: .seconds(2)) == true)
        #expect(registry.attached.map(\.incarnation) == [Incarnation(1)])
        // As soon as its stream has ended, the next one gets in.
        _ = registry.ended(1, .disconnected)
        _ = registry.opened(6, now: .seconds(2))
        #expect(registry.register(6, .sample(incarnation: 6), refusal: nil, now: .seconds(2)) == [.admit(6)])
    }

    @Test func whoTakesANameOverHasItForGood() {
        var registry = Registry(lease: lease)
        _ = registry.opened(1, now: .zero)
        _ = registry.register(1, .sample(incarnation: 1), refusal: nil, now: .zero)
        #expect(registry.tick(now: lease + .seconds(1)) == [.expel(1, .leaseExpired)])
        let later = lease + .seconds(2)
        _ = registry.opened(2, now: later)
        #expect(registry.register(2, .sample(incarnation: 2), refusal: nil, now: later) == [.admit(2)])
        #expect(registry.heard(1, now: later) == false)
        // The old process wakes up and tries again; also when the new one has gone.
        _ = registry.ended(2, .disconnected)
        _ = registry.opened(3, now: later)
        guard
            case .reject(3, _, isPermanent: true)? = registry.register(
                3, .sample(incarnation: 1), refusal: nil, now: later
            ).first
        else {
            Issue.record("the replaced incarnation was not refused")
            return
        }
        // One that comes back to its own name is welcome.
        _ = registry.opened(4, now: later)
        #expect(registry.register(4, .sample(incarnation: 2), refusal: nil, now: later) == [.admit(4)])
    }

    @Test func sameIncarnationReattaches() {
        var registry = Registry(lease: lease)
        _ = registry.opened(1, now: .zero)
        _ = registry.register(1, .sample(), refusal: nil, now: .zero)
        _ = registry.opened(2, now: .zero)
        let actions = registry.register(2, .sample(), refusal: nil, now: .zero)
        #expect(actions == [.expel(1, .replaced(by: Incarnation(1))), .admit(2)])
        // It is not banned by its own reattachment.
        #expect(registry.ended(2, .disconnected) == [.expel(2, .disconnected)])
        _ = registry.opened(3, now: .zero)
        #expect(registry.register(3, .sample(), refusal: nil, now: .zero) == [.admit(3)])
    }

    @Test func leaseExpiresWithoutMessages() {
        var registry = Registry(lease: lease)
        _ = registry.opened(1, now: .zero)
        _ = registry.opened(2, now: .seconds(1))
        _ = registry.register(1, .sample(), refusal: nil, now: .zero)
        #expect(registry.tick(now: .seconds(3)) == [])
        #expect(registry.heard(1, now: .seconds(3)) == true)
        // Session 2 never registered: it is closed, and nobody hears of it.
        #expect(registry.tick(now: .seconds(5)) == [.close(2, .leaseExpired)])
        #expect(registry.tick(now: .seconds(7)) == [.expel(1, .leaseExpired)])
        #expect(registry.tick(now: .seconds(9)) == [])
    }

    @Test func refusalsAndLimits() {
        var registry = Registry(lease: lease, sessionsLimit: 1)
        _ = registry.opened(1, now: .zero)
        guard case .reject(2, _, isPermanent: false)? = registry.opened(2, now: .zero).first else {
            Issue.record("no limit of sessions")
            return
        }
        let actions = registry.register(1, .sample(), refusal: "KV type is f32, not f16", now: .zero)
        #expect(actions == [.reject(1, message: "KV type is f32, not f16", isPermanent: true)])
        #expect(registry.attached.isEmpty)
        #expect(registry.register(1, .sample(), refusal: nil, now: .zero) == [])
    }

    /// Random operations on few names and incarnations: a name has one holder, each admitted session is expelled
    /// at most once, and never after it is gone.
    @Test(arguments: 0..<50) func randomHistories(seed: UInt64) {
        var random = SplitMix64(state: seed)
        var registry = Registry(lease: lease, sessionsLimit: 20)
        var admitted = Set<UInt64>()
        var names: [UInt64: String] = [:]
        var now = Duration.zero
        func perform(_ actions: [Registry.Action]) {
            for action in actions {
                switch action {
                case .admit(let session): #expect(admitted.insert(session).inserted)
                case .expel(let session, _): #expect(admitted.remove(session) != nil)
                case .reject(let session, _, _), .close(let session, _): #expect(!admitted.contains(session))
                }
            }
        }
        for session in 1...400 as ClosedRange<UInt64> {
            now += .milliseconds(random.next() % 1000)
            perform(registry.opened(session, now: now))
            let name = "node-\(random.next() % 4)"
            names[session] = name
            if random.next() % 8 > 0 {
                let registration = Registration.sample(name, incarnation: 1 + random.next() % 12)
                perform(registry.register(session, registration, refusal: nil, now: now))
            }
            let other = 1 + random.next() % session
            if random.next() % 2 == 0 { #expect(registry.heard(other, now: now) == admitted.contains(other)) }
            if random.next() % 5 == 0 { perform(registry.ended(other, .disconnected)) }
            if random.next() % 3 == 0 { perform(registry.tick(now: now)) }
            let holders = admitted.compactMap { names[$0] }
            #expect(Set(holders).count == holders.count)
            #expect(registry.attached.count == admitted.count)
        }
    }
}
