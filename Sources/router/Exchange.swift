import API
import Cores
import HTTPTypes
import Hummingbird
import NIOCore
import OrderedJSON
import Routing
import Synchronization
import Telemetry
import Tokenization

/// One request's answer being made: takes what the mailbox brings, turns tokens into text, and writes it.
/// Used by one task, or by one thread at a time while that task follows the mailbox.
struct Exchange: Sendable {
    private let router: Routing.Router
    private let request: Answerable
    private let numbers: [UInt64]
    private let mailbox: AnswerMailbox
    private let signal: ConnectionSignal
    private var choices: [Choice]
    /// What ended a stream early, found while following.
    private var failure: APIError?

    private struct Choice: Sendable {
        var assembler: ChoiceAssembler
        var collected = AnswerPiece()
        /// Streams: the role chunk, or the echoed prompt, has gone out.
        var hasBegun = false
        var finish: FinishReason?
        var times = RunTimeline()
    }

    init(
        router: Routing.Router, request: Answerable, prompts: PromptReader, numbers: [UInt64],
        mailbox: AnswerMailbox, signal: ConnectionSignal
    ) {
        self.router = router
        self.request = request
        self.numbers = numbers
        self.mailbox = mailbox
        self.signal = signal
        choices = numbers.map { _ in
            Choice(
                assembler: ChoiceAssembler(
                    tokenizer: prompts.tokenizer, stops: request.options.stopStrings,
                    logprobs: request.options.logprobs, parser: request.parser, markers: prompts.markers))
        }
    }

    /// Every choice has ended.
    private var isComplete: Bool { choices.allSatisfy { $0.finish != nil } }

    // MARK: Not streamed

    /// The whole answer.
    consuming func collect() async throws(APIError) -> JSON {
        var exchange = self
        defer { exchange.signal.unwatch() }
        while !exchange.isComplete {
            for delivery in try await exchange.deliveries() {
                let piece = try exchange.take(delivery)
                exchange.choices[delivery.choice].collected.append(piece)
            }
        }
        let answers = exchange.choices.enumerated().map { index, choice in
            var piece = choice.collected
            piece.text = exchange.request.prefixes[index] + piece.text
            return Answer(index: index, piece: piece, finish: choice.finish ?? .stop)
        }
        return exchange.request.writer.body(answers, usage: exchange.usage, extra: exchange.timingField)
    }

    /// What the mailbox brings next. Throws when the client is gone.
    private func deliveries() async throws(APIError) -> [AnswerMailbox.Delivery] {
        let deliveries = await mailbox.next()
        if deliveries.isEmpty {
            router.cancel(numbers)
            throw .server("The client closed the connection.", code: "client_closed")
        }
        return deliveries
    }

    /// The text a delivery makes certain. Throws when the choice failed: then all are stopped.
    private mutating func take(_ delivery: AnswerMailbox.Delivery) throws(APIError) -> AnswerPiece {
        let index = delivery.choice
        var piece = AnswerPiece()
        if !choices[index].assembler.isStopped {
            piece = choices[index].assembler.append(delivery.tokens, alternatives: delivery.alternatives)
            if choices[index].assembler.isStopped { router.complete(numbers[index]) }
        }
        guard let ending = delivery.ending else { return piece }
        choices[index].times = ending.times
        switch ending.result {
        case .success(let reason):
            piece.append(choices[index].assembler.finish())
            choices[index].finish = choices[index].assembler.finishReason(reason)
        case .failure where choices[index].assembler.isStopped:
            // The stop string had made it complete before the attempt failed.
            choices[index].finish = choices[index].assembler.finishReason(.stop)
        case .failure(let error):
            router.cancel(numbers)
            throw error
        }
        return piece
    }

    // MARK: Streamed

    /// The response; its body goes on until the last choice has ended. The head waits for the first tokens, so
    /// that what fails before them still gets its own status.
    consuming func stream(_ headers: HTTPFields) async throws(APIError) -> Response {
        var exchange = self
        let first: [AnswerMailbox.Delivery]
        var text = ""
        do throws(APIError) {
            first = try await exchange.deliveries()
            for delivery in first { text += try exchange.chunks(delivery) }
        } catch {
            exchange.signal.unwatch()
            throw error
        }
        var headers = headers
        headers[.contentType] = "text/event-stream; charset=utf-8"
        headers[.cacheControl] = "no-cache"
        let begun = exchange
        let opening = text
        let at = first[0].at
        return Response(
            status: .ok, headers: headers,
            body: ResponseBody { writer in
                var exchange = begun
                defer { exchange.signal.unwatch() }
                do throws(APIError) {
                    try await exchange.write(opening, since: at, to: &writer)
                    try await exchange.rest(to: &writer)
                } catch {
                    // The head has gone out: the error is an event, and no `[DONE]` follows it.
                    try await writer.write(ByteBuffer(string: AnswerWriter.errorEvent(error)))
                    return try await writer.finish(nil)
                }
                try await writer.write(ByteBuffer(string: exchange.end))
                try await writer.finish(nil)
            })
    }

