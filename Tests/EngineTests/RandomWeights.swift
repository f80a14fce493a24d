import Glibc
import ModelFormat
import OrderedJSON
import SeededRandom
import Testing

/// A folder for one checkpoint, which goes with this object.
final class CheckpointFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/baton-checkpoint-XXXXXX".utf8CString)
        path = try #require(mkdtemp(&template).map { String(cString: $0) })
    }

    deinit {
        for name in ["config.json", "model.safetensors", "out.safetensors"] { unlink("\(path)/\(name)") }
        rmdir(path)
    }

    func write(_ name: String, _ bytes: [UInt8]) throws {
        let file = try #require(fopen("\(path)/\(name)", "wb"))
        defer { fclose(file) }
        #expect(fwrite(bytes, 1, bytes.count, file) == bytes.count)
    }
}

/// Random tensors as a file holds them, and what they stand for.
struct RandomWeights {
    /// How matrices are stored; vectors are floats of some kind.
    enum Storage: CaseIterable { case f32, bf16, fp8, mixed }

    struct Tensor {
        var name: String
        var type: TensorType
        var shape: [Int]
        var bytes: [UInt8]
    }

    let storage: Storage
    var random: SplitMix64
    private(set) var tensors: [Tensor] = []
    private(set) var values: [String: Matrix] = [:]

    init(_ storage: Storage, seed: UInt64) {
        self.storage = storage
        random = SplitMix64(state: seed)
    }

    /// A matrix that takes numbers of magnitude 1 to such of magnitude `gain`. `adjust` sees it before it is rounded.
    mutating func matrix(
        _ name: String, _ rows: Int, _ columns: Int, gain: Float = 1, isQuantisable: Bool = true,
        adjust: (inout [[Float]], inout SplitMix64) -> Void = { _, _ in }
    ) {
        let size = gain * (3 / Float(columns)).squareRoot()
        var matrix = (0..<rows).map { _ in
            (0..<columns).map { _ in Float.random(in: -size...size, using: &random) }
        }
        adjust(&matrix, &random)
        add(name + ".weight", matrix, shape: [rows, columns], type(isQuantisable: isQuantisable))
    }

    mutating func vector(_ name: String, _ count: Int, in range: ClosedRange<Float>, _ type: TensorType? = nil) {
        let vector = (0..<count).map { _ in Float.random(in: range, using: &random) }
        let usual = self.type(isQuantisable: false)
        add(name, [vector], shape: [count], type ?? usual)
    }

    mutating func vector(_ name: String, _ vector: [Float], _ type: TensorType) {
        add(name, [vector], shape: [vector.count], type)
    }

    private mutating func type(isQuantisable: Bool) -> TensorType {
        switch storage {
        case .f32: .f32
        case .bf16: .bf16
        // Every fourth is left as it is, as published checkpoints leave some.
        case .fp8: isQuantisable && random.below(4) > 0 ? .f8E4M3 : .bf16
        case .mixed: [.f32, .bf16, .f16][random.below(3)]
        }
    }

    private mutating func add(_ name: String, _ matrix: [[Float]], shape: [Int], _ type: TensorType) {
        var bytes: [UInt8] = []
        func append(_ bits: some FixedWidthInteger) { withUnsafeBytes(of: bits.littleEndian) { bytes += $0 } }
        switch type {
        case .f8E4M3: return addScaled(name, matrix, shape: shape)
        case .f32:
            for value in matrix.joined() { append(value.bitPattern) }
            values[name] = matrix.map { $0.map(Double.init) }
        case .f16:
            for value in matrix.joined() { append(Float16(value).bitPattern) }
            values[name] = matrix.map { $0.map { Double(Float16($0)) } }
        default:
            for value in matrix.joined() { append(UInt16(Slow.nearestBF16(value).bitPattern >> 16)) }
            values[name] = matrix.map { $0.map { Double(Slow.nearestBF16($0)) } }
        }
        tensors.append(Tensor(name: name, type: type, shape: shape, bytes: bytes))
    }

    /// 8-bit floats, with a scale for each 128 × 128.
    private mutating func addScaled(_ name: String, _ matrix: [[Float]], shape: [Int]) {
        let blocks = shape.map { ($0 + 127) / 128 }
        var largest = [Float](repeating: 1e-6, count: blocks[0] * blocks[1])
        for (row, own) in matrix.enumerated() {
            for (column, value) in own.enumerated() {
                let block = row / 128 * blocks[1] + column / 128
                largest[block] = max(largest[block], abs(value))
            }
        }
        // Some blocks do not use all codes.
        let scales = largest.map { $0 / 448 * Float.random(in: 1...3, using: &random) }
        var codes: [UInt8] = []
        values[name] = matrix.enumerated().map { row, own in
            own.enumerated().map { column, value in
                let scale = Double(scales[row / 128 * blocks[1] + column / 128])
                codes.append(Slow.nearestE4M3(Double(value) / scale))
                return Slow.valueOfE4M3(codes[codes.count - 1]) * scale
            }
        }
        tensors.append(Tensor(name: name, type: .f8E4M3, shape: shape, bytes: codes))
        let bytes = scales.flatMap { scale in withUnsafeBytes(of: scale.bitPattern.littleEndian) { Array($0) } }
        tensors.append(Tensor(name: name + "_scale_inv", type: .f32, shape: blocks, bytes: bytes))
    }

    /// Changes the tensor of that name in the file alone.
    mutating func change(_ name: String, _ body: (inout Tensor) -> Void) throws {
        let place = try #require(tensors.firstIndex { $0.name == name }, "no \(name)")
        body(&tensors[place])
    }

    mutating func remove(_ name: String) throws {
        tensors.remove(at: try #require(tensors.firstIndex { $0.name == name }, "no \(name)"))
    }

    mutating func add(_ tensor: Tensor) { tensors.append(tensor) }

    /// As a folder that the engine loads.
    func write(config: JSONObject) throws -> CheckpointFolder {
        let folder = try CheckpointFolder()
        try folder.write("config.json", JSON.object(config).bytes())
        var writer = try SafetensorsWriter(
            path: "\(folder.path)/model.safetensors",
            tensors: tensors.map { .init(name: $0.name, type: $0.type, shape: $0.shape) })
        for tensor in tensors { try Self.append(tensor.bytes, to: &writer) }
        try writer.finish()
        return folder
    }

    private static func append(_ bytes: [UInt8], to writer: inout SafetensorsWriter) throws {
        try bytes.withUnsafeBytes { try writer.write($0) }
    }
}
