package import Kernels

/// What memory is planned for, as `prefill-node plan` takes it. Errors name its flags.
package struct PlanRequest: Sendable, Equatable {
    /// Tokens of one sequence; nil: as many as the model allows.
    package var context: Int?
    /// Sequences of that many tokens at once.
    package var sequences = 1
    package var kvType = CacheType.f16
    package var pageTokens = 32
    /// Hold the layer that drafts tokens, if the model has one, and keep its KV.
    package var draftLayer = true
    /// Speeds of the links that handoffs are timed for, in Gbit/s.
    package var links = defaultLinks
    /// Memory that all has to fit in, in bytes; nil: not asked.
    package var memoryBytes: Int?

    package static let defaultLinks: [Double] = [10, 25, 100, 200, 400]

    private static let sequenceCounts = 1...4096
    private static let linksMax = 16
    private static let linkSpeeds = 0.001...100_000.0
    private static let memoryMaxGiB = 1_048_576.0

    package init() {}

    /// From the text of flags: `mtp` is auto or off, `links` numbers separated by commas (nil: the default ones),
    /// `memoryGiB` in GiB. Throws `invalid` with the flag and its limit.
    package init(
        context: Int?, sequences: Int, kvDtype: String, pageTokens: Int, mtp: String, links: String?,
        memoryGiB: Double?
    ) throws(EngineError) {
        self.context = context
        guard Self.sequenceCounts.contains(sequences) else {
            let limits = Self.sequenceCounts
            throw .invalid(
                field: "--sequences", reason: "\(sequences) is not in \(limits.lowerBound)...\(limits.upperBound)")
        }
        self.sequences = sequences
        do throws(EngineError) {
            kvType = try CacheType(option: kvDtype)
        } catch {
            throw .invalid(field: "--kv-dtype", reason: "\(kvDtype) is none of f32, f16, bf16, fp8")
        }
        guard PageLayout.isValid(pageTokens: pageTokens) else {
            throw .invalid(field: "--page-tokens", reason: "\(pageTokens) is no multiple of 16 in 16...1024")
        }
        self.pageTokens = pageTokens
        guard mtp == "auto" || mtp == "off" else {
            throw .invalid(field: "--mtp", reason: "\(mtp) is neither auto nor off")
        }
        draftLayer = mtp == "auto"
        if let links { self.links = try Self.speeds(links) }
        if let memoryGiB {
            guard memoryGiB > 0, memoryGiB <= Self.memoryMaxGiB else {
                throw .invalid(
                    field: "--ram", reason: "\(memoryGiB) is not above 0 and at most \(Int(Self.memoryMaxGiB)) GiB")
            }
            memoryBytes = Int(memoryGiB * 1_073_741_824)
        }
    }

    private static func speeds(_ text: String) throws(EngineError) -> [Double] {
        let parts = text.split(separator: ",", omittingEmptySubsequences: false)
        guard parts.count <= linksMax else {
            throw .invalid(field: "--link", reason: "\(parts.count) speeds, the limit is \(linksMax)")
        }
        var speeds: [Double] = []
        for part in parts {
            guard let speed = Double(part), linkSpeeds.contains(speed) else {
                let limits = "\(linkSpeeds.lowerBound)...\(Int(linkSpeeds.upperBound))"
                throw .invalid(field: "--link", reason: "\"\(part)\" is no speed in \(limits) Gbit/s")
            }
            speeds.append(speed)
        }
        return speeds
    }

    /// How a node would load the model.
    var loadOptions: LoadOptions {
        var options = LoadOptions()
        options.kvType = kvType
        options.pageTokens = pageTokens
        options.draftLayer = draftLayer
        return options
    }
}
