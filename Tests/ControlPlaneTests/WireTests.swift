import Handoff
import Messages
import SwiftProtobuf
import Testing
import Threads

@testable import ControlPlane

private let handoff = HandoffID(router: Incarnation(0xABCD), request: 7, attempt: 2)

@Suite struct WireTests {
    /// What a node says of its engine is only shown: nonsense shows as nothing, never as a number that cannot be.
    @Test func nonsenseOfAnEngineIsNotShown() {
        let more = Speculation(.with { ($0.rounds, $0.drafted, $0.accepted) = (1, 2, .max) })
        #expect(more == Speculation(rounds: 1, drafted: 2, accepted: 2))
        #expect(more.acceptLength == 3 && more.acceptRate == 1)
        #expect(Speculation().acceptLength == nil && Speculation().acceptRate == nil)
        for (mean, worst) in [(0.0, 0.0), (.nan, 1), (1, .infinity), (-1, 1), (.infinity, 1)] {
            #expect(ExpertBalance(.with { ($0.meanImbalance, $0.worstImbalance) = (mean, worst) }) == nil)
        }
    }

    @Test func nodeMessagesSurviveTheWire() throws {
        var load = NodeLoad()
        load.slots = SlotCounts(free: 1, inUse: 2, granted: 3, quarantined: 4, cached: 5)
        load.tokensPerSecond = 12.5
        load.lastError = "none"
        load.engineStalled = .milliseconds(5500)
        load.contract.proofsFenced = 3
        load.contract.scrubMismatches = 1
        load.contract.reclaimP99 = .microseconds(1234)
        load.speculation = Speculation(rounds: 4, drafted: 12, accepted: 9)
        load.experts = ExpertBalance(meanImbalance: 1.25, worstImbalance: 3, worstLayer: 77, worstExpert: 255)
        let messages: [NodeMessage] = [
            .heartbeat(load),
            .granted(
                GrantTerms(
                    handoff: handoff, decode: Incarnation(5),
                    slots: [
                        SlotRef(index: 0, generation: Generation(1)), SlotRef(index: 8, generation: Generation(2)),
                    ],
                    lent: 1, parts: parts(pages: 1..<2, layers: 7))
            ),
            .refused(Refusal(handoff: handoff, reason: .noLane, message: "no idle lane")),
            .sealed(handoff, sealTime: .microseconds(250)),
            .reclaimed(handoff, .fenced),
            .tokens(
                TokenBatch(
                    runs: [
                        TokenRun(handoff: handoff, firstIndex: 4, tokens: [1, 2]),
                        TokenRun(
                            handoff: handoff, firstIndex: 0, tokens: [3],
                            alternatives: [[TokenLogprob(token: 3, logprob: -0.5)]]),
                    ], sent: .nanoseconds(123_456_789))),
            .finished(
                FinishReport(
                    handoff: handoff, reason: .stopToken(2), tokens: 9, firstStep: .milliseconds(3),
                    decode: .milliseconds(90), preemptions: 1,
                    speculation: Speculation(rounds: 3, drafted: 9, accepted: 6))),
            .written(
                WriteReport(
                    handoff: handoff, cachedTokens: 32, queue: .milliseconds(1), compute: .milliseconds(2),
                    transfer: .milliseconds(3), bytes: 1 << 40)),
            .accepted(handoff),
            .drained(handoff, posted: 3, completed: 2),
            .failed(handoff, HandoffFailure(.digestMismatch), details: "page 3"),
            .openHandoffs([handoff]),
            .draining,
            .lanes([PeerLanes(decode: Incarnation(5), idle: 3, busy: 1, transport: "tcp", error: "")]),
        ]
        for message in messages {
            let bytes: [UInt8] = try message.wire.serializedBytes()
            #expect(try NodeMessage(Baton_Control_V1_FromNode(serializedBytes: bytes)) == message)
        }
        for reason in RefusalReason.allCases {
            let message = NodeMessage.refused(Refusal(handoff: handoff, reason: reason, message: ""))
            #expect(try NodeMessage(message.wire) == message)
        }
        for kind in QuiescenceProof.Kind.allCases {
            #expect(try NodeMessage(NodeMessage.reclaimed(handoff, kind).wire) == .reclaimed(handoff, kind))
        }
    }

