import Glibc
import OrderedJSON

/// How positions become rotations of queries and keys (RoPE; Su et al. 2021, arXiv:2104.09864).
package struct RopeConfig: Sendable, Equatable {
    /// Which dimensions of a head turn together.
    package enum Pairing: Sendable, Equatable {
        /// i with i + dimensions/2: most Hugging Face checkpoints.
        case halfSplit
        /// 2i with 2i + 1: GLM-5, and GGUF files of the llama architecture, whose q and k rows are permuted accordingly.
        case interleaved
    }

    package let theta: Double
    /// Rotated dimensions of each head, the first ones; even.
    package let dimensions: Int
    package let pairing: Pairing
    package let scaling: RopeScaling

    package init(theta: Double, dimensions: Int, pairing: Pairing, scaling: RopeScaling) {
        self.theta = theta
        self.dimensions = dimensions
        self.pairing = pairing
        self.scaling = scaling
    }
}

/// The published ways to stretch a context, with the names of `rope_scaling` in `config.json`.
package enum RopeScaling: Sendable, Equatable {
    case none
    case linear(factor: Double)
    /// NTK-aware change of the base (`rope_type: dynamic`).
    case dynamic(factor: Double, originalContext: Int)
    case llama3(factor: Double, lowFrequencyFactor: Double, highFrequencyFactor: Double, originalContext: Int)
    case yarn(YarnScaling)
    case longRope(LongRopeScaling)
    /// GGUF's `rope_freqs.weight`: each inverse frequency is divided by its own number (dimensions / 2 of them).
    case divisors([Double])
}

/// YaRN (Peng et al. 2023, arXiv:2309.00071).
package struct YarnScaling: Sendable, Equatable {
    package var factor: Double
    package var originalContext: Int
    package var betaFast = 32.0
    package var betaSlow = 1.0
    /// Factor on the rotated vectors; nil for the paper's 0.1 ln(factor) + 1.
    package var attentionFactor: Double?
    package var mscale: Double?
    package var mscaleAllDimensions: Double?
    /// Round the ramp's ends to whole dimensions.
    package var truncate = true

    package init(factor: Double, originalContext: Int) {
        self.factor = factor
        self.originalContext = originalContext
    }
}

/// LongRoPE (Ding et al. 2024, arXiv:2402.13753): one factor per inverse frequency.
package struct LongRopeScaling: Sendable, Equatable {
    package var shortFactors: [Double]
    package var longFactors: [Double]
    package var originalContext: Int
    /// Factor on the rotated vectors; nil to derive it from the stretch of the context.
    package var attentionFactor: Double?

    package init(
        shortFactors: [Double], longFactors: [Double], originalContext: Int, attentionFactor: Double? = nil
    ) {
        self.shortFactors = shortFactors
        self.longFactors = longFactors
        self.originalContext = originalContext
        self.attentionFactor = attentionFactor
    }
}

extension RopeConfig {
    static let factors = 1.0...1e6
    static let thetas = 1.0...1e12
    static let positive = 1e-9...1e9

    /// From `config.json`: `rope_theta` and `rope_scaling` (transformers 4) or `rope_parameters` (transformers 5).
    /// `dimensionName` is the field that `headDimension` came from.
    init(
        huggingFace fields: inout ConfigFields, headDimension: Int, contextLimit: Int, pairing: Pairing = .halfSplit,
        dimensionName: String = "head_dim"
    ) {
        let group = fields.firstPresent("rope_parameters", "rope_scaling")
        if let group, let value = fields.value(group), value.object == nil {
            fields.report("\(group) must be an object, not \(value.kindName)")
        }
        func name(_ field: String) -> String { group.map { "\($0).\(field)" } ?? field }
        let thetaName = fields.firstPresent(name("rope_theta"), "rope_theta") ?? "rope_theta"
        theta = fields.number(thetaName, Self.thetas, default: 10000)
        let shareName = fields.firstPresent(name("partial_rotary_factor"), "partial_rotary_factor")
        let share = shareName.map { fields.number($0, 0...1) } ?? 1
        dimensions = Int(Double(headDimension) * share)
        self.pairing = pairing
        if dimensions < 2 || dimensions % 2 != 0 {
            fields.report(
                "the rotated dimensions of a head (\(dimensionName) × partial_rotary_factor) are \(dimensions), not even"
            )
        }
        guard group != nil else {
            scaling = .none
            return
        }
        let typeName = fields.firstPresent(name("rope_type"), name("type")) ?? name("rope_type")
        let contextName =
            fields.firstPresent(name("original_max_position_embeddings"), "original_max_position_embeddings")
            ?? name("original_max_position_embeddings")
        let context = fields.integer(contextName, CommonConfig.contexts, default: contextLimit)
        switch fields.text(typeName, default: "default") {
        case "default":
            scaling = .none
        case "linear":
            scaling = .linear(factor: fields.number(name("factor"), Self.factors))
        case "dynamic":
            scaling = .dynamic(factor: fields.number(name("factor"), Self.factors), originalContext: context)
        case "llama3":
            scaling = Self.llama3(&fields, name, context)
        case "yarn":
            scaling = .yarn(Self.yarn(&fields, name, context))
        case "longrope", "su":
            scaling = .longRope(
                LongRopeScaling(
                    shortFactors: fields.numbers(name("short_factor"), count: dimensions / 2, Self.positive),
                    longFactors: fields.numbers(name("long_factor"), count: dimensions / 2, Self.positive),
                    originalContext: context,
                    attentionFactor: fields.optionalNumber(name("attention_factor"), Self.positive)))
        case let other:
            fields.report(
                "\(typeName) is \(shown(other)); supported: default, linear, dynamic, llama3, yarn, longrope")
            scaling = .none
        }
    }

