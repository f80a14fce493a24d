import Glibc
import OrderedJSON

/// Writes a safetensors file whose tensors are declared first and streamed then, in the declared order.
///
/// The file appears under its name only when `finish` has succeeded; until then it has the suffix `.partial`,
/// and an unfinished one is removed.
package struct SafetensorsWriter: ~Copyable {
    package struct Declaration: Sendable, Equatable {
        package let name: String
        package let type: TensorType
        package let shape: [Int]

        package init(name: String, type: TensorType, shape: [Int]) {
            self.name = name
            self.type = type
            self.shape = shape
        }
    }

    private let path: String
    private let partialPath: String
    private let file: UnsafeMutablePointer<FILE>
    private var bytesLeft: Int
    private var isFinished: Bool

    /// Creates the file and writes its header.
    package init(
        path: String, tensors: [Declaration], metadata: [(key: String, value: String)] = []
    ) throws(ModelFormatError) {
        let (header, dataBytes) = try Self.header(path, tensors, metadata)
        let partialPath = path + ".partial"
        guard let file = fopen(partialPath, "wb") else { throw Self.failure(path, "cannot be created") }
        guard header.withUnsafeBytes({ fwrite($0.baseAddress, 1, $0.count, file) }) == header.count else {
            let error = Self.failure(path, "cannot be written")
            fclose(file)
            unlink(partialPath)
            throw error
        }
        self.path = path
        self.partialPath = partialPath
        self.file = file
        bytesLeft = dataBytes
        isFinished = false
    }

    deinit {
        if !isFinished {
            fclose(file)
            unlink(partialPath)
        }
    }

    /// The next bytes of the declared tensors, split anyhow.
    package mutating func write(_ bytes: UnsafeRawBufferPointer) throws(ModelFormatError) {
        guard bytes.count <= bytesLeft else {
            throw ModelFormatError(
                .tensors, path, "\(bytes.count) bytes to write, the declared tensors lack \(bytesLeft)")
        }
        guard fwrite(bytes.baseAddress, 1, bytes.count, file) == bytes.count else {
            throw Self.failure(path, "cannot be written")
        }
        bytesLeft -= bytes.count
    }

    /// The next elements of declared F32 tensors.
    package mutating func write(_ elements: [Float]) throws(ModelFormatError) { try write(array: elements) }

    /// The next elements of declared I32 tensors.
    package mutating func write(_ elements: [Int32]) throws(ModelFormatError) { try write(array: elements) }

    /// Ends the file and gives it its name. All declared bytes must have been written.
    package consuming func finish() throws(ModelFormatError) {
        guard bytesLeft == 0 else {
            throw ModelFormatError(.tensors, path, "\(bytesLeft) bytes of the declared tensors were not written")
        }
        isFinished = true
        guard fclose(file) == 0, rename(partialPath, path) == 0 else {
            let error = Self.failure(path, "cannot be completed")
            unlink(partialPath)
            throw error
        }
    }

    private mutating func write<Element: BitwiseCopyable>(array: [Element]) throws(ModelFormatError) {
        let byteCount = array.count * MemoryLayout<Element>.stride
        guard byteCount <= bytesLeft else {
            throw ModelFormatError(
                .tensors, path, "\(byteCount) bytes to write, the declared tensors lack \(bytesLeft)")
        }
        guard array.withUnsafeBytes({ fwrite($0.baseAddress, 1, $0.count, file) }) == byteCount else {
            throw Self.failure(path, "cannot be written")
        }
        bytesLeft -= byteCount
    }

    private static func header(
        _ path: String, _ tensors: [Declaration], _ metadata: [(key: String, value: String)]
    ) throws(ModelFormatError) -> (bytes: [UInt8], dataBytes: Int) {
        var object = JSONObject()
        if !metadata.isEmpty {
            object["__metadata__"] = .object(JSONObject(metadata.map { ($0.key, .string($0.value)) }))
        }
        var offset = 0
        for tensor in tensors {
            guard object[tensor.name] == nil, tensor.name != "__metadata__" else {
                throw ModelFormatError(.tensors, path, "tensor \(shown(tensor.name)) is declared twice or reserved")
            }
            guard case .success(let count?) = TensorInfo.byteCount(tensor.type, tensor.shape) else {
                throw ModelFormatError(.tensors, path, "tensor \(shown(tensor.name)) has no size: \(tensor.shape)")
            }
            object[tensor.name] = [
                "dtype": .string(tensor.type.name),
                "shape": .array(tensor.shape.map { .int(Int64($0)) }),
                "data_offsets": [.int(Int64(offset)), .int(Int64(offset + count))],
            ]
            offset += count
        }
        var json = JSON.object(object).bytes()
        // Data starts at a multiple of 8, so that readers may use it in place.
        json.append(contentsOf: repeatElement(0x20, count: (8 - json.count % 8) % 8))
        let length = withUnsafeBytes(of: UInt64(json.count).littleEndian) { Array($0) }
        return (length + json, offset)
    }

    private static func failure(_ path: String, _ what: String) -> ModelFormatError {
        ModelFormatError(.file, path, "\(what): \(String(cString: strerror(errno)))")
    }
}