    @Test func routerMessagesSurviveTheWire() throws {
        var sampling = SamplingTerms()
        sampling.temperature = 0.7
        sampling.logitBias = [.init(token: 5, bias: -100)]
        sampling.stopTokens = [1, 2]
        sampling.seed = .max
        let terms = GrantTerms(
            handoff: handoff, decode: Incarnation(5), slots: [SlotRef(index: 0, generation: Generation(1))], lent: 0,
            parts: parts(pages: 0..<1, layers: 7))
        let shares = [
            Share(writer: Incarnation(4), layers: 0..<3),
            Share(writer: Incarnation(6), pages: 2..<5, layers: 3..<Share.last),
        ]
        let messages: [RouterMessage] = [
            .reserve(
                Reservation(
                    handoff: handoff, shares: shares, tokens: [1, 2, 3], delivered: 2, sampling: sampling)),
            .reclaim(handoff, PartSet(1)), .fence(handoff, .all),
            .prefill(PrefillOrder(grant: terms, part: 1, tokens: [1, 2])),
            .release(handoff),
            .peers([PeerAddress(incarnation: Incarnation(5), laneAddress: "[::1]:99", name: "d")]),
            .cancel(handoff), .drain, .listHandoffs, .query(handoff),
        ]
        for message in messages {
            let bytes: [UInt8] = try message.wire.serializedBytes()
            #expect(try RouterMessage(Baton_Control_V1_FromRouter(serializedBytes: bytes)) == message)
        }
    }

    @Test func registrationSurvivesTheWire() throws {
        for registration in [Registration.sample(), .sample("p", role: .prefill, incarnation: .max)] {
            #expect(try Registration(registration.wire) == registration)
        }
    }

    /// Each hostile change is refused with an error that names the field.
    @Test func hostileRegistrations() {
        func field(_ change: (inout Baton_Control_V1_Register) -> Void) -> String? {
            var message = Registration.sample().wire
            change(&message)
            do {
                _ = try Registration(message)
                return nil
            } catch ControlError.invalid(let field, _) {
                return field
            } catch {
                return "\(error)"
            }
        }
        #expect(field { $0.protocolVersion = 1 } == "register.protocol_version")
        #expect(field { $0.name = "" } == "register.name")
        #expect(field { $0.name = "a b" } == "register.name")
        #expect(field { $0.name = String(repeating: "a", count: 65) } == "register.name")
        #expect(field { $0.role = .UNRECOGNIZED(9) } == "register.role")
        #expect(field { $0.incarnation = 0 } == "register.incarnation")
        #expect(field { $0.clearCompatibility() } == "register.compatibility")
        #expect(field { $0.compatibility.modelFingerprint = "" } == "compatibility.model_fingerprint")
        #expect(field { $0.compatibility.pageLayout = "\u{1B}[31m" } == "compatibility.page_layout")
        #expect(field { $0.compatibility.pageTokens = 0 } == "compatibility.page_tokens")
        #expect(field { $0.compatibility.pageBytes = .max } == "compatibility.page_bytes")
        #expect(field { $0.laneAddress = "nowhere" } == "register.lane_address")
        #expect(field { $0.laneAddress = "host:0" } == "register.lane_address")
        #expect(field { $0.laneAddress = "host:65536" } == "register.lane_address")
        #expect(field { $0.httpAddress = "a\nb:1" } == "register.http_address")
        #expect(field { $0.slots = 0 } == "register.slots")
        #expect(field { $0.slots = .max } == "register.slots")
        #expect(field { $0.contextLimit = 0 } == "register.context_limit")
        #expect(field { $0.maxRunning = .max } == "register.max_running")
        #expect(field { $0.lanesPerPeer = 0 } == "register.lanes_per_peer")
    }

