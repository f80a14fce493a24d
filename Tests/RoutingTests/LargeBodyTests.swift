import API
import Routing
import Synchronization
import Testing

@Suite struct LargeBodyTests {
    @Test func worksAndFailsLikeTheWorkItself() async throws {
        let thread = LargeBodyThread(inlineBytes: 10)
        for bytes in [10, 11, 1000] {
            #expect(try await thread.run(bytes: bytes) { () throws(APIError) in bytes * 2 } == bytes * 2)
            let error = await #expect(throws: APIError.self) {
                try await thread.run(bytes: bytes) { () throws(APIError) -> Int in throw .unauthorized() }
            }
            #expect(error?.status == 401)
        }
    }

    @Test func fewWaitAndSmallOnesDoNot() async throws {
        let thread = LargeBodyThread(inlineBytes: 10, waitingMax: 2)
        let progress = Progress()
        let calls = (0..<8).map { _ in
            Task {
                do throws(APIError) {
                    try await thread.run(bytes: 11) { () throws(APIError) in progress.waitForPermission() }
                    return 200
                } catch {
                    progress.refused.add(1, ordering: .relaxed)
                    return error.status
                }
            }
        }
        // One runs and two wait: the others are refused while the first is at work.
        while progress.refused.load(ordering: .relaxed) < 5 { await Task.yield() }
        let small = try await thread.run(bytes: 1) { () throws(APIError) in 7 }
        #expect(small == 7)
        progress.mayEnd.store(true, ordering: .relaxed)
        var statuses: [Int] = []
        for call in calls { statuses.append(await call.value) }
        #expect(statuses.allSatisfy { $0 == 200 || $0 == 429 })
        #expect(statuses.contains(200))
    }
}

private final class Progress: Sendable {
    let mayEnd = Atomic(false)
    let refused = Atomic(0)

    func waitForPermission() {
        while !mayEnd.load(ordering: .relaxed) {}
    }
}
