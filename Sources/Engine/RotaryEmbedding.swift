import Glibc
package import ModelFormat

/// How a model turns positions into rotation angles: one frequency per pair of dimensions, and a factor on the
/// rotated vectors. Made once at load; the frequencies of a scaling variant never depend on the length of the
/// sequence at hand, because then cached keys, chunking and batching would change results.
///
/// - linear: positions divided by a factor (Chen et al. 2023, arXiv:2306.15595).
/// - dynamic: NTK-aware base change, as vLLM's DynamicNTKScalingRotaryEmbedding does it: for the greatest length the
///   scaling allows, `originalContext · factor`, fixed. (transformers changes it as the sequence grows.)
/// - llama3: long wavelengths divided by a factor, smoothly from short ones (meta-llama/llama3 `apply_scaling`).
/// - yarn: Peng et al. 2023, arXiv:2309.00071, with the parameters of transformers.
/// - longrope: one factor per frequency (Ding et al. 2024, arXiv:2402.13753). The long ones are used when this node
///   serves contexts beyond the original one, as vLLM does; transformers switches per sequence.
/// - divisors: GGUF's `rope_freqs.weight`, each frequency divided by its own number (how llama.cpp stores llama3).
package struct RotaryEmbedding: Sendable, Equatable {
    /// radians per position, for each of `rotaryDimensions / 2` pairs
    package let inverseFrequencies: [Float]
    /// cos and sin are multiplied by this
    package let attentionFactor: Float
    package var rotaryDimensions: Int { 2 * inverseFrequencies.count }

    /// Whether `servedContext` changed the result, so that nodes with another limit compute something else.
    package let dependsOnServedContext: Bool

    /// - Parameters:
    ///   - trainedContext: the model's `max_position_embeddings`
    ///   - servedContext: the longest sequence this node accepts
    ///
    /// Throws `invalid` for parameters that make no sense; the message names the field of the config.
    package init(_ config: RopeConfig, trainedContext: Int, servedContext: Int) throws(EngineError) {
        let (dimensions, theta) = (config.dimensions, config.theta)
        guard dimensions > 0, dimensions % 2 == 0, dimensions <= 4096 else {
            throw .invalid(field: "rotary dimensions", reason: "\(dimensions) is not even and in 2...4096")
        }
        guard theta > 0, theta.isFinite else {
            throw .invalid(field: "rope_theta", reason: "\(theta) is not positive")
        }
        let half = dimensions / 2
        let plain = (0..<half).map { 1 / pow(theta, Double(2 * $0) / Double(dimensions)) }
        var factor = 1.0
        var dependsOnServedContext = false
        let frequencies: [Double]
        switch config.scaling {
        case .none:
            frequencies = plain
        case .linear(let scale):
            try Self.check(scale, "rope_scaling.factor")
            frequencies = plain.map { $0 / scale }
        case .dynamic(let scale, _):
            frequencies = try Self.dynamic(dimensions: dimensions, theta: theta, factor: scale)
        case .llama3(let scale, let low, let high, let original):
            try Self.check(scale, "rope_scaling.factor")
            frequencies = try Self.llama3(plain, factor: scale, low: low, high: high, original: original)
        case .yarn(let yarn):
            (frequencies, factor) = try Self.yarn(plain, theta: theta, yarn)
        case .longRope(let scaling):
            dependsOnServedContext = true
            (frequencies, factor) = try Self.longRope(
                plain, scaling, long: servedContext > scaling.originalContext, trainedContext: trainedContext)
        case .divisors(let divisors):
            guard divisors.count == half, divisors.allSatisfy({ $0 > 0 && $0.isFinite }) else {
                throw .invalid(field: "rope_freqs.weight", reason: "must be \(half) positive numbers")
            }
            frequencies = zip(plain, divisors).map { $0 / $1 }
        }
        self.dependsOnServedContext = dependsOnServedContext
        inverseFrequencies = frequencies.map { Float($0) }
        attentionFactor = Float(factor)
    }

    /// Writes the cosines and sines of one position: `rotaryDimensions / 2` of each. The angle is rounded to float
    /// before its cosine is taken, as the references do.
    package func angles(
        position: Int, cosines: UnsafeMutablePointer<Float>, sines: UnsafeMutablePointer<Float>
    ) {
        inverseFrequencies.withUnsafeBufferPointer { frequencies in
            for pair in 0..<frequencies.count {
                let angle = Double(Float(position) * frequencies[pair])
                cosines[pair] = Float(cos(angle)) * attentionFactor
                sines[pair] = Float(sin(angle)) * attentionFactor
            }
        }
    }

    private static func check(_ factor: Double, _ field: String) throws(EngineError) {
        guard factor >= 1, factor <= 1e6 else { throw .invalid(field: field, reason: "\(factor) is not in 1...1e6") }
    }

    private static func dynamic(dimensions: Int, theta: Double, factor: Double) throws(EngineError) -> [Double] {
        try check(factor, "rope_scaling.factor")
        guard dimensions > 2 else {
            throw .invalid(field: "rotary dimensions", reason: "dynamic scaling needs more than 2")
        }
        let exponent = Double(dimensions) / Double(dimensions - 2)
        // (factor · length / original) - (factor - 1), for the length original · factor
        let base = theta * pow(factor * factor - (factor - 1), exponent)
        return (0..<dimensions / 2).map { 1 / pow(base, Double(2 * $0) / Double(dimensions)) }
    }

    private static func llama3(
        _ plain: [Double], factor: Double, low: Double, high: Double, original: Int
    ) throws(EngineError) -> [Double] {
        guard low > 0, high > low, high.isFinite, original > 0 else {
            throw .invalid(
                field: "rope_scaling",
                reason: "needs 0 < low_freq_factor < high_freq_factor and a positive original context")
        }
        return plain.map { frequency in
            let wavelength = 2 * Double.pi / frequency
            if wavelength < Double(original) / high { return frequency }
            if wavelength > Double(original) / low { return frequency / factor }
            let smooth = (Double(original) / wavelength - low) / (high - low)
            return (1 - smooth) * frequency / factor + smooth * frequency
        }
    }

    private static func yarn(
        _ plain: [Double], theta: Double, _ yarn: YarnScaling
    ) throws(EngineError) -> ([Double], Double) {
        try check(yarn.factor, "rope_scaling.factor")
        guard yarn.originalContext > 0, yarn.betaFast > 0, yarn.betaSlow > 0 else {
            throw .invalid(field: "rope_scaling", reason: "yarn needs a positive original context and betas")
        }
        let dimensions = Double(2 * plain.count)
        /// The dimension whose wavelength turns `rotations` times in the original context.
        func dimension(_ rotations: Double) -> Double {
            dimensions * log(Double(yarn.originalContext) / (rotations * 2 * Double.pi)) / (2 * log(theta))
        }
        var low = dimension(yarn.betaFast)
        var high = dimension(yarn.betaSlow)
        if yarn.truncate {
            low = low.rounded(.down)
            high = high.rounded(.up)
        }
        low = max(low, 0)
        high = min(high, dimensions - 1)
        if low == high { high += 0.001 }
        let frequencies = plain.indices.map { index in
            let ramp = min(max((Double(index) - low) / (high - low), 0), 1)
            return plain[index] / yarn.factor * ramp + plain[index] * (1 - ramp)
        }
        func magnitude(_ scale: Double) -> Double { yarn.factor <= 1 ? 1 : 0.1 * scale * log(yarn.factor) + 1 }
        let factor =
            if let given = yarn.attentionFactor {
                given
            } else if let scale = yarn.mscale, let all = yarn.mscaleAllDimensions, scale != 0, all != 0 {
                magnitude(scale) / magnitude(all)
            } else {
                magnitude(1)
            }
        return (frequencies, factor)
    }

    private static func longRope(
        _ plain: [Double], _ scaling: LongRopeScaling, long: Bool, trainedContext: Int
    ) throws(EngineError) -> ([Double], Double) {
        let factors = long ? scaling.longFactors : scaling.shortFactors
        guard factors.count == plain.count, factors.allSatisfy({ $0 > 0 && $0.isFinite }),
            scaling.originalContext > 1
        else {
            throw .invalid(
                field: "rope_scaling",
                reason: "longrope needs \(plain.count) positive long and short factors and an original context")
        }
        let stretch = Double(trainedContext) / Double(scaling.originalContext)
        let factor =
            scaling.attentionFactor
            ?? (stretch <= 1 ? 1 : (1 + log(stretch) / log(Double(scaling.originalContext))).squareRoot())
        return (zip(plain, factors).map { $0 / $1 }, factor)
    }
}
