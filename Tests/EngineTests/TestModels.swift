import Engine
import Glibc
import Handoff
import Kernels
import ModelFormat
import Synchronization
import Testing

/// The models that tests run, each loaded once per set of options.
enum TestModels {
    /// The root of the repository.
    static let root = String(#filePath.dropLast("/Tests/EngineTests/TestModels.swift".count))
    static let fixtures = root + "/Tests/Fixtures"
    static let tinyLlamaPath = fixtures + "/tiny-llama"

    /// SmolLM2-135M-Instruct, Q4_1. `make setup` fetches it; without it the tests fail and say so.
    static var smolLM2Path: String {
        get throws {
            let given = getenv("BATON_SMOLLM2").map { String(cString: $0) }
            let path = given ?? root + "/.cache/models/SmolLM2-135M-Instruct.Q4_1.gguf"
            try #require(TextFile.exists(path), "\(path) is missing: run `make setup`")
            return path
        }
    }

    private static let loaded = Mutex<[String: LoadedModel]>([:])

    static func tinyLlama(kvType: CacheType = .f16, pageTokens: Int = 16, isa: ISA? = nil) throws -> LoadedModel {
        try load(tinyLlamaPath, kvType, pageTokens, isa)
    }

    static func fixture(_ name: String, kvType: CacheType = .f16, pageTokens: Int = 16) throws -> LoadedModel {
        try load("\(fixtures)/\(name)", kvType, pageTokens, nil)
    }

    static func smolLM2(kvType: CacheType = .f16, isa: ISA? = nil) throws -> LoadedModel {
        try load(smolLM2Path, kvType, 32, isa)
    }

    private static func load(
        _ path: String, _ kvType: CacheType, _ pageTokens: Int, _ isa: ISA?
    ) throws -> LoadedModel {
        let key = "\(path) \(kvType) \(pageTokens) \(isa?.rawValue ?? "best")"
        return try loaded.withLock { loaded in
            if let model = loaded[key] { return model }
            var options = LoadOptions()
            options.kvType = kvType
            options.pageTokens = pageTokens
            options.isa = isa
            options.threads = 2
            let model = try LoadedModel.load(path: path, options: options)
            loaded[key] = model
            return model
        }
    }
}

/// Reference tensors.
struct Goldens {
    let file: SafetensorsFile

    init(_ name: String) throws {
        file = try SafetensorsFile(path: "\(TestModels.fixtures)/\(name)/goldens.safetensors")
    }

    func floats(_ name: String) throws -> [Float] { try values(name, as: Float.self) }
    func ids(_ name: String) throws -> [Int32] { try values(name, as: Int32.self) }

    private func values<Value: BitwiseCopyable>(_ name: String, as: Value.Type) throws -> [Value] {
        let tensor = try #require(file.table[name], "no golden \(name)")
        let bytes = file.bytes(of: tensor)
        return (0..<bytes.count / MemoryLayout<Value>.stride).map {
            bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Value>.stride, as: Value.self)
        }
    }
}

/// The greatest absolute difference; infinite when the lengths differ or something is no number.
func greatestDifference(_ a: some Collection<Float>, _ b: some Collection<Float>) -> Float {
    guard a.count == b.count else { return .infinity }
    var greatest: Float = 0
    for (x, y) in zip(a, b) {
        let difference = abs(x - y)
        guard difference.isFinite else { return .infinity }
        greatest = max(greatest, difference)
    }
    return greatest
}

extension Evaluation {
    /// All logits of a sequence, row by row, and its hidden states.
    func all(_ tokens: [TokenID], hidden: Bool = false) throws -> (logits: [Float], hidden: [Float]) {
        let facts = model.facts
        let session = try makeSession(capacity: tokens.count)
        var logits: [Float] = []
        let stateCount = hidden ? facts.hiddenStateCount * tokens.count * facts.hiddenSize : 0
        var states = [Float](repeating: .nan, count: stateCount)
        let keep = { (first: Int, index: Int, rows: FloatRows) in
            for row in 0..<rows.rows {
                for column in 0..<facts.hiddenSize {
                    states[(index * tokens.count + first + row) * facts.hiddenSize + column] = rows[row][column]
                }
            }
        }
        var taps = Taps()
        if hidden { taps.hidden = keep }
        try extend(session, by: tokens, taps: taps) { _, rows in
            logits += UnsafeBufferPointer(start: rows.base, count: rows.rows * rows.columns)
        }
        return (logits, states)
    }

    func greedy(after tokens: [TokenID], count: Int) throws -> (ids: [TokenID], logits: [Float]) {
        let session = try makeSession(capacity: tokens.count + count)
        var last: [Float] = []
        try extend(session, by: tokens) { _, rows in
            last = Array(UnsafeBufferPointer(start: rows[rows.rows - 1], count: rows.columns))
        }
        return try greedy(session, count: count, from: last)
    }
}
