import API
import Routing
import Testing

@Suite struct BodyBudgetTests {
    @Test func bodiesTogetherStayWithinTheBudget() throws {
        let budget = BodyBudget(limit: 8 << 20, smallBytes: 1 << 10)
        var shares: [BodyShare] = []
        for _ in 0..<7 {
            let share = BodyShare(budget)
            try share.grow(by: 1 << 20)
            shares.append(share)
        }
        let large = BodyShare(budget)
        let error = #expect(throws: APIError.self) { try large.grow(by: 1 << 20) }
        #expect(error?.status == 503)
        #expect(error?.retryAfter != nil)
        // The last eighth is for small ones.
        let small = BodyShare(budget)
        try small.grow(by: 1 << 10)
        #expect(budget.bytesHeld == (7 << 20) + (1 << 10))
        shares.removeFirst(2)
        try large.grow(by: 1 << 20)
    }

    @Test func whatAGoneBodyTookIsGivenBack() throws {
        let budget = BodyBudget(limit: 1 << 20)
        for _ in 0..<100 {
            let share = BodyShare(budget)
            try share.grow(by: 300 << 10)
            try share.grow(by: 300 << 10)
        }
        #expect(budget.bytesHeld == 0)
    }
}
