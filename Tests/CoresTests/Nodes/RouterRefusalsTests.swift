import Cores
import Testing

@Suite struct RouterRefusalsTests {
    @Test func oneRoutersRefusalIsNotTheEnd() {
        var refusals = RouterRefusals(["a", "b"])
        let answers = (0..<10).map { _ in refusals.refused(by: "a", isPermanent: true) }
        #expect(answers.allSatisfy { !$0 })
        let passing = refusals.refused(by: "b", isPermanent: false)
        #expect(!passing)
        let last = refusals.refused(by: "b", isPermanent: true)
        #expect(last)
    }

    @Test func theOnlyRoutersIs() {
        var refusals = RouterRefusals(["a", "a"])
        let ends = refusals.refused(by: "a", isPermanent: true)
        #expect(ends)
    }

    @Test func whoTookTheNodeLaterHasNotRefusedIt() {
        var refusals = RouterRefusals(["a", "b"])
        _ = refusals.refused(by: "a", isPermanent: true)
        refusals.accepted(by: "a")
        let ends = refusals.refused(by: "b", isPermanent: true)
        #expect(!ends)
    }

    @Test func problemsAreSaidAtOnceAndEveryMinute() {
        var problem = RepeatedProblem()
        let said = (0..<600).filter { problem.occurs("refused", now: .milliseconds(500 * $0)) }
        #expect(said == [0, 120, 240, 360, 480])
        let other = problem.occurs("no route", now: .seconds(300))
        #expect(other)
        let again = problem.occurs("no route", now: .seconds(301))
        #expect(!again)
        problem.isOver()
        let anew = problem.occurs("no route", now: .seconds(302))
        #expect(anew)
    }
}