    @Test func hostileNodeMessages() {
        func field(_ change: (inout Baton_Control_V1_FromNode) -> Void) -> String? {
            var message = Baton_Control_V1_FromNode()
            change(&message)
            do {
                _ = try NodeMessage(message)
                return nil
            } catch ControlError.invalid(let field, _) {
                return field
            } catch {
                return "\(error)"
            }
        }
        #expect(field { _ in } == "message")
        #expect(field { $0.register = .init() } == "register")
        #expect(field { $0.granted = .init() } == "granted.handoff")
        #expect(field { $0.granted.handoff = handoff.wire } == "granted.slots")
        #expect(field { $0.refused.handoff = handoff.wire } == "refused.reason")
        #expect(field { $0.reclaimed.handoff = handoff.wire } == "reclaimed.proof")
        #expect(field { $0.sealed.handoff.attempt = 1 } == "sealed.handoff.router")
        #expect(field { $0.sealed.handoff.router = 1 } == "sealed.handoff.attempt")
        #expect(field { $0.failed.handoff = handoff.wire } == "failed.cause")
        #expect(
            field {
                $0.tokens.runs = [
                    .with {
                        $0.handoff = handoff.wire
                        $0.tokens = [1, 2]
                        $0.alternatives = [.init()]
                    }
                ]
            } == "tokens.runs.alternatives")
        #expect(
            field {
                $0.tokens.runs = [
                    .with {
                        $0.handoff = handoff.wire
                        $0.tokens = [0xFFFF_FFFF]
                    }
                ]
            } == "tokens.runs.tokens")
    }

    @Test func hostileReservations() {
        func field(_ change: (inout Baton_Control_V1_Reserve) -> Void) -> String? {
            var reserve = Reservation(
                handoff: handoff, shares: [Share(writer: Incarnation(1))], tokens: [1, 2], delivered: 0,
                sampling: SamplingTerms()
            ).wire
            change(&reserve)
            do {
                _ = try RouterMessage(Baton_Control_V1_FromRouter.with { $0.reserve = reserve })
                return nil
            } catch ControlError.invalid(let field, _) {
                return field
            } catch {
                return "\(error)"
            }
        }
        #expect(field { _ in } == nil)
        #expect(field { $0.tokens = [] } == "reserve.tokens")
        #expect(field { $0.tokens = Array(repeating: 1, count: ControlLimits.tokens + 1) } == "reserve.tokens")
        #expect(field { $0.tokens = [.max] } == "reserve.tokens")
        #expect(field { $0.delivered = 2 } == "reserve.delivered")
        #expect(field { $0.shares = [] } == "reserve.shares")
        #expect(field { $0.shares = Array(repeating: .init(), count: GrantTerms.partsMax + 1) } == "reserve.shares")
        #expect(field { $0.shares[0].writer = 0 } == "reserve.shares.writer")
        #expect(field { $0.sampling.temperature = .nan } == "sampling.temperature")
        #expect(field { $0.sampling.topP = .infinity } == "sampling.top_p")
        #expect(field { $0.sampling.topLogprobs = 21 } == "sampling.top_logprobs")
        #expect(field { $0.sampling.maxTokens = .max } == "sampling.max_tokens")
        #expect(
            field { $0.sampling.logitBias = Array(repeating: .init(), count: ControlLimits.logitBias + 1) }
                == "sampling.logit_bias")
    }

    @Test func hostileGrants() {
        func field(_ change: (inout Baton_Control_V1_Grant) -> Void) -> String? {
            var grant = GrantTerms(
                handoff: handoff, decode: Incarnation(5),
                slots: (0..<4).map { SlotRef(index: $0, generation: Generation(1)) }, lent: 1,
                parts: parts(pages: 1..<4, layers: 7)
            ).wire
            change(&grant)
            do {
                _ = try NodeMessage(Baton_Control_V1_FromNode.with { $0.granted = grant })
                return nil
            } catch ControlError.invalid(let field, _) {
                return field
            } catch {
                return "\(error)"
            }
        }
        #expect(field { _ in } == nil)
        #expect(field { $0.slots = [] } == "granted.slots")
        #expect(field { $0.lent = 4 } == "granted.lent")
        #expect(field { $0.lent = .max } == "granted.lent")
        #expect(field { $0.lent = 2 } == "granted.parts.first_page")
        #expect(field { $0.lent = 0 } == "granted.parts")
        #expect(field { $0.parts = [] } == "granted.parts")
        #expect(field { $0.parts.removeFirst() } == "granted.parts")
        #expect(field { $0.parts += $0.parts } == "granted.parts")
        #expect(field { $0.parts = Array(repeating: $0.parts[0], count: GrantTerms.partsMax + 1) } == "granted.parts")
        #expect(field { $0.parts[1].writer = 0 } == "granted.parts.writer")
        #expect(field { $0.parts[1].pages = 4 } == "granted.parts.pages")
        #expect(field { $0.parts[1].pages = .max } == "granted.parts.pages")
        #expect(field { $0.parts[0].pages = 0 } == "granted.parts.pages")
        #expect(field { $0.parts[0].firstPage = .max } == "granted.parts.pages")
        #expect(field { $0.parts[0].layers = .max } == "granted.parts.layers")
        #expect(field { $0.parts[0].layers = 0 } == "granted.parts.layers")
    }

    @Test func anOrderNamesAPartOfItsGrant() {
        let grant = GrantTerms(
            handoff: handoff, decode: Incarnation(5), slots: [SlotRef(index: 0, generation: Generation(1))], lent: 0,
            parts: parts(pages: 0..<1, layers: 7))
        var wire = RouterMessage.prefill(PrefillOrder(grant: grant, part: 1, tokens: [1])).wire
        #expect(throws: Never.self) { try RouterMessage(wire) }
        wire.prefill.part = 2
        #expect(throws: ControlError.self) { try RouterMessage(wire) }
        var fence = RouterMessage.fence(handoff, PartSet(1)).wire
        fence.fence.parts = 0
        #expect(throws: ControlError.self) { try RouterMessage(fence) }
    }

    @Test func aNodeOfAnotherVersionIsToldBoth() {
        var message = Registration.sample().wire
        message.protocolVersion = 1
        do {
            _ = try Registration(message)
            Issue.record("version 1 is taken")
        } catch {
            #expect("\(error)".contains("version 1") && "\(error)".contains("version \(ControlLimits.protocolVersion)"))
        }
    }

    @Test func reclaimsMayOnlyReportADrain() {
        let message = Baton_Control_V1_FromRouter.with {
            $0.reclaim.handoff = handoff.wire
            $0.reclaim.proof = .proofFenced
        }
        #expect(throws: ControlError.self) { try RouterMessage(message) }
    }

    @Test func numbersThatAreOnlyShownAreClamped() {
        let load = NodeLoad(
            .with {
                $0.tokensPerSecond = .nan
                $0.queuedTokens = .max
                $0.lastError = "\u{1B}[2Jgone\n" + String(repeating: "x", count: 5000)
            })
        #expect(load.tokensPerSecond == 0)
        #expect(load.queuedTokens == ControlLimits.queuedTokens)
        #expect(load.lastError.hasPrefix(" [2Jgone "))
        #expect(load.lastError.utf8.count == ControlLimits.textBytes)
    }

    @Test func largestMessagesFitTheLimit() throws {
        let order = PrefillOrder(
            grant: GrantTerms(
                handoff: handoff, decode: Incarnation(.max),
                slots: Array(
                    repeating: SlotRef(index: .max, generation: Generation(.max)), count: ControlLimits.grantSlots / 2),
                lent: 0,
                parts: (0..<GrantTerms.partsMax).map {
                    GrantPart(
                        writer: Incarnation(.max), lane: LaneID(.max), epoch: LaneEpoch(.max),
                        pages: 0..<ControlLimits.grantSlots / 2, layers: $0..<$0 + 1)
                }),
            tokens: Array(repeating: UInt32(Int32.max), count: ControlLimits.tokens))
        let bytes: [UInt8] = try RouterMessage.prefill(order).wire.serializedBytes()
        #expect(bytes.count < ControlLimits.messageBytes)
    }

    @Test func differencesAreNamed() {
        let mine = Registration.sample().compatibility
        var other = mine
        #expect(mine.difference(from: other) == nil)
        other.kvType = "f32"
        #expect(mine.difference(from: other) == "KV type is f16, not f32")
        other.fingerprint = "def"
        #expect(mine.difference(from: other) == "model fingerprint is abc, not def")
    }

    @Test(arguments: [
        ("a:1", "a", 1), ("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:65535", "::1", 65535),
        ("host-1.x:80", "host-1.x", 80),
    ])
    func goodAddresses(text: String, host: String, port: Int) {
        let address = HostPort(text)
        #expect(address?.host == host)
        #expect(address?.port == port)
        #expect(address?.description == text)
    }

    @Test(arguments: ["", ":1", "a", "a:", "a:b", "a:-1", "a:65536", "::1:5", "a b:1", "a:1 ", "a:+1"])
    func badAddresses(text: String) {
        #expect(HostPort(text) == nil)
    }

    @Test func backoffGrowsToItsLimit() {
        var backoff = Backoff(initial: .milliseconds(100), limit: .seconds(1))
        #expect(backoff.next(random: 0) == .milliseconds(50))
        #expect(backoff.next(random: 0) == .milliseconds(100))
        for _ in 0..<10 { #expect(backoff.next(random: 0.999) < .seconds(1)) }
        #expect(backoff.next(random: 0) == .milliseconds(500))
        backoff.reset()
        #expect(backoff.next(random: 0) == .milliseconds(50))
    }
}

