package import Kernels
package import ModelFormat

/// A norm's weights as floats.
final class NormWeights: Sendable {
    private let region: MemoryRegion
    var base: UnsafePointer<Float> { UnsafePointer(region.pointer(to: Float.self)) }

    init(region: MemoryRegion) { self.region = region }
}

/// Token embeddings, read row by row from the mapped file.
///
/// `@unchecked Sendable`: `base` points into a read-only mapping, which `checkpoint` keeps alive.
struct EmbeddingTable: @unchecked Sendable {
    private let checkpoint: Checkpoint
    private let base: UnsafeRawPointer
    private let rows: Int
    private let columns: Int
    private let type: ElementType
    private let rowBytes: Int

    /// `bytes` are those of `tensor` in `checkpoint`, `rowBytes` a row of `type`.
    init?(checkpoint: Checkpoint, tensor: TensorInfo, type: ElementType, bytes: UnsafeRawBufferPointer, rowBytes: Int) {
        guard let base = bytes.baseAddress, tensor.shape.count == 2, bytes.count == tensor.shape[0] * rowBytes else {
            return nil
        }
        self.checkpoint = checkpoint
        self.base = base
        rows = tensor.shape[0]
        columns = tensor.shape[1]
        self.type = type
        self.rowBytes = rowBytes
    }

    /// Writes the floats of a token's row. The token was checked against the vocabulary.
    func row(_ token: Int, table: KernelTable, into out: UnsafeMutablePointer<Float>) {
        precondition(token >= 0 && token < rows, "token \(token) of \(rows)")
        let bytes = UnsafeRawBufferPointer(start: base + token * rowBytes, count: rowBytes)
        table.dequantiseRow(type, bytes: bytes, columns: columns, into: out)
    }
}