    private static func llama3(
        _ fields: inout ConfigFields, _ name: (String) -> String, _ context: Int
    ) -> RopeScaling {
        let low = fields.number(name("low_freq_factor"), positive)
        let high = fields.number(name("high_freq_factor"), positive)
        if high <= low { fields.report("\(name("high_freq_factor")) \(high) is not above low_freq_factor \(low)") }
        return .llama3(
            factor: fields.number(name("factor"), factors), lowFrequencyFactor: low, highFrequencyFactor: high,
            originalContext: context)
    }

    private static func yarn(
        _ fields: inout ConfigFields, _ name: (String) -> String, _ context: Int
    ) -> YarnScaling {
        var yarn = YarnScaling(factor: fields.number(name("factor"), factors), originalContext: context)
        yarn.betaFast = fields.number(name("beta_fast"), positive, default: yarn.betaFast)
        yarn.betaSlow = fields.number(name("beta_slow"), positive, default: yarn.betaSlow)
        yarn.attentionFactor = fields.optionalNumber(name("attention_factor"), positive)
        yarn.mscale = fields.optionalNumber(name("mscale"), 0...1e6)
        yarn.mscaleAllDimensions = fields.optionalNumber(name("mscale_all_dim"), 0...1e6)
        yarn.truncate = fields.flag(name("truncate"), default: true)
        return yarn
    }

    /// From GGUF metadata under `prefix` ("llama."), and the tensors that hold per-frequency factors.
    init(
        gguf fields: inout ConfigFields, prefix: String, _ file: GGUFFile, headDimension: Int, contextLimit: Int
    ) throws(ModelFormatError) {
        theta = fields.number(prefix + "rope.freq_base", Self.thetas, default: 10000)
        let dimensions = fields.integer(prefix + "rope.dimension_count", 2...headDimension, default: headDimension)
        self.dimensions = dimensions
        pairing = .interleaved
        if dimensions % 2 != 0 { fields.report("\(prefix)rope.dimension_count \(dimensions) is not even") }
        let scalingPrefix = prefix + "rope.scaling."
        let context = fields.integer(
            scalingPrefix + "original_context_length", CommonConfig.contexts, default: contextLimit)
        switch fields.text(scalingPrefix + "type", default: "none") {
        case "none":
            let divisors = try Self.factorTensor("rope_freqs.weight", file, count: dimensions / 2, &fields)
            if let divisors {
                scaling = .divisors(divisors)
            } else if fields.value(prefix + "rope.scale_linear") != nil {
                scaling = .linear(factor: fields.number(prefix + "rope.scale_linear", Self.factors))
            } else {
                scaling = .none
            }
        case "linear":
            scaling = .linear(factor: fields.number(scalingPrefix + "factor", Self.factors))
        case "yarn":
            var yarn = YarnScaling(
                factor: fields.number(scalingPrefix + "factor", Self.factors), originalContext: context)
            yarn.betaFast = fields.number(scalingPrefix + "yarn_beta_fast", Self.positive, default: yarn.betaFast)
            yarn.betaSlow = fields.number(scalingPrefix + "yarn_beta_slow", Self.positive, default: yarn.betaSlow)
            // ggml multiplies its attention factor with the paper's, where transformers replaces it.
            yarn.attentionFactor = fields.optionalNumber(scalingPrefix + "attn_factor", Self.positive)
                .map { $0 * (0.1 * log(yarn.factor) + 1) }
            scaling = .yarn(yarn)
        case "longrope":
            let short = try Self.factorTensor("rope_factors_short.weight", file, count: dimensions / 2, &fields)
            let long = try Self.factorTensor("rope_factors_long.weight", file, count: dimensions / 2, &fields)
            if short == nil || long == nil { fields.report("longrope needs rope_factors_{short,long}.weight") }
            scaling = .longRope(
                LongRopeScaling(
                    shortFactors: short ?? [], longFactors: long ?? [], originalContext: context,
                    attentionFactor: fields.optionalNumber(scalingPrefix + "attn_factor", Self.positive)))
        case let other:
            fields.report("\(scalingPrefix)type is \(shown(other)); supported: none, linear, yarn, longrope")
            scaling = .none
        }
    }

    /// An F32 vector of `count` positive numbers; nil if there is no such tensor.
    private static func factorTensor(
        _ name: String, _ file: GGUFFile, count: Int, _ fields: inout ConfigFields
    ) throws(ModelFormatError) -> [Double]? {
        guard let tensor = file.table[name] else { return nil }
        guard tensor.type == .f32, tensor.shape == [count] else {
            fields.report("\(name) is \(tensor.type) \(tensor.shape), the config asks for F32 [\(count)]")
            return nil
        }
        let bytes = file.bytes(of: tensor)
        let numbers = (0..<count).map { index in
            Double(
                Float(bitPattern: UInt32(littleEndian: bytes.loadUnaligned(fromByteOffset: 4 * index, as: UInt32.self)))
            )
        }
        guard numbers.allSatisfy(positive.contains) else {
            fields.report("\(name) holds numbers that are not positive")
            return nil
        }
        return numbers
    }
}