@Suite struct OutboxTests {
    @Test func deliversInOrderAndCloses() async {
        let outbox = Outbox<Int>(messagesLimit: 3, bytesLimit: 100)
        #expect(outbox.offer(1, bytes: 1000) == .accepted)
        #expect(outbox.offer(2, bytes: 1) == .full)
        #expect(await outbox.take() == [1])
        for item in 0..<3 { #expect(outbox.offer(item, bytes: 1) == .accepted) }
        #expect(outbox.offer(3, bytes: 1) == .full)
        outbox.close()
        #expect(outbox.offer(4, bytes: 1) == .closed)
        #expect(await outbox.take() == [0, 1, 2])
        #expect(await outbox.take() == nil)
    }

    @Test func manyProducersOneReader() async {
        let outbox = Outbox<Int>(messagesLimit: 100_000)
        let reader = Task {
            var items: [Int] = []
            while let batch = await outbox.take() { items += batch }
            return items
        }
        await withTaskGroup(of: Void.self) { group in
            for producer in 0..<4 {
                group.addTask {
                    for item in 0..<1000 {
                        _ = outbox.offer(producer * 1000 + item, bytes: 1)
                        if item % 64 == 0 { await Task.yield() }
                    }
                }
            }
        }
        outbox.close()
        let items = await reader.value
        #expect(items.count == 4000)
        for producer in 0..<4 {
            let own = items.filter { $0 / 1000 == producer }
            #expect(own == own.sorted())
        }
    }

    @Test func cancellationEndsAWaitingReader() async {
        let outbox = Outbox<Int>()
        let reader = Task { await outbox.take() }
        await Task.yield()
        reader.cancel()
        #expect(await reader.value == nil)
    }
}

/// Two writers: one of the first layers, one of the rest.
private func parts(pages: Range<Int>, layers: Int) -> [GrantPart] {
    [0..<2, 2..<layers].enumerated().map { number, layers in
        GrantPart(
            writer: Incarnation(UInt64(number) + 4), lane: LaneID(UInt32(number) + 3), epoch: LaneEpoch(9),
            pages: pages,
            layers: layers)
    }
}
