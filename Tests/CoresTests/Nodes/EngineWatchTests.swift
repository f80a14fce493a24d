import Cores
import Testing

@Suite struct EngineWatchTests {
    @Test func anEngineThatStandsStillWithWorkIsStalled() {
        var watch = EngineWatch()
        for look in 0...100 { watch.look(ticks: 7, hasWork: true, now: .milliseconds(50 * look)) }
        #expect(watch.stalled == .seconds(5))
        watch.look(ticks: 8, hasWork: true, now: .milliseconds(5050))
        #expect(watch.stalled == .zero)
    }

    @Test func anIdleEngineIsNot() {
        var watch = EngineWatch()
        for look in 0...100 { watch.look(ticks: 7, hasWork: false, now: .milliseconds(50 * look)) }
        #expect(watch.stalled == .zero)
    }

    @Test func timeInWhichTheNodeItselfStoodStillIsNotCounted() {
        var watch = EngineWatch()
        watch.look(ticks: 7, hasWork: true, now: .zero)
        watch.look(ticks: 7, hasWork: true, now: .seconds(3600))
        #expect(watch.stalled == EngineWatch.lookMax)
    }
}