    /// Writes chunks as they come. While the client keeps up, the thread that brings tokens writes them; a client
    /// that lags is waited for here, and what comes meanwhile gathers.
    private mutating func rest(to writer: inout any ResponseBodyWriter) async throws(APIError) {
        while !isComplete {
            if signal.isWritable {
                try await follow()
                if isComplete { return }
            }
            let deliveries = try await deliveries()
            var text = ""
            for delivery in deliveries { text += try chunks(delivery) }
            try await write(text, since: deliveries[0].at, to: &writer)
        }
    }

    private mutating func follow() async throws(APIError) {
        let held = Held(self)
        await mailbox.follow { deliveries in held.exchange.withLock { $0.pass(deliveries) } }
        self = held.exchange.withLock { $0 }
        if let failure { throw failure }
    }

    /// Writes what came straight to the connection. False when the task has to go on: the answer is complete, has
    /// failed, or the client lags.
    private mutating func pass(_ deliveries: [AnswerMailbox.Delivery]) -> Bool {
        var text = ""
        do throws(APIError) {
            for delivery in deliveries { text += try chunks(delivery) }
        } catch {
            failure = error
        }
        if !text.isEmpty {
            let router = router
            let since = deliveries[0].at
            signal.write(text) { router.metrics.send.observe(router.now - since) }
            router.metrics.forward.observe(router.now - since)
        }
        return failure == nil && !isComplete && signal.isWritable
    }

    private final class Held: Sendable {
        let exchange: Mutex<Exchange>
        init(_ exchange: Exchange) { self.exchange = Mutex(exchange) }
    }

    private mutating func write(
        _ text: String, since: Duration, to writer: inout any ResponseBodyWriter
    ) async throws(APIError) {
        guard !text.isEmpty else { return }
        do {
            try await writer.write(ByteBuffer(string: text))
        } catch {
            router.cancel(numbers)
            throw .server("The client closed the connection.", code: "client_closed")
        }
        router.metrics.forward.observe(router.now - since)
    }

    /// The chunks of a delivery.
    private mutating func chunks(_ delivery: AnswerMailbox.Delivery) throws(APIError) -> String {
        let index = delivery.choice
        let offset = choices[index].assembler.charactersOut
        let wasComplete = choices[index].finish != nil
        let piece = try take(delivery)
        var text = ""
        if !choices[index].hasBegun {
            choices[index].hasBegun = true
            text += request.writer.roleChunk(index: index) ?? ""
            if !request.prefixes[index].isEmpty {
                let prefix = AnswerPiece(text: request.prefixes[index])
                text += request.writer.contentChunks(index: index, piece: prefix, offset: 0)
            }
        }
        if !piece.isEmpty { text += request.writer.contentChunks(index: index, piece: piece, offset: offset) }
        if !wasComplete, let finish = choices[index].finish {
            text += request.writer.finishChunk(index: index, reason: finish)
        }
        return text
    }

    // MARK: The end

    private var end: String {
        var end = ""
        let timing = timingField
        if request.options.includesUsage || !timing.isEmpty {
            end += request.writer.closingChunk(usage: request.options.includesUsage ? usage : nil, extra: timing)
        }
        return end + AnswerWriter.done
    }

    private var usage: Usage {
        var cached = 0
        for index in stride(from: 0, to: choices.count, by: request.choicesPerPrompt) {
            cached += choices[index].times.cachedTokens
        }
        let reasoning = choices.compactMap(\.assembler.reasoningCount)
        return Usage(
            prompt: request.promptTokens, completion: choices.reduce(0) { $0 + $1.assembler.tokenCount },
            cached: cached, reasoning: reasoning.isEmpty ? nil : reasoning.reduce(0, +))
    }

    /// `baton`: where the first choice's time went, for clients that asked.
    private var timingField: JSONObject {
        guard request.asksForTiming, let times = choices.first?.times else { return JSONObject() }
        return JSONObject([("baton", times.report)])
    }
}
