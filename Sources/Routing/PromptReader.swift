package import API
import ControlPlane
package import Messages
import OrderedJSON
package import Tokenization

/// A chat request's prompt, and how to read the answer.
package struct ChatPrompt: Sendable {
    package var tokens: [UInt32]
    /// Tells the answer apart, one copy for each choice; nil: answers are plain text.
    package var parser: GLMAnswerParser?
    /// Fields of the request that have no effect on this model.
    package var ignoredFields: [String]
}

/// The model as the router sees it: its name, tokenizer, chat template and limits. Turns requests into token
/// ids and sampling terms.
package struct PromptReader: Sendable {
    package let name: String
    /// Further names requests may use for it.
    package let aliases: [String]
    /// Seconds since 1970: when it was loaded.
    package let created: Int64
    /// Nil when the model's configuration does not say.
    package let contextLimit: Int?
    package let tokenizer: Tokenizer
    /// Nil when the model has none: chat requests are refused.
    package let template: ChatTemplate?
    /// How the model writes its answers in a chat.
    package let format: AnswerFormat
    /// Control tokens that are markers of this format.
    package let markers: Set<Int32>
    /// No token stands for more text than this.
    private let longestTokenBytes: Int

    package init(
        name: String, aliases: [String], created: Int64, contextLimit: Int?, tokenizer: Tokenizer,
        template: ChatTemplate?
    ) {
        self.name = name
        self.aliases = aliases
        self.created = created
        self.contextLimit = contextLimit
        self.tokenizer = tokenizer
        self.template = template
        let format = template.map { AnswerFormat(template: $0.source) } ?? .plain
        self.format = format
        markers = Set(format.markers.compactMap { tokenizer.id(of: $0) })
        var longest = 1
        for id in 0..<tokenizer.vocabularySize {
            longest = max(longest, Int32(exactly: id).map { tokenizer.bytes(of: $0).count } ?? 0)
        }
        longestTokenBytes = longest
    }

    /// Throws a 404 when the request is for another model.
    package func check(model: String) throws(APIError) {
        guard model == name || aliases.contains(model) else { throw .unknownModel(model) }
    }

    /// The prompt of a chat request, through the model's own template, and how to read the answer to it.
    package func prompt(for request: ChatRequest, now: CivilTime) throws(APIError) -> ChatPrompt {
        guard let template else {
            throw .invalid("The model has no chat template; use /v1/completions.", param: "messages")
        }
        var request = request
        if format == .glm { request.fillContent() }
        let variables = variables(of: request)
        let text =
            request.continuesFinalMessage
            ? try openEnded(request, variables, template, now) : try render(template, variables, now)
        let tokens = try encode(text, addSpecial: false, param: "messages")
        guard !tokens.isEmpty else {
            throw .invalid("The chat template made an empty prompt of 'messages'.", param: "messages")
        }
        let ignoresEffort =
            request.reasoningEffort != nil
            && !["reasoning_effort", "enable_thinking"].contains { template.source.contains($0) }
        return ChatPrompt(
            tokens: tokens,
            parser: format.parser(
                prompt: text, tools: request.tools, callsMax: request.allowsParallelCalls ? nil : 1),
            ignoredFields: request.ignoredFields + (ignoresEffort ? ["reasoning_effort"] : []))
    }

    /// What the template can read.
    private func variables(of request: ChatRequest) -> [String: JSON] {
        var variables: [String: JSON] = [:]
        if let effort = request.reasoningEffort {
            variables["reasoning_effort"] = .string(effort)
            // Templates that know thinking as a switch only. What the client says of the switch itself comes after.
            variables["enable_thinking"] = .bool(effort != "none")
        }
        for (key, value) in request.templateArguments { variables[key] = value }
        variables["messages"] = .array(request.messages)
        variables["tools"] = request.tools ?? .null
        variables["add_generation_prompt"] = .bool(request.addsGenerationPrompt)
        variables["bos_token"] = .string(tokenizer.bosText)
        variables["eos_token"] = .string(tokenizer.eosText)
        return variables
    }

    /// The prompt of a completion request.
    package func prompt(for prompt: CompletionRequest.Prompt, addSpecial: Bool) throws(APIError) -> [UInt32] {
        switch prompt {
        case .text(let text):
            let tokens = try encode(text, addSpecial: addSpecial, param: "prompt")
            guard tokens.isEmpty else { return tokens }
            // Something must come before the first token: as elsewhere, an empty prompt is one end token.
            guard let start = tokenizer.bosID ?? tokenizer.eosID, let token = UInt32(exactly: start) else {
                throw .invalid("'prompt' is empty.", param: "prompt")
            }
            return [token]
        case .tokens(let tokens):
            guard !tokens.isEmpty else { throw .invalid("'prompt' is empty.", param: "prompt") }
            if let outside = tokens.first(where: { $0 >= UInt32(tokenizer.vocabularySize) }) {
                throw .invalid(
                    "'prompt' has the token id \(outside); the vocabulary has \(tokenizer.vocabularySize).",
                    param: "prompt", code: "invalid_value")
            }
            return tokens
        }
    }

    /// Sampling terms for one choice of a request.
    /// - Parameters:
    ///   - limit: the longest sequence the cluster can hold.
    ///   - seed: the request's seed, or the one drawn for it; choice i takes seed + i.
    package func terms(
        _ options: GenerationOptions, promptTokens: Int, limit: Int, seed: UInt64, choice: Int, promptField: String
    ) throws(APIError) -> SamplingTerms {
        // A longer sequence could not be handed over, whatever the nodes can hold.
        let limit = min(limit, ControlLimits.tokens)
        guard promptTokens < limit else {
            throw .contextLength(limit: limit, prompt: promptTokens, completion: nil, param: promptField)
        }
        let room = limit - promptTokens
        if let asked = options.maxTokens, asked > room {
            throw .contextLength(limit: limit, prompt: promptTokens, completion: asked, param: promptField)
        }
        let vocabulary = UInt32(tokenizer.vocabularySize)
        if let outside = (options.logitBias.map(\.token) + options.stopTokens).first(where: { $0 >= vocabulary }) {
            throw .invalid(
                "The token id \(outside) is outside the vocabulary of \(vocabulary).",
                param: options.stopTokens.contains(outside) ? "stop_token_ids" : "logit_bias", code: "invalid_value")
        }
        var terms = SamplingTerms()
        terms.temperature = Float(options.temperature)
        terms.topK = options.topK
        // A top-p of 0 keeps the likeliest token only, which any tiny value does too.
        terms.topP = max(Float(options.topP), .leastNormalMagnitude)
        terms.minP = Float(options.minP)
        terms.repetitionPenalty = Float(options.repetitionPenalty)
        terms.presencePenalty = Float(options.presencePenalty)
        terms.frequencyPenalty = Float(options.frequencyPenalty)
        terms.seed = seed &+ UInt64(choice)
        terms.logitBias = options.logitBias.map { SamplingTerms.Bias(token: $0.token, bias: Float($0.bias)) }
        let ends = options.ignoresEndOfSequence ? [] : tokenizer.endIDs.compactMap { UInt32(exactly: $0) }
        terms.stopTokens = ends + options.stopTokens.filter { !ends.contains($0) }
        terms.maxTokens = options.maxTokens ?? room
        terms.minTokens = min(options.minTokens, terms.maxTokens)
        terms.logprobs = options.logprobs
        terms.topLogprobs = options.topLogprobs
        return terms
    }

    /// Refuses what is too long by its bytes alone, before the work of tokenising it.
    private func encode(_ text: String, addSpecial: Bool, param: String) throws(APIError) -> [UInt32] {
        let limit = min(contextLimit ?? ControlLimits.tokens, ControlLimits.tokens)
        let least = text.utf8.count / longestTokenBytes
        guard least <= limit else {
            throw .contextLength(limit: limit, prompt: least, completion: nil, param: param)
        }
        return tokenizer.encode(text, addSpecial: addSpecial, parseSpecial: true).map { UInt32(bitPattern: $0) }
    }

    private func render(
        _ template: ChatTemplate, _ variables: [String: JSON], _ now: CivilTime
    ) throws(APIError) -> String {
        do {
            return try template.render(variables, now: now)
        } catch {
            // Templates refuse conversations they are not made for, with a sentence of their own.
            throw .invalid("The model's chat template refused the messages: \(error).", param: "messages")
        }
    }

    /// The conversation with its last message left open: a mark takes the place of the last content, and
    /// everything from the mark on is cut off.
    private func openEnded(
        _ request: ChatRequest, _ variables: [String: JSON], _ template: ChatTemplate, _ now: CivilTime
    ) throws(APIError) -> String {
        guard let last = request.messages.last, case .object(var message) = last,
            case .string(let content)? = message["content"]
        else {
            throw .invalid(
                "'continue_final_message' needs a last message with text.", param: "continue_final_message")
        }
        let mark = "\u{1}baton-open-end\u{1}"
        message["content"] = .string(mark)
        var marked = variables
        marked["messages"] = .array(request.messages.dropLast() + [.object(message)])
        let text = try render(template, marked, now)
        guard let range = text.firstRange(of: mark) else {
            throw .invalid(
                "The model's chat template does not show the last message; it cannot be continued.",
                param: "continue_final_message")
        }
        return String(text[..<range.lowerBound]) + content
    }
}
