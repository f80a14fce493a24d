import Glibc
import Kernels
import Testing

/// Against samples made with the `gguf` Python package (Q4_1 and Q8_0 are rows of a published model): the
/// block layouts, to the last bit. See Tests/Fixtures/kernels/README.md.
struct DequantiseTests {
    private func fixture(_ name: String, _ file: String = #filePath) throws -> [UInt8] {
        let tests = file.split(separator: "/", omittingEmptySubsequences: false).dropLast(2).joined(separator: "/")
        let stream = try #require(fopen(tests + "/Fixtures/kernels/" + name + ".bin", "rb"))
        defer { fclose(stream) }
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = fread(&bytes, 1, bytes.count, stream)
        return Array(bytes[..<count])
    }

    /// All codes that are numbers, in rows that end anywhere in a vector; their scales are the caller's.
    @Test func eightBitFloats() {
        let codes = (UInt8.min...UInt8.max).filter { $0 & 0x7f != 0x7f }
        for table in tables {
            for count in [1, 15, 16, 33, codes.count] {
                var out = [Float](repeating: .nan, count: count)
                codes.withUnsafeBytes { raw in
                    table.dequantiseRow(
                        .f8E4M3, bytes: UnsafeRawBufferPointer(rebasing: raw[..<count]), columns: count, into: &out)
                }
                #expect(bits(out.map { $0 * 256 }) == bits(codes.prefix(count).map(e4m3)), "\(table.isa) \(count)")
            }
        }
    }

    @Test(arguments: [ElementType.q4_0, .q4_1, .q8_0, .q4_K, .q5_K, .q6_K])
    func matchesReference(type: ElementType) throws {
        let bytes = try fixture(type.name.lowercased())
        let (rows, columns) = bytes.withUnsafeBytes {
            (Int($0.load(as: UInt32.self)), Int($0.load(fromByteOffset: 4, as: UInt32.self)))
        }
        let rowBytes = try type.rowBytes(columns: columns)
        #expect(bytes.count == 8 + rows * (rowBytes + columns * 4))
        for table in tables {
            for row in 0..<rows {
                var out = [Float](repeating: .nan, count: columns)
                let expected = bytes.withUnsafeBytes { raw in
                    let start = 8 + row * rowBytes
                    table.dequantiseRow(
                        type, bytes: UnsafeRawBufferPointer(rebasing: raw[start..<start + rowBytes]), columns: columns,
                        into: &out)
                    let floats = 8 + rows * rowBytes + row * columns * 4
                    return (0..<columns).map { raw.loadUnaligned(fromByteOffset: floats + $0 * 4, as: Float.self) }
                }
                #expect(out == expected, "\(table.isa) row \(row)")
            }
        }
    }

    @Test func everyHalfConverts() throws {
        let halves = (0...UInt16.max).map { $0 }
        for table in tables {
            var floats = [Float](repeating: 0, count: halves.count)
            halves.withUnsafeBytes { table.convert($0.baseAddress!, type: .f16, count: halves.count, into: &floats) }
            var back = [UInt16](repeating: 0, count: halves.count)
            back.withUnsafeMutableBytes {
                table.convert(floats, count: floats.count, to: .f16, into: $0.baseAddress!)
            }
            for half in halves {
                let float = floats[Int(half)]
                let expected = Float(Float16(bitPattern: half))
                #expect(float == expected || float.isNaN && expected.isNaN)
                #expect(back[Int(half)] == half || float.isNaN && Float16(bitPattern: back[Int(half)]).isNaN)
            }
        }
    }

    @Test func conversionsRoundToEven() throws {
        var numbers = Numbers(seed: 3)
        var values: [Float] = [0, -0.0, 1, 65504, 65519.99, 65520, 1e30, 6e-8, 2.98e-8, 1e-10, .infinity, -.infinity]
        // Half way between neighbours, and all magnitudes.
        values += (0..<4000).map { _ in
            let bits = UInt32.random(in: 0...UInt32.max, using: &numbers)
            return Float(bitPattern: Bool.random(using: &numbers) ? bits & ~0xfff | 0x1000 : bits & ~0x7fff | 0x8000)
        }
        values.removeAll(where: \.isNaN)
        for table in tables {
            var half = [UInt16](repeating: 0, count: values.count)
            var bfloat = half
            half.withUnsafeMutableBytes { table.convert(values, count: values.count, to: .f16, into: $0.baseAddress!) }
            bfloat.withUnsafeMutableBytes {
                table.convert(values, count: values.count, to: .bf16, into: $0.baseAddress!)
            }
            for (index, value) in values.enumerated() {
                #expect(half[index] == Float16(value).bitPattern, "\(table.isa) \(value)")
                let rest = value.bitPattern & 0xffff
                let up = rest > 0x8000 || rest == 0x8000 && value.bitPattern >> 16 & 1 == 1
                #expect(bfloat[index] == UInt16(value.bitPattern >> 16) + (up ? 1 : 0), "\(table.isa) \(value)")
            }
        }
    }
}
