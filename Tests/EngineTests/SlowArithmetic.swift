import Glibc
import Kernels

typealias Vector = [Double]
/// Rows; of a weight [out][in].
typealias Matrix = [Vector]

/// The formulas that the slow models are made of, in double precision: its own rounding errors are then of no account,
/// and what differs from the engine is the engine's.
enum Slow {
    static func dot(_ a: Vector, _ b: Vector) -> Double {
        precondition(a.count == b.count)
        var sum = 0.0
        for index in a.indices { sum += a[index] * b[index] }
        return sum
    }

    static func product(_ weight: Matrix, _ x: Vector) -> Vector { weight.map { dot($0, x) } }

    static func sum(_ a: Vector, _ b: Vector) -> Vector { zip(a, b).map { $0 + $1 } }

    static func rmsNorm(_ x: Vector, _ weight: Vector, epsilon: Double) -> Vector {
        let root = (dot(x, x) / Double(x.count) + epsilon).squareRoot()
        return zip(x, weight).map { $0 / root * $1 }
    }

    static func layerNorm(_ x: Vector, _ weight: Vector, _ bias: Vector, epsilon: Double) -> Vector {
        let mean = x.reduce(0, +) / Double(x.count)
        let variance = x.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / Double(x.count)
        let root = (variance + epsilon).squareRoot()
        return x.indices.map { (x[$0] - mean) / root * weight[$0] + bias[$0] }
    }

    static func sigmoid(_ x: Double) -> Double { 1 / (1 + exp(-x)) }

    static func softmax(_ x: Vector) -> Vector {
        let top = x.max() ?? 0
        let powers = x.map { exp($0 - top) }
        let total = powers.reduce(0, +)
        return powers.map { $0 / total }
    }

    /// down(silu(gate x) ⊙ up x)
    static func feedForward(_ x: Vector, gate: Matrix, up: Matrix, down: Matrix) -> Vector {
        let inner = zip(product(gate, x), product(up, x)).map { $0 * sigmoid($0) * $1 }
        return product(down, inner)
    }

    enum Pairing { case neighbours, halves }

    /// Turns the first `dimensions` of `x`, in pairs, by angles that are proportional to the position.
    static func rotate(_ x: Vector, dimensions: Int, position: Int, theta: Double, _ pairing: Pairing) -> Vector {
        var turned = x
        for pair in 0..<dimensions / 2 {
            let angle = Double(position) * pow(theta, -2 * Double(pair) / Double(dimensions))
            let (a, b) = pairing == .neighbours ? (2 * pair, 2 * pair + 1) : (pair, pair + dimensions / 2)
            turned[a] = x[a] * cos(angle) - x[b] * sin(angle)
            turned[b] = x[b] * cos(angle) + x[a] * sin(angle)
        }
        return turned
    }

    /// The places of the `count` greatest, the greatest first; the lower place wins a tie.
    static func greatest(_ scores: Vector, _ count: Int) -> [Int] {
        let sorted = scores.indices.sorted { scores[$0] > scores[$1] || (scores[$0] == scores[$1] && $0 < $1) }
        return Array(sorted.prefix(count))
    }

    /// What a cache of that type keeps of a row.
    static func kept(_ row: Vector, as type: CacheType) -> Vector {
        switch type {
        case .f32: return row
        case .f16: return row.map { Double(Float16(Float($0))) }
        case .bf16: return row.map { Double(nearestBF16(Float($0))) }
        case .fp8:
            return stride(from: 0, to: row.count, by: 128).flatMap { start in
                let block = row[start..<min(start + 128, row.count)]
                let scale = (block.map(abs).max() ?? 0) / 448
                return block.map { scale > 0 ? valueOfE4M3(nearestE4M3($0 / scale)) * scale : 0 }
            }
        }
    }

    static func nearestBF16(_ value: Float) -> Float {
        let bits = value.bitPattern
        return Float(bitPattern: (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
    }

    /// The code of the nearest 8-bit float (OCP OFP8, E4M3); the even one wins a tie. Up to 448.
    static func nearestE4M3(_ value: Double) -> UInt8 {
        let size = min(abs(value), 448)
        let exponent = max(size > 0 ? Int(size.exponent) : -6, -6)
        // In units of the last of three bits behind the point.
        var steps = Int((size / exp2(Double(exponent - 3))).rounded(.toNearestOrEven))
        var code = 0
        if steps == 16 {
            steps = 8
            code = 1
        }
        code = steps < 8 ? steps : (exponent + 7 + code) << 3 | (steps - 8)
        return UInt8(code) | (value < 0 ? 0x80 : 0)
    }

    static func valueOfE4M3(_ code: UInt8) -> Double {
        let (exponent, mantissa) = (Int(code >> 3 & 15), Double(code & 7) / 8)
        let size = exponent == 0 ? mantissa * exp2(-6) : (1 + mantissa) * exp2(Double(exponent - 7))
        return code & 0x80 == 0 ? size : -size
    }
}
