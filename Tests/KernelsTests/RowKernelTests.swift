import Glibc
import Kernels
import Testing

struct RowKernelTests {
    private static let counts = [1, 7, 16, 33, 576, 1000]

    /// Runs `body` on every table; expects the portable table's bits from each, and returns them.
    private func onEveryTable(_ body: (KernelTable) -> [Float]) throws -> [Float] {
        let expected = body(try KernelTable(isa: .portable))
        for table in tables { #expect(bits(body(table)) == bits(expected), "\(table.isa)") }
        return expected
    }

    @Test(arguments: counts)
    func rmsNorm(count: Int) throws {
        var numbers = Numbers(seed: 1)
        let (x, weight) = (numbers.floats(count), numbers.floats(count))
        let out = try onEveryTable { table in
            var out = [Float](repeating: .nan, count: count)
            table.rmsNorm(x, weight: weight, count: count, epsilon: 1e-5, into: &out)
            var inPlace = x
            inPlace.withUnsafeMutableBufferPointer {
                table.rmsNorm($0.baseAddress!, weight: weight, count: count, epsilon: 1e-5, into: $0.baseAddress!)
            }
            #expect(bits(out) == bits(inPlace))
            return out
        }
        let mean = x.reduce(0.0) { $0 + Double($1) * Double($1) } / Double(count)
        for index in 0..<count {
            let expected = Double(x[index]) / (mean + 1e-5).squareRoot() * Double(weight[index])
            #expect(abs(Double(out[index]) - expected) <= 1e-5 * abs(expected))
        }
    }

    @Test(arguments: counts)
    func siluMultiply(count: Int) throws {
        var numbers = Numbers(seed: 2)
        var gate = numbers.floats(count).map { $0 * 20 }
        gate[0] = -200
        let up = numbers.floats(count)
        let out = try onEveryTable { table in
            var out = [Float](repeating: .nan, count: count)
            table.siluMultiply(gate: gate, up: up, count: count, into: &out)
            return out
        }
        for index in 0..<count {
            let expected = Double(gate[index]) / (1 + exp(-Double(gate[index]))) * Double(up[index])
            #expect(abs(Double(out[index]) - expected) <= 1e-6 * abs(expected) + 1e-30)
        }
    }

    @Test(arguments: counts)
    func add(count: Int) throws {
        var numbers = Numbers(seed: 3)
        let (x, before) = (numbers.floats(count), numbers.floats(count))
        let out = try onEveryTable { table in
            var sum = before
            table.add(x, to: &sum, count: count)
            return sum
        }
        #expect(out == zip(x, before).map { $1 + $0 })
    }

    @Test(arguments: [RopeStyle.halfSplit, .interleaved], [(16, 16), (24, 8), (64, 64), (10, 0)])
    func rope(style: RopeStyle, dims: (head: Int, rotary: Int)) throws {
        var numbers = Numbers(seed: 4)
        let (heads, half) = (3, dims.rotary / 2)
        let x = numbers.floats(heads * dims.head)
        let angles = (0..<half).map { 17 * pow(10000, -Double($0) / Double(max(half, 1))) }
        let (cosines, sines) = (angles.map { Float(cos($0)) } + [0], angles.map { Float(sin($0)) } + [0])
        let out = try onEveryTable { table in
            var vector = x
            table.rope(
                &vector, heads: heads, headDim: dims.head, rotaryDim: dims.rotary, style: style, cosines: cosines,
                sines: sines)
            return vector
        }
        var expected = x
        for head in 0..<heads {
            for i in 0..<half {
                let start = head * dims.head
                let (a, b) =
                    style == .halfSplit ? (start + i, start + i + half) : (start + 2 * i, start + 2 * i + 1)
                expected[a] = x[a] * cosines[i] - x[b] * sines[i]
                expected[b] = x[a] * sines[i] + x[b] * cosines[i]
            }
        }
        #expect(out == expected)
    }

    @Test(arguments: counts)
    func softmaxAndLogSumExp(count: Int) throws {
        var numbers = Numbers(seed: 5)
        let x = numbers.floats(count).map { $0 * 8 }
        for temperature: Float in [1, 0.3] {
            let out = try onEveryTable { table in
                var out = [Float](repeating: .nan, count: count)
                table.softmax(x, count: count, temperature: temperature, into: &out)
                return out + [table.logSumExp(x, count: count)]
            }
            let largest = Double(x.max() ?? 0)
            let terms = x.map { exp((Double($0) - largest) / Double(temperature)) }
            let total = terms.reduce(0, +)
            for index in 0..<count { #expect(abs(Double(out[index]) - terms[index] / total) <= 1e-5) }
            let plain = x.reduce(0.0) { $0 + exp(Double($1) - largest) }
            #expect(abs(Double(out[count]) - (largest + log(plain))) <= 1e-5 * max(1, abs(largest)))
        }
    }

    @Test func maskedLogitsGetNoProbability() {
        var x = [Float](repeating: -.infinity, count: 40)
        x[3] = 1
        x[38] = 1
        for table in tables {
            var out = x
            table.softmax(x, count: 40, into: &out)
            #expect(out[3] == 0.5 && out[38] == 0.5 && out.reduce(0, +) == 1)
        }
    }

    @Test func argmax() {
        var numbers = Numbers(seed: 6)
        for count in [1, 15, 16, 17, 100] {
            var x = numbers.floats(count)
            for table in tables {
                #expect(table.argmax(x, count: count) == x.firstIndex(of: x.max()!))
                #expect(table.maximum(x, count: count) == x.max())
            }
            let top = Int.random(in: 0..<count, using: &numbers)
            x[top] = 99
            x[count - 1] = 99
            if top > 0 { x[0] = .nan }
            for table in tables { #expect(table.argmax(x, count: count) == top) }
        }
        for table in tables { #expect(table.argmax([.nan, .nan], count: 2) == 0) }
    }

    @Test func isaNames() throws {
        #expect(ISA(rawValue: "avx2") == .avx2)
        #expect(ISA.portable.isAvailable && ISA.best.isAvailable)
        #expect(KernelTable.best.isa == ISA.best)
        for isa in ISA.allCases where !isa.isAvailable {
            #expect(throws: KernelError.isaUnavailable(isa)) { try KernelTable(isa: isa) }
        }
    }
}
