import Engine
import Simulation
import Testing

/// Simulated clusters through faults, with the bundled GLM-5 computing in their nodes.
struct SimulatedClusterTests {
    private static func run(_ seed: UInt64, _ prepare: (EngineInSimulation) -> Void = { _ in }) throws -> (
        RunResult, EngineInSimulation
    ) {
        var options = LoadOptions()
        options.pageTokens = EngineInSimulation.pageTokens
        options.threads = 1
        let model = try LoadedModel.load(path: "\(TestModels.root)/Models/glm5-nano", options: options)
        let engine = try EngineInSimulation(model)
        prepare(engine)
        var overrides = Scenario.Overrides()
        overrides.requests = 24
        let result = World(Scenario(seed: seed, overrides), engine: engine).run()
        #expect(engine.failure == nil)
        return (result, engine)
    }

    /// Every page that is sealed is the computed one, byte for byte, and every token that of an engine alone.
    @Test(arguments: 0..<6 as Range<UInt64>)
    func everyTokenIsThatOfAnEngineAlone(seed: UInt64) throws {
        let (result, engine) = try Self.run(seed)
        #expect(result.violation == nil)
        // Some runs have so many faults that little is sealed.
        #expect(engine.generatedTokens > 0 || result.totals["seals", default: 0] < 5)
    }

    /// The run is the one without an engine: nothing of the simulation depends on it.
    @Test func theEngineChangesNothing() throws {
        var overrides = Scenario.Overrides()
        overrides.requests = 24
        let without = World(Scenario(seed: 3, overrides)).run()
        #expect(try Self.run(3).0 == without)
    }

    /// Pages that changed unseen by digests do not go unnoticed.
    @Test func changedPagesAreFound() throws {
        let (result, _) = try Self.run(1) { $0.zeroedEvery = 5 }
        #expect(result.violation?.contains("is not what was computed") == true)
    }
}
