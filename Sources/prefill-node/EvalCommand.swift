import ArgumentParser
import Engine
import Glibc
import Kernels
import Tokenization

/// Runs the engine in this one process, without a cluster, and writes its numbers for an outside reference.
struct EvalCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "eval",
        abstract: "Run the engine without a cluster: logits, hidden states, greedy continuation, perplexity.",
        discussion: """
            FILE.json holds a list of token ids, a list of such lists, or an object {name: ids}. The output is a \
            safetensors file with, for each sequence, logits [S, V] and on request the tensors named below, prefixed \
            by the sequence's name.
            --hidden: hidden [states, S, H]: the embedding, the residual stream after each layer (GLM: all, others: \
            but the last), the final norm's output.
            --decisions: layer<i>.topk [S, k] (positions attended to, ascending, then -1), layer<i>.experts and \
            layer<i>.expert_weights [S, experts per token], layer<i>.router_logits [S, experts].
            --drafts n: mtp_logits [S, V], and with the flags above mtp_hidden, mtp_norm_hidden, mtp.topk, \
            mtp.experts, mtp.expert_weights; mtp_draft<n>_<own|share>_ids [n] and _logits [n, V].
            --greedy n: greedy_ids [n], greedy_logits [n, V]; with --speculate k: spec<k>_accepted [rounds].
            """)

    @Option(help: "GGUF file, safetensors file, or directory of a checkpoint.")
    var model: String

    @Option(help: ArgumentHelp("Token ids to evaluate.", valueName: "file.json"))
    var ids: String?

    @Option(help: ArgumentHelp("Where the tensors go.", valueName: "file.safetensors"))
    var out: String?

    @Option(help: ArgumentHelp("Tokens of the greedy continuation.", valueName: "n"))
    var greedy = 0

    @Option(help: ArgumentHelp("Drafts per round of speculative decoding.", valueName: "k"))
    var speculate: Int?

    @Flag(help: "Write hidden states too.")
    var hidden = false

    @Flag(help: "Write what layers decided too: positions selected, experts chosen.")
    var decisions = false

    @Option(help: ArgumentHelp("Write what the MTP layer makes of it, and n drafts after it.", valueName: "n"))
    var drafts = 0

    @Option(
        help: """
            What later drafts of a round attend to: what each selects itself (own), or what the first one selected \
            (share) (default: as the checkpoint says).
            """)
    var draftSelection: String?

    @Option(help: ArgumentHelp("Epsilon of GLM's norms of latents and low-rank queries.", valueName: "number"))
    var latentEpsilon = LoadOptions.defaultLatentEpsilon

    @Option(help: ArgumentHelp("Print the loss of a text, or of the file of that name.", valueName: "text"))
    var perplexity: String?

    @Option(help: "Compute threads; 0 is all cores.")
    var threads = 0

    @Option(help: "Instruction set: portable, avx2 or avx512; the best one by default.")
    var isa: String?

    @Option(
        help: """
            Element type of the KV cache: f32, f16, bf16 or fp8. The nodes' default is f16; here it is f32, so that what \
            differs from a reference is the arithmetic and not the cache.
            """)
    var kvDtype = "f32"

    @Option(help: "Positions computed per forward pass.")
    var chunk = 512

    @Option(help: "Tokens per KV page.")
    var pageTokens = 32

    func validate() throws {
        guard ids != nil || perplexity != nil else {
            throw ValidationError("nothing to do: give --ids with --out, or --perplexity")
        }
        guard (ids == nil) == (out == nil) else { throw ValidationError("--ids and --out belong together") }
        guard latentEpsilon >= 0, latentEpsilon < 0.1 else {
            throw ValidationError("--latent-epsilon \(latentEpsilon) is not in 0..<0.1")
        }
    }

    func run() throws {
        let options = try loadOptions()
        let loaded = try LoadedModel.load(path: model, options: options)
        if speculate ?? 0 > 0 { try loaded.requireDraftLayer() }
        let evaluation = try Evaluation(model: loaded, threads: threads, chunkTokens: chunk)
        if let ids, let out {
            let input = try EvaluationInput(json: TextFile.read(ids))
            var outputs = Evaluation.Outputs()
            outputs.greedy = greedy
            outputs.hidden = hidden
            outputs.decisions = decisions
            outputs.drafts = drafts
            outputs.speculate = speculate ?? 0
            try evaluation.write(input, outputs, to: out)
        }
        if let perplexity {
            let text = TextFile.exists(perplexity) ? try TextFile.read(perplexity) : Array(perplexity.utf8)
            let tokens = try loaded.tokenizer().encode(
                String(decoding: text, as: UTF8.self), addSpecial: true, parseSpecial: false)
            let (loss, count) = try evaluation.loss(of: tokens)
            print("tokens \(count) loss \(loss) perplexity \(exp(loss))")
        }
    }

    private func loadOptions() throws -> LoadOptions {
        var options = LoadOptions()
        if let isa {
            guard let known = ISA(rawValue: isa) else {
                throw ValidationError("--isa \(isa) is none of \(ISA.allCases.map(\.rawValue).joined(separator: ", "))")
            }
            options.isa = known
        }
        options.kvType = try CacheType(option: kvDtype)
        options.pageTokens = pageTokens
        options.threads = threads
        options.latentEpsilon = latentEpsilon
        if let draftSelection {
            guard ["own", "share"].contains(draftSelection) else {
                throw ValidationError("--draft-selection \(draftSelection) is neither own nor share")
            }
            options.sharesDraftSelection = draftSelection == "share"
        }
        return options
    }
}
