import Engine
import Glibc
import Kernels
import ModelFormat
import Testing

/// The numbers of one sequence as `Evaluation` writes them.
struct EngineTrace {
    let bytes: [UInt8]
    private let file: SafetensorsFile

    /// Evaluates a sequence and reads what was written.
    init(
        _ evaluation: Evaluation, _ tokens: [TokenID], in folder: CheckpointFolder, drafts: Int = 0, greedy: Int = 0
    ) throws {
        let path = "\(folder.path)/out.safetensors"
        var outputs = Evaluation.Outputs()
        outputs.hidden = true
        outputs.decisions = true
        outputs.drafts = drafts
        outputs.greedy = greedy
        try evaluation.write(EvaluationInput(prompts: [.init(name: "", tokens: tokens)]), outputs, to: path)
        bytes = try TextFile.read(path)
        file = try SafetensorsFile(path: path)
        unlink(path)
    }

    var names: [String] { file.table.tensors.map(\.name) }

    /// Rows of a tensor of floats, those of all its blocks one after the other.
    func floats(_ name: String) throws -> [[Float]] { try rows(name, Float.self) }

    /// Rows of a tensor of integers, without what fills them up.
    func integers(_ name: String) throws -> [[Int]] {
        try rows(name, Int32.self).map { $0.filter { $0 >= 0 }.map { Int($0) } }
    }

    private func rows<Value: BitwiseCopyable>(_ name: String, _ type: Value.Type) throws -> [[Value]] {
        let tensor = try #require(file.table[name], "no \(name)")
        let bytes = file.bytes(of: tensor)
        let columns = max(tensor.shape.last ?? 0, 1)
        let values = (0..<bytes.count / MemoryLayout<Value>.stride).map {
            bytes.loadUnaligned(fromByteOffset: $0 * MemoryLayout<Value>.stride, as: type)
        }
        return stride(from: 0, to: values.count, by: columns).map { Array(values[$0..<$0 + columns]) }
    }

    /// What differs from another trace of the same sequence, bit by bit; nil if nothing.
    func difference(from other: EngineTrace) -> String? {
        if bytes == other.bytes { return nil }
        guard names == other.names else { return "\(names) and \(other.names)" }
        let differing = file.table.tensors.filter { tensor in
            guard let own = other.file.table[tensor.name] else { return true }
            return own.shape != tensor.shape || !file.bytes(of: tensor).elementsEqual(other.file.bytes(of: own))
        }
        return "\(differing.map(\.name)) differ"
    }
}

/// Settles close calls of a slow model in favour of the engine: where two scores are nearer to each other than rounding
/// moves them, the slow model follows, so that all that comes after can be compared. What rounding does not explain
/// is a complaint; so is another order among scores that are equal in the slow model, because that is a rule.
final class Referee {
    /// Of scores, in parts of the greatest.
    let tolerance: Double
    private let experts: [Int: [[Int]]]
    private let positions: [Int: [[Int]]]
    private(set) var complaints: [String] = []
    private(set) var closeCalls = 0

    /// - Parameter names: of layers in the trace.
    init(_ trace: EngineTrace, names: [Int: String], tolerance: Double) throws {
        self.tolerance = tolerance
        var (experts, positions) = ([Int: [[Int]]](), [Int: [[Int]]]())
        for (layer, name) in names {
            if trace.names.contains("\(name).experts") { experts[layer] = try trace.integers("\(name).experts") }
            if trace.names.contains("\(name).topk") { positions[layer] = try trace.integers("\(name).topk") }
        }
        self.experts = experts
        self.positions = positions
    }

    func settle(_ choice: SlowGLM5.Choice, _ layer: Int, _ row: Int, _ scores: Vector, _ own: [Int]) -> [Int] {
        guard let rows = choice == .experts ? experts[layer] : positions[layer], row < rows.count else { return own }
        var found = rows[row]
        guard found.count == own.count, Set(found).count == own.count, found.allSatisfy(scores.indices.contains) else {
            complaints.append("layer \(layer) row \(row): \(found) for \(own)")
            return own
        }
        if choice == .positions { found.sort { scores[$0] > scores[$1] || (scores[$0] == scores[$1] && $0 < $1) } }
        if found == own { return own }
        let limit = tolerance * max(scores.filter(\.isFinite).map(abs).max() ?? 0, 1e-3)
        let gaps = zip(found, own).map { abs(scores[$0] - scores[$1]) }
        guard gaps.allSatisfy({ $0 <= limit }), gaps.contains(where: { $0 > 0 }) else {
            complaints.append("layer \(layer) row \(row), \(choice): \(found) for \(own); scores \(scores)")
            return own
        }
        closeCalls += 1
        return found
    }
}

/// The greatest difference, in parts of the greatest number expected or of 1; infinite where something is no number.
func farthest(_ found: [[Float]], _ expected: Matrix) -> Double {
    guard found.map(\.count) == expected.map(\.count) else { return .infinity }
    let size = max(expected.joined().lazy.map(abs).max() ?? 0, 1)
    var greatest = 0.0
    for (found, expected) in zip(found.joined(), expected.joined()) {
        let difference = abs(Double(found) - expected)
        guard difference.isFinite else { return .infinity }
        greatest = max(greatest, difference)
    }
    return greatest / size
}
