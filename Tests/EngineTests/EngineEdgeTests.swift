import Engine
import Handoff
import Kernels
import Synchronization
import Testing

@Suite struct EngineEdgeTests {
    private final class Late: Sendable {
        private let loop = Mutex<EngineLoop?>(nil)
        func bind(_ new: EngineLoop) { loop.withLock { $0 = new } }
        func start(_ job: DecodeJob) { loop.withLock { $0 }?.start(job) }
    }

    /// A job sent while the loop ends is answered, and its pages go back.
    @Test func whatComesDuringAShutdownFailsToo() throws {
        let model = try TestModels.tinyLlama()
        let memory = try poisonedMemory(model, pages: 64)
        let (log, late) = (EventLog(), Late())
        let slots = try #require(memory.pool.withLock { $0.lease(1) })
        var sampling = SamplingParameters()
        sampling.maxTokens = 900
        let second = DecodeJob(id: handoff(2), tokens: [1, 2, 3], sampling: sampling, slots: slots)
        let loop = try EngineLoop(
            model: model, memory: memory, options: .init(role: .decode, threads: 1),
            onEvent: { event in
                if case .failed(handoff(1), .shutDown) = event { late.start(second) }
                log.record(event)
            })
        late.bind(loop)
        loop.start(DecodeJob(id: handoff(1), tokens: [1, 2, 3], sampling: sampling, slots: []))
        try #require(log.wait(handoff(1)) { !$0.tokens.isEmpty })
        loop.shutdown()
        #expect(log[handoff(1)].endings == 1 && log[handoff(2)].endings == 1)
        #expect(log[handoff(2)].error == .shutDown)
        #expect(memory.counts.free == 64)
    }

    @Test func threadsHaveALimitThatIsNamed() throws {
        let error = #expect(throws: EngineError.self) { try ComputePool.make(threads: ComputePool.threadsMax + 1) }
        #expect(error?.description.contains("\(ComputePool.threadsMax)") == true)
        let pool = try ComputePool.make(threads: 0)
        #expect((1...ComputePool.threadsMax).contains(pool.threads))
        pool.shutdown()
    }
}
