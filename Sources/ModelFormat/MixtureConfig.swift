/// A mixture of experts: a router picks `expertsPerToken` of `expertCount` small MLPs for each token, and adds what
/// they give, weighted. Some architectures add a shared MLP that sees every token.
package struct MixtureConfig: Sendable, Equatable {
    /// What makes an expert's score of the router's number for it.
    package enum Scoring: Sendable, Equatable { case sigmoid, softmax }

    package let expertCount: Int
    package let expertsPerToken: Int
    /// Width of an expert (`moe_intermediate_size`).
    package let expertSize: Int
    /// Width of the shared experts together, which are one MLP in the checkpoint; 0 without.
    package let sharedSize: Int
    package let scoring: Scoring
    /// Experts are in this many groups of equal size, of which the best `groupLimit` are chosen from; 1 without groups.
    package let groupCount: Int
    package let groupLimit: Int
    /// The chosen experts' scores are divided by their sum.
    package let normalises: Bool
    /// The weights of the chosen experts are multiplied by it in the end.
    package let scalingFactor: Float

    package init(
        expertCount: Int, expertsPerToken: Int, expertSize: Int, sharedSize: Int, scoring: Scoring, groupCount: Int,
        groupLimit: Int, normalises: Bool, scalingFactor: Float
    ) {
        self.expertCount = expertCount
        self.expertsPerToken = expertsPerToken
        self.expertSize = expertSize
        self.sharedSize = sharedSize
        self.scoring = scoring
        self.groupCount = groupCount
        self.groupLimit = groupLimit
        self.normalises = normalises
        self.scalingFactor = scalingFactor
    }

    static let expertCounts = 1...4096
    static let sharedCounts = 0...64
    static let factors = 1e-6...1e6
    /// Experts of all layers together, so that a config cannot ask for an endless list of tensors; GLM-5 has 20,224.
    static let totalExperts = 1 << 18

    /// Fields of GLM-5, with transformers' defaults.
    static func glm5(_ fields: inout ConfigFields, layerCount: Int) -> MixtureConfig {
        fields.require("scoring_func", "sigmoid")
        fields.require("topk_method", "noaux_tc")
        // The names that transformers takes for it.
        let countName =
            fields.firstPresent("n_routed_experts", "num_local_experts", "num_experts") ?? "n_routed_experts"
        let size = fields.integer("moe_intermediate_size", CommonConfig.widths)
        let mixture = MixtureConfig(
            expertCount: fields.integer(countName, expertCounts),
            expertsPerToken: fields.integer("num_experts_per_tok", expertCounts),
            expertSize: size, sharedSize: size * fields.integer("n_shared_experts", sharedCounts, default: 1),
            scoring: .sigmoid,
            groupCount: fields.integer("n_group", expertCounts, default: 1),
            groupLimit: fields.integer("topk_group", expertCounts, default: 1),
            normalises: fields.flag("norm_topk_prob", default: true),
            scalingFactor: Float(fields.number("routed_scaling_factor", factors, default: 2.5)))
        mixture.check(&fields, countName, layerCount: layerCount)
        return mixture
    }

    /// Fields of Qwen3-MoE, with transformers' defaults.
    static func qwen3(_ fields: inout ConfigFields, layerCount: Int) -> MixtureConfig {
        // Published configs have the first, transformers 5 writes the second.
        let countName = fields.firstPresent("num_experts", "num_local_experts") ?? "num_experts"
        let mixture = MixtureConfig(
            expertCount: fields.integer(countName, expertCounts),
            expertsPerToken: fields.integer("num_experts_per_tok", expertCounts),
            expertSize: fields.integer("moe_intermediate_size", CommonConfig.widths), sharedSize: 0,
            scoring: .softmax, groupCount: 1, groupLimit: 1,
            normalises: fields.flag("norm_topk_prob", default: false), scalingFactor: 1)
        mixture.check(&fields, countName, layerCount: layerCount)
        return mixture
    }

    private func check(_ fields: inout ConfigFields, _ countName: String, layerCount: Int) {
        if layerCount * expertCount > Self.totalExperts {
            fields.report(
                "num_hidden_layers \(layerCount) × \(countName) \(expertCount) is above the limit of "
                    + "\(Self.totalExperts) experts")
        }
        if groupLimit > groupCount { fields.report("topk_group \(groupLimit) is above n_group \(groupCount)") }
        guard expertCount % groupCount == 0 else {
            fields.report("\(countName) \(expertCount) is not a multiple of n_group \(groupCount)")
            return
        }
        let groupSize = expertCount / groupCount
        // A group is judged by its two best experts.
        if groupCount > 1, groupSize < 2 {
            fields.report("\(countName) \(expertCount) in n_group \(groupCount) leaves fewer than 2 experts in a group")
        }
        let reachable = min(groupLimit, groupCount) * groupSize
        if expertsPerToken > reachable {
            fields.report(
                "num_experts_per_tok \(expertsPerToken) is above the \(reachable) experts that can be chosen"
                    + (groupCount > 1 ? " from topk_group \(groupLimit) of n_group \(groupCount)" : ""))
        }
    }
}

/// The matrices of an expert, which is an MLP: down(silu(gate x) ⊙ up x).
package enum ExpertProjection: Sendable, Hashable, CaseIterable {
    case gate, up, down

    /// As safetensors files name it.
    var name: String {
        switch self {
        case .gate: "gate_proj.weight"
        case .up: "up_proj.weight"
        case .down: "down_proj.weight"
        }
    }

    /// [out, in] in an MLP of that width.
    func shape(width: Int, hidden: Int) -> [Int] {
        self == .down ? [hidden, width] : [width, hidden]
    }
}
