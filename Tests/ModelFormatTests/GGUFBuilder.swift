/// Writes GGUF files, honest and lying ones: nothing here checks anything.
struct GGUFBuilder {
    /// A metadata value: its type's number and its bytes.
    struct Value {
        let type: UInt32
        let bytes: [UInt8]

        static func uint32(_ value: UInt32) -> Value { Value(type: 4, bytes: little(value)) }
        static func int32(_ value: Int32) -> Value { Value(type: 5, bytes: little(value)) }
        static func uint64(_ value: UInt64) -> Value { Value(type: 10, bytes: little(value)) }
        static func float32(_ value: Float) -> Value { Value(type: 6, bytes: little(value.bitPattern)) }
        static func bool(_ value: Bool) -> Value { Value(type: 7, bytes: [value ? 1 : 0]) }
        static func string(_ value: String) -> Value { Value(type: 8, bytes: text(Array(value.utf8))) }

        static func array(_ type: UInt32, _ elements: [Value], count: UInt64? = nil) -> Value {
            Value(
                type: 9,
                bytes: little(type) + little(count ?? UInt64(elements.count)) + elements.flatMap(\.bytes))
        }

        static func strings(_ values: [String]) -> Value { array(8, values.map(string)) }
        static func floats(_ values: [Float]) -> Value { array(6, values.map(float32)) }
        static func ints(_ values: [Int32]) -> Value { array(5, values.map(int32)) }
    }

    struct Tensor {
        var name: String
        /// In the file's order: innermost first.
        var dimensions: [UInt64]
        var type: UInt32
        var offset: UInt64
    }

    var version: UInt32 = 3
    var metadata: [(String, Value)] = []
    var tensors: [Tensor] = []
    var data: [UInt8] = []
    var alignment = 32
    var tensorCount: UInt64?
    var keyCount: UInt64?

    /// Adds a tensor after the others, its shape outermost first, with `bytes` as data.
    mutating func add(_ name: String, _ shape: [Int], type: UInt32 = 0, bytes: [UInt8]) {
        data += [UInt8](repeating: 0, count: (alignment - data.count % alignment) % alignment)
        tensors.append(
            Tensor(name: name, dimensions: shape.reversed().map(UInt64.init), type: type, offset: UInt64(data.count)))
        data += bytes
    }

    mutating func add(_ name: String, _ shape: [Int], floats: [Float]) {
        add(name, shape, bytes: floats.flatMap { little($0.bitPattern) })
    }

    var bytes: [UInt8] {
        var out = Array("GGUF".utf8) + little(version)
        out += little(tensorCount ?? UInt64(tensors.count)) + little(keyCount ?? UInt64(metadata.count))
        for (key, value) in metadata { out += text(Array(key.utf8)) + little(value.type) + value.bytes }
        for tensor in tensors {
            out += text(Array(tensor.name.utf8)) + little(UInt32(tensor.dimensions.count))
            out += tensor.dimensions.flatMap { little($0) } + little(tensor.type) + little(tensor.offset)
        }
        out += [UInt8](repeating: 0, count: (alignment - out.count % alignment) % alignment)
        return out + data
    }

    /// A file with every kind of metadata and a few tensors.
    static var sample: GGUFBuilder {
        var builder = GGUFBuilder()
        builder.metadata = [
            ("general.architecture", .string("llama")), ("u8", Value(type: 0, bytes: [7])),
            ("i8", Value(type: 1, bytes: [0xFF])), ("u16", Value(type: 2, bytes: [1, 2])),
            ("i16", Value(type: 3, bytes: [0xFE, 0xFF])), ("u32", .uint32(9)), ("i32", .int32(-9)),
            ("f32", .float32(0.5)), ("bool", .bool(true)), ("u64", .uint64(1 << 40)),
            ("i64", Value(type: 11, bytes: little(Int64(-5)))),
            ("f64", Value(type: 12, bytes: little(Double(0.1).bitPattern))),
            ("strings", .strings(["a", "", "Ġü"])), ("floats", .floats([1, -2])), ("ints", .ints([3, -4])),
            ("nested", .array(9, [.ints([1]), .strings(["x"])])),
        ]
        builder.add("norm", [4], floats: [1, 2, 3, 4])
        builder.add("matrix", [3, 32], type: 2, bytes: [UInt8](repeating: 1, count: 54))
        builder.add("odd", [2], type: 99, bytes: [1, 2, 3])
        return builder
    }
}

func little<T: FixedWidthInteger>(_ value: T) -> [UInt8] {
    withUnsafeBytes(of: value.littleEndian) { Array($0) }
}

private func text(_ bytes: [UInt8]) -> [UInt8] {
    little(UInt64(bytes.count)) + bytes
}
