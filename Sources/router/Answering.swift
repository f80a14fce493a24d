import API
import Cores
import Glibc
import HTTPTypes
import Handoff
import Hummingbird
import NIOCore
import OrderedJSON
import Routing
import Tokenization

/// A completion call as it came in.
struct Call: Sendable {
    var bytes: ByteBuffer
    var received: Duration
    var asksForTiming: Bool
}

/// A parsed request whose runs are to be answered: what both endpoints have in common.
struct Answerable: Sendable {
    var writer: AnswerWriter
    var options: GenerationOptions
    /// Tells each choice's answer apart; nil: it is plain text.
    var parser: GLMAnswerParser?
    /// One per choice, in the order of the choices' indices.
    var runs: [RunRequest]
    /// Prompt tokens, each prompt counted once.
    var promptTokens: Int
    /// Text that comes before each choice's completion (`echo`); empty strings otherwise.
    var prefixes: [String]
    /// Choices per prompt.
    var choicesPerPrompt: Int
    var ignoredFields: [String]
    var received: Duration
    var asksForTiming: Bool
}

extension FrontDoor {
    // MARK: The two endpoints

    /// Takes in the request's body and turns it into runs. The body is not kept.
    func read(_ request: Request, received: Duration) async throws(APIError) -> Answerable {
        let isChat = request.uri.path != "/v1/completions"
        let asksForTiming = HTTPField.Name("x-baton-timing").flatMap { request.headers[$0] } == "1"
        let (bytes, share) = try await body(of: request)
        let call = Call(bytes: bytes, received: received, asksForTiming: asksForTiming)
        defer { withExtendedLifetime(share) {} }
        return try await largeBodies.run(bytes: bytes.readableBytes) { () throws(APIError) in
            try isChat ? chat(call) : completion(call)
        }
    }

    private func chat(_ call: Call) throws(APIError) -> Answerable {
        let request = try ChatRequest(try parse(call.bytes))
        try prompts.check(model: request.model)
        let prompt = try prompts.prompt(for: request, now: CivilTime(secondsSince1970: wallClockSeconds()))
        var answerable = try answerable(
            .chat, request.options, prompts: [(prompt.tokens, "")], ignored: prompt.ignoredFields,
            promptField: "messages", call)
        answerable.parser = prompt.parser
        return answerable
    }

    private func completion(_ call: Call) throws(APIError) -> Answerable {
        let request = try CompletionRequest(try parse(call.bytes))
        try prompts.check(model: request.model)
        var read: [(tokens: [UInt32], echo: String)] = []
        for prompt in request.prompts {
            let tokens = try prompts.prompt(for: prompt, addSpecial: request.addsSpecialTokens)
            read.append((tokens, request.echo ? echoed(prompt) : ""))
        }
        return try answerable(
            .completion, request.options, prompts: read, ignored: request.ignoredFields, promptField: "prompt", call)
    }

    private func echoed(_ prompt: CompletionRequest.Prompt) -> String {
        switch prompt {
        case .text(let text): text
        case .tokens(let ids): prompts.tokenizer.decode(ids.map { Int32(bitPattern: $0) })
        }
    }

    private func parse(_ bytes: ByteBuffer) throws(APIError) -> JSON {
        let result = bytes.withUnsafeReadableBytes { bytes -> Result<JSON, APIError> in
            do throws(APIError) {
                return .success(try JSONBody.parse(bytes))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private func answerable(
        _ kind: AnswerWriter.Kind, _ options: GenerationOptions, prompts read: [(tokens: [UInt32], echo: String)],
        ignored: [String], promptField: String, _ call: Call
    ) throws(APIError) -> Answerable {
        let seed = options.seed ?? UInt64.random(in: 0...UInt64.max)
        // Without any node the router's own answer is 503, not a limit: the model's limit is enough here.
        let limit = contextLimit ?? Int(Int32.max)
        var runs: [RunRequest] = []
        var prefixes: [String] = []
        for prompt in read {
            var times = RunTimeline()
            times.received = call.received
            for choice in 0..<options.choices {
                let terms = try prompts.terms(
                    options, promptTokens: prompt.tokens.count, limit: limit, seed: seed, choice: choice,
                    promptField: promptField)
                times.tokenised = router.now
                runs.append(RunRequest(prompt: prompt.tokens, sampling: terms, times: times))
                prefixes.append(prompt.echo)
            }
        }
        let writer = AnswerWriter(
            kind: kind, unique: uniqueName(), created: wallClockSeconds(), model: prompts.name,
            fingerprint: "baton-\(version)", logprobs: options.logprobs,
            announcesUsage: options.streams && options.includesUsage)
        return Answerable(
            writer: writer, options: options, runs: runs, promptTokens: read.reduce(0) { $0 + $1.tokens.count },
            prefixes: prefixes, choicesPerPrompt: options.choices, ignoredFields: ignored, received: call.received,
            asksForTiming: call.asksForTiming)
    }

    private func uniqueName() -> String {
        let number = UInt64.random(in: 0...UInt64.max)
        return String(router.incarnation.value & 0xffff_ffff, radix: 36) + String(number, radix: 36)
    }

    // MARK: Answering

    /// Starts the runs and answers, streamed or not. The client's leaving stops them at once.
    /// - Parameter signal: nil when the connection is already gone.
    func answer(_ request: Answerable, _ signal: ConnectionSignal?) async throws(APIError) -> Response {
        let mailbox = AnswerMailbox(onCut: { signal?.close() })
        let numbers = try router.submit(request.runs, to: mailbox)
        let router = router
        guard let signal else {
            router.cancel(numbers)
            throw .server("The connection was closed.")
        }
        signal.watch {
            router.cancel(numbers)
            mailbox.cut()
        }
        let exchange = Exchange(
            router: router, request: request, prompts: prompts, numbers: numbers, mailbox: mailbox, signal: signal)
        var headers = HTTPFields()
        if !request.ignoredFields.isEmpty, let name = HTTPField.Name("x-baton-ignored-fields") {
            headers[name] = ignoredHeader(request.ignoredFields)
        }
        if let name = HTTPField.Name("x-request-id") { headers[name] = request.writer.id }
        return request.options.streams
            ? try await exchange.stream(headers) : .json(try await exchange.collect(), headers: headers)
    }

    /// Names of fields, safe in a header and bounded.
    private func ignoredHeader(_ names: [String]) -> String {
        let plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-."
        let safe = names.prefix(16).map { name in
            String(name.prefix(40).map { plain.contains($0) ? $0 : "?" })
        }
        return safe.joined(separator: ",") + (names.count > 16 ? ",..." : "")
    }
}

/// The wall clock, for what people and templates read; nothing is ever timed with it.
func wallClockSeconds() -> Int64 {
    var time = timespec()
    clock_gettime(CLOCK_REALTIME, &time)
    return Int64(time.tv_sec)
}
