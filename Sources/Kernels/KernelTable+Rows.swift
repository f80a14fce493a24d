import CKernels
import Glibc

/// Which elements of a head a rotation pairs.
package enum RopeStyle: Sendable {
    /// i with i + rotaryDim / 2: Hugging Face's layout.
    case halfSplit
    /// 2i with 2i + 1: the original paper's (https://arxiv.org/abs/2104.09864), and GGUF's for Llama.
    case interleaved
}

/// Operations on single rows, on the calling thread.
extension KernelTable {
    /// Dequantises one row as a file stores it; `bytes` must hold exactly the row, of whole blocks. 8-bit floats come
    /// without their scales, times 2^-8.
    package func dequantiseRow(
        _ type: ElementType, bytes: UnsafeRawBufferPointer, columns: Int, into out: UnsafeMutablePointer<Float>
    ) {
        precondition(columns >= 0 && columns % type.blockElements == 0)
        precondition(bytes.count == columns / type.blockElements * type.blockBytes)
        guard let base = bytes.baseAddress else { return }
        table.pointee.dequantise_row(type.code, base.assumingMemoryBound(to: UInt8.self), Int64(columns), out)
    }

    /// out = x / √(mean(x²) + epsilon) · weight; `out` may be `x`.
    package func rmsNorm(
        _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, count: Int, epsilon: Float,
        into out: UnsafeMutablePointer<Float>
    ) {
        table.pointee.rms_norm(x, weight, Int64(count), epsilon, out)
    }

    /// out = (x − mean) / √(variance + epsilon) · weight + bias; `out` may be `x`.
    package func layerNorm(
        _ x: UnsafePointer<Float>, weight: UnsafePointer<Float>, bias: UnsafePointer<Float>, count: Int,
        epsilon: Float, into out: UnsafeMutablePointer<Float>
    ) {
        table.pointee.layer_norm(x, weight, bias, Int64(count), epsilon, out)
    }

    /// out = 1 / (1 + e^−x); `out` may be `x`.
    package func sigmoid(_ x: UnsafePointer<Float>, count: Int, into out: UnsafeMutablePointer<Float>) {
        table.pointee.sigmoid(x, Int64(count), out)
    }

    /// sum += factor · x.
    package func add(
        _ x: UnsafePointer<Float>, times factor: Float, to sum: UnsafeMutablePointer<Float>, count: Int
    ) {
        table.pointee.add_scaled(x, factor, sum, Int64(count))
    }

    /// sum += x.
    package func add(_ x: UnsafePointer<Float>, to sum: UnsafeMutablePointer<Float>, count: Int) {
        table.pointee.add(x, sum, Int64(count))
    }

    /// out = gate / (1 + e^−gate) · up; `out` may be one of them.
    package func siluMultiply(
        gate: UnsafePointer<Float>, up: UnsafePointer<Float>, count: Int, into out: UnsafeMutablePointer<Float>
    ) {
        table.pointee.silu_multiply(gate, up, Int64(count), out)
    }

    /// Rotates the first `rotaryDim` elements of each of `heads` heads; `cosines` and `sines` hold
    /// rotaryDim / 2 values for the row's position.
    package func rope(
        _ vector: UnsafeMutablePointer<Float>, heads: Int, headDim: Int, rotaryDim: Int, style: RopeStyle,
        cosines: UnsafePointer<Float>, sines: UnsafePointer<Float>
    ) {
        precondition(rotaryDim >= 0 && rotaryDim % 2 == 0 && rotaryDim <= headDim)
        table.pointee.rope(
            vector, Int64(heads), Int64(headDim), Int64(rotaryDim), style == .interleaved, cosines, sines)
    }

    /// The largest value; −∞ if there is none (NaN doesn't count).
    package func maximum(_ x: UnsafePointer<Float>, count: Int) -> Float {
        table.pointee.maximum(x, Int64(count))
    }

    /// The index of the largest value, the lowest of several; NaN doesn't count. 0 if there is none.
    package func argmax(_ x: UnsafePointer<Float>, count: Int) -> Int {
        Int(table.pointee.argmax(x, Int64(count)))
    }

    /// log Σ e^x.
    package func logSumExp(_ x: UnsafePointer<Float>, count: Int) -> Float {
        let top = maximum(x, count: count)
        return top + Float(log(Double(table.pointee.exp_sum(x, Int64(count), top, 1, nil))))
    }

    /// out = e^((x − max) / temperature), scaled to sum to 1; `out` may be `x`.
    package func softmax(
        _ x: UnsafePointer<Float>, count: Int, temperature: Float = 1, into out: UnsafeMutablePointer<Float>
    ) {
        precondition(temperature > 0)
        let top = maximum(x, count: count)
        let sum = table.pointee.exp_sum(x, Int64(count), top, 1 / temperature, out)
        table.pointee.scale(out, Int64(count), 1 / sum)
    }

    /// Rounds to nearest, ties to even.
    package func convert(
        _ x: UnsafePointer<Float>, count: Int, to type: CacheType, into out: UnsafeMutableRawPointer
    ) {
        table.pointee.from_float(type.code, x, Int64(count), out)
    }

    /// Exact.
    package func convert(
        _ x: UnsafeRawPointer, type: CacheType, count: Int, into out: UnsafeMutablePointer<Float>
    ) {
        table.pointee.to_float(type.code, x, Int64(count), out)
    }
}
