import ArgumentParser
import ControlPlane
import Handoff
import Messages
import Testing

@testable import Node

private func handoff(_ request: UInt64) -> HandoffID {
    HandoffID(router: Incarnation(1), request: request, attempt: 1)
}

@Suite struct PartsTests {
    @Test func deadlinesPassOnceAndInOrder() {
        var table = DeadlineTable()
        table.set(.drainBudget, handoff(1), at: .seconds(2))
        table.set(.laneDrain, handoff(1), at: .seconds(1))
        table.set(.drainBudget, handoff(2), at: .seconds(1))
        table.clear(.drainBudget, handoff(2))
        #expect(table.takePassed(now: .milliseconds(999)).isEmpty)
        // Starting it again moves it.
        table.set(.drainBudget, handoff(1), at: .seconds(3))
        let passed = table.takePassed(now: .seconds(2))
        #expect(passed == [.init(deadline: .laneDrain, handoff: handoff(1))])
        #expect(table.takePassed(now: .seconds(3)).map(\.deadline) == [.drainBudget])
        #expect(table.count == 0)
    }

    @Test func ratesAreOfFullWindows() {
        var meter = RateMeter(window: .seconds(1))
        let rates = [(0.0, 0), (0.5, 50), (1.0, 100), (1.2, 1000), (3.0, 300)].map { time, total in
            meter.note(UInt64(total), now: .seconds(time))
        }
        #expect(rates == [0, 0, 100, 100, 100])
    }

    @Test func reclaimTimesAreKnownWithinAnEighth() {
        var times = ReclaimTimes()
        #expect(times.quantile(0.5) == .zero)
        for milliseconds in 1...1000 { times.note(.milliseconds(milliseconds)) }
        times.note(.zero)
        #expect(times.count == 1001 && times.longest == .seconds(1))
        for (share, exact) in [(0.5, 500.0), (0.9, 900), (0.99, 990)] {
            let found = times.quantile(share) / .milliseconds(1)
            #expect(found >= exact && found <= exact * 1.13, "\(share): \(found)")
        }
        #expect(times.quantile(1) == .seconds(1))
        times.note(.seconds(1_000_000_000))
        #expect(times.quantile(1) > .seconds(1))
    }

    @Test func oneThreadPerformsAtATime() {
        var queue = EffectQueue<Int>()
        let before = queue.begin()
        #expect(!before)
        queue.append(1)
        queue.append(2)
        let mine = queue.begin()
        queue.append(3)
        let other = queue.begin()
        #expect(mine && !other)
        let batches = [queue.next(), queue.next()]
        #expect(batches == [[1, 2, 3], nil])
        queue.append(4)
        let again = queue.begin()
        #expect(again)
    }
}

@Suite struct NodeOptionsTests {
    private func configuration(_ arguments: [String]) throws -> NodeConfiguration {
        try NodeOptions.parse(["--model", "m"] + arguments).configuration(role: .decode, incarnation: Incarnation(0xAB))
    }

    @Test func defaults() throws {
        let configuration = try configuration([])
        #expect(configuration.name == "decode-00000000")
        #expect(configuration.routers.isEmpty)
        #expect(configuration.pageTokens == 32)
        #expect(configuration.slab == .bytes(1 << 30))
    }

    @Test func routersMayBeRepeatedOrListed() throws {
        let configuration = try configuration(["--router", "a:1,b:2", "--router", "[::1]:3"])
        #expect(configuration.routers.map(\.description) == ["a:1", "b:2", "[::1]:3"])
    }

    @Test(arguments: [
        (["--router", "nowhere"], "--router"), (["--router", "a:0"], "--router"), (["--pages", "0"], "--pages"),
        (["--pages", "1", "--slab-gb", "1"], "--pages"), (["--slab-gb", "0"], "--slab-gb"),
        (["--slab-gb", "nan"], "--slab-gb"), (["--page-tokens", "17"], "--page-tokens"),
        (["--kv-dtype", "f8"], "--kv-dtype"), (["--isa", "sse"], "--isa"), (["--name", "a b"], "--name"),
        (["--threads", "-1"], "--threads"), (["--max-running", "0"], "--max-running"), (["--lanes", "0"], "--lanes"),
        (["--http", "8080"], "--http"), (["--context", "0"], "--context"), (["--chunk", "0"], "--chunk"),
        (["--log-level", "loud"], "--log-level"), (["--log-format", "xml"], "--log-format"),
        (["--advertise", "a b"], "--advertise"), (["--digests", "some"], "--digests"),
        (["--scrub-rate", "0"], "--scrub-rate"),
    ])
    func wrongFlagsAreNamed(arguments: [String], flag: String) {
        do {
            _ = try NodeOptions.parse(["--model", "m"] + arguments)
            Issue.record("\(arguments) was accepted")
        } catch {
            #expect(NodeOptions.message(for: error).contains(flag))
        }
    }

    @Test func wildcardAddressesNeedAName() throws {
        var configuration = try configuration([])
        let everywhere = HostPort(host: "0.0.0.0", port: 5)
        #expect(throws: NodeError.self) { try configuration.advertised(everywhere) }
        configuration.advertisedHost = "node-7"
        #expect(try configuration.advertised(everywhere).description == "node-7:5")
    }
}
