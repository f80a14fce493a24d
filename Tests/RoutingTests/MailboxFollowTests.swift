import Cores
import Synchronization
import Testing

@testable import Routing

/// A task that follows its mailbox: deliveries reach it in order, on the threads that bring them, one at a time.
@Suite(.timeLimit(.minutes(1))) struct MailboxFollowTests {
    private final class Seen: Sendable {
        let tokens = Mutex<[UInt32]>([])
        let inside = Mutex(0)
        let overlaps = Mutex(0)

        func take(_ deliveries: [AnswerMailbox.Delivery]) {
            let others = inside.withLock { inside in
                inside += 1
                return inside - 1
            }
            if others > 0 { overlaps.withLock { $0 += 1 } }
            tokens.withLock { tokens in for delivery in deliveries { tokens += delivery.tokens } }
            inside.withLock { $0 -= 1 }
        }
    }

    private final class Flag: Sendable {
        private let value = Mutex(false)
        func set(_ to: Bool) { value.withLock { $0 = to } }
        var isSet: Bool { value.withLock { $0 } }
    }

    private final class Source: Sendable {
        private let next = Mutex(UInt32(0))
        /// Appends the next token, in order; false when there is none.
        func append(to mailbox: AnswerMailbox, of count: UInt32) -> Bool {
            next.withLock { next in
                guard next < count else { return false }
                mailbox.append(.tokens([next], alternatives: []), choice: 0, now: .zero)
                next += 1
                return true
            }
        }
    }

    private func bring(_ tokens: Range<UInt32>, to mailbox: AnswerMailbox) {
        for token in tokens {
            mailbox.append(.tokens([token], alternatives: []), choice: 0, now: .zero)
            mailbox.pump()
        }
    }

    @Test func aFollowerTakesTokensInOrderOneThreadAtATime() async {
        let mailbox = AnswerMailbox()
        let seen = Seen()
        let count: UInt32 = 4000
        // Appends are in order under one lock, as the router's are; pumps come from everywhere.
        let source = Source()
        async let follow: Void = mailbox.follow { deliveries in
            seen.take(deliveries)
            return seen.tokens.withLock { $0.count < Int(count) }
        }
        await withTaskGroup(of: Void.self) { group in
            for _ in 0..<4 {
                group.addTask {
                    while source.append(to: mailbox, of: count) { mailbox.pump() }
                }
            }
        }
        await follow
        #expect(seen.tokens.withLock { $0 } == Array(0..<count))
        #expect(seen.overlaps.withLock { $0 } == 0)
    }

    @Test func whatComesAfterTheFollowerStoppedWaitsForTheReader() async {
        let mailbox = AnswerMailbox()
        let seen = Seen()
        bring(0..<3, to: mailbox)
        await mailbox.follow { deliveries in
            seen.take(deliveries)
            return false
        }
        bring(3..<5, to: mailbox)
        #expect(seen.tokens.withLock { $0 } == [0, 1, 2])
        #expect(await mailbox.next().flatMap(\.tokens) == [3, 4])
    }

    @Test func cuttingOrCancellingEndsFollowing() async {
        let mailbox = AnswerMailbox()
        let waiting = Task { await mailbox.follow { _ in true } }
        waiting.cancel()
        await waiting.value
        let cut = Task { await mailbox.follow { _ in true } }
        mailbox.cut()
        await cut.value
        bring(0..<2, to: mailbox)
        #expect(await mailbox.next().isEmpty)
    }

    /// The follower's thread may be inside when the client is cut off: the task goes on only when it is out.
    @Test func followingEndsOnlyWhenNoThreadIsInside() async {
        for _ in 0..<200 {
            let mailbox = AnswerMailbox()
            let inside = Flag()
            let seen = Seen()
            let follow = Task {
                await mailbox.follow { _ in
                    inside.set(true)
                    for _ in 0..<50 { _ = seen.tokens.withLock { $0.count } }
                    inside.set(false)
                    return true
                }
                return inside.isSet
            }
            let bringer = Task { bring(0..<1, to: mailbox) }
            let cutter = Task { mailbox.cut() }
            #expect(await follow.value == false)
            await bringer.value
            await cutter.value
        }
    }
}