/// Turns the tensors of a checkpoint into what the kernels want, whatever the architecture.
package final class WeightLoader {
    private let checkpoint: Checkpoint
    private let table: KernelTable
    private let pool: ComputePool
    package private(set) var packedBytes = 0

    package init(checkpoint: Checkpoint, table: KernelTable, pool: ComputePool) {
        self.checkpoint = checkpoint
        self.table = table
        self.pool = pool
    }

    /// What is known of the model whose weights were loaded.
    func facts(_ common: CommonConfig, contextLimit: Int, hiddenStateCount: Int) -> ModelFacts {
        ModelFacts(
            name: checkpoint.name, architecture: common.architecture.rawValue, layerCount: common.layerCount,
            hiddenSize: common.hiddenSize, vocabularySize: common.vocabularySize, hiddenStateCount: hiddenStateCount,
            contextLimit: contextLimit, parameterCount: parameterCount, weightBytes: packedBytes)
    }

    package var parameterCount: Int {
        checkpoint.tensors.reduce(0) { $0 + $1.elementCount }
    }

    /// All tensors are there with the right shapes, or `model` with everything that is wrong.
    package func check(_ expected: [ExpectedTensor]) throws(EngineError) {
        do throws(ModelFormatError) {
            try checkpoint.check(expected: expected)
        } catch {
            throw EngineError.model(path: error.subject, problems: error.problems)
        }
    }

    func norm(_ name: String) throws(EngineError) -> NormWeights {
        let values = try vector(name)
        let region = try wrap(name) { () throws(KernelError) in
            try MemoryRegion(bytes: max(values.count, 1) * MemoryLayout<Float>.stride)
        }
        let base = region.pointer(to: Float.self)
        for (index, value) in values.enumerated() { base[index] = value }
        return NormWeights(region: region)
    }

    /// A tensor of any computable type as floats.
    func vector(_ name: String) throws(EngineError) -> [Float] {
        let (tensor, type, bytes) = try find(name)
        if type == .f8E4M3 { return try scaledVector(name, tensor, bytes) }
        let count = tensor.elementCount
        let table = table
        return [Float](unsafeUninitializedCapacity: count) { buffer, filled in
            guard let base = buffer.baseAddress else { return }
            table.dequantiseRow(type, bytes: bytes, columns: count, into: base)
            filled = count
        }
    }

    func embedding(_ name: String) throws(EngineError) -> EmbeddingTable {
        let (tensor, type, bytes) = try find(name)
        let rowBytes = try wrap(name) { () throws(KernelError) in
            try type.rowBytes(columns: tensor.shape.last ?? 0)
        }
        guard
            let embedding = EmbeddingTable(
                checkpoint: checkpoint, tensor: tensor, type: type, bytes: bytes, rowBytes: rowBytes)
        else { throw .model(path: checkpoint.path, problems: ["tensor \(name) has shape \(tensor.shape)"]) }
        return embedding
    }

    /// 8-bit floats times the scales of their blocks.
    private func scaledVector(
        _ name: String, _ tensor: TensorInfo, _ bytes: UnsafeRawBufferPointer
    ) throws(EngineError) -> [Float] {
        let source = try source(name)
        let (columns, block) = (source.columns, MatrixSource.scaleBlock)
        let perRow = (columns + block - 1) / block
        let table = table
        return [Float](unsafeUninitializedCapacity: tensor.elementCount) { buffer, filled in
            guard let base = buffer.baseAddress else { return }
            table.dequantiseRow(.f8E4M3, bytes: bytes, columns: tensor.elementCount, into: base)
            for row in 0..<source.rows {
                for column in 0..<columns {
                    // The codes come as 2^-8 of what they stand for.
                    base[row * columns + column] *=
                        source.scales[row / block * perRow + column / block] * 256
                }
            }
            filled = tensor.elementCount
        }
    }

    /// A matrix's elements in a type without scales: as they are, or as floats.
    func plainElements(_ name: String) throws(EngineError) -> (type: ElementType, bytes: [UInt8]) {
        let (_, type, bytes) = try find(name)
        if type == .f16 || type == .bf16 || type == .f32 { return (type, Array(bytes)) }
        return (.f32, try vector(name).withUnsafeBytes { Array($0) })
    }

    /// A matrix as the file has it, with the scales of 8-bit floats.
    private func source(_ name: String) throws(EngineError) -> MatrixSource {
        let (tensor, type, bytes) = try find(name)
        guard tensor.shape.count == 2 else {
            throw .model(path: checkpoint.path, problems: ["tensor \(name) has shape \(tensor.shape)"])
        }
        var scales: [Float] = []
        if type == .f8E4M3 {
            scales = try vector(name + "_scale_inv")
            guard !bytes.contains(where: { $0 & 0x7f == 0x7f }) else {
                throw .model(path: checkpoint.path, problems: ["tensor \(name) holds what is no number"])
            }
        }
        return MatrixSource(
            type: type, rows: tensor.shape[0], columns: tensor.shape[1], bytes: bytes, scales: scales)
    }

    /// Many matrices, each of tensors with the same input, in one region of memory.
    func matrices(_ names: [[String]]) throws(EngineError) -> [PackedMatrix] {
        var sources: [[MatrixSource]] = []
        for group in names {
            var own: [MatrixSource] = []
            for name in group { own.append(try source(name)) }
            sources.append(own)
        }
        return try matrices(sources)
    }

    func matrices(_ sources: [[MatrixSource]]) throws(EngineError) -> [PackedMatrix] {
        let packed = try wrap("matrices") { () throws(KernelError) in
            try PackedMatrix.many(sources, table: table, pool: pool)
        }
        for matrix in packed { packedBytes += matrix.byteCount }
        return packed
    }

    /// Matrices with the same input, one below the other. A bias for some of them is zero for the others.
    func matrix(_ names: [String], biases: [String?]?) throws(EngineError) -> PackedMatrix {
        var sources: [MatrixSource] = []
        var bias: [Float] = []
        for (index, name) in names.enumerated() {
            let source = try source(name)
            sources.append(source)
            if let biasName = biases?[index] {
                bias += try vector(biasName)
            } else {
                bias += Array(repeating: 0, count: source.rows)
            }
        }
        let hasBias = biases?.contains { $0 != nil } ?? false
        let matrix = try wrap(names.joined(separator: "+")) { () throws(KernelError) in
            try PackedMatrix(sources, bias: hasBias ? bias : nil, table: table, pool: pool)
        }
        packedBytes += matrix.byteCount
        return matrix
    }

    private func find(_ name: String) throws(EngineError) -> (TensorInfo, ElementType, UnsafeRawBufferPointer) {
        guard let tensor = checkpoint.tensor(named: name) else {
            throw .model(path: checkpoint.path, problems: ["tensor \(name) is missing"])
        }
        guard let type = tensor.type.elementType else {
            throw .model(path: checkpoint.path, problems: ["tensor \(name) has the type \(tensor.type)"])
        }
        do throws(ModelFormatError) {
            return (tensor, type, try checkpoint.bytes(of: tensor))
        } catch {
            throw EngineError.model(path: error.subject, problems: error.problems)
        }
    }

    private func wrap<Value>(
        _ what: String, _ body: () throws(KernelError) -> Value
    ) throws(EngineError) -> Value {
        do throws(KernelError) {
            return try body()
        } catch {
            throw EngineError.model(path: checkpoint.path, problems: ["\(what): \(error)"])
        }
    }
}
