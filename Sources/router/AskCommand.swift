import ArgumentParser
import AsyncHTTPClient
import NIOCore
import OrderedJSON

/// `router ask`: one question from the terminal, and where its time went.
struct AskCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "ask", abstract: "Ask the model a question; the answer is printed as it comes.")

    @OptionGroup var address: RouterAddress

    @Argument(help: "The question.")
    var question: String

    @Option(help: "A system message.")
    var system: String?

    @Option(help: "The model's name (default: the first the router serves).")
    var model: String?

    @Option(help: "Tokens of the answer at most.")
    var maxTokens = 256

    @Option(help: "0 takes the likeliest token every time.")
    var temperature = 0.0

    @Option(help: "Makes sampling repeatable.")
    var seed: Int?

    @Flag(inversion: .prefixedNo, help: "Print where the time went.")
    var timing = true

    func run() async throws {
        let client = address.client
        var name = model
        if name == nil {
            name = try await client.get("/v1/models")["data"]?[0]?["id"]?.string
        }
        guard let name else { throw CommandError("the router serves no model") }
        var messages: [JSON] = []
        if let system { messages.append(["role": "system", "content": .string(system)]) }
        messages.append(["role": "user", "content": .string(question)])
        var body = JSONObject()
        body["model"] = .string(name)
        body["messages"] = .array(messages)
        body["stream"] = true
        body["stream_options"] = ["include_usage": true]
        body["max_tokens"] = .int(Int64(maxTokens))
        body["temperature"] = .double(temperature)
        if let seed { body["seed"] = .int(Int64(seed)) }
        let response = try await client.post(
            "/v1/chat/completions", .object(body), headers: [("x-baton-timing", "1")])
        var reader = EventReader()
        var timings: JSON?
        var answered = false
        var isThinking = false
        let style = TerminalStyle()
        for try await buffer in response.body {
            for event in try reader.append(buffer) {
                if let message = event["error"]?["message"]?.string { throw CommandError(message) }
                let delta = event["choices"]?[0]?["delta"]
                if let text = delta?["reasoning_content"]?.string, !text.isEmpty {
                    emit(style.paint(text, .dim), terminator: "")
                    isThinking = true
                    answered = true
                }
                if let text = delta?["content"]?.string, !text.isEmpty {
                    emit((isThinking ? "\n\n" : "") + text, terminator: "")
                    isThinking = false
                    answered = true
                }
                timings = event["baton"] ?? timings
            }
        }
        if answered { emit("") }
        guard reader.isDone else { throw CommandError("the answer broke off") }
        if timing, let timings { emit("\n" + TimingView(style: TerminalStyle()).text(timings)) }
    }
}

/// Splits server-sent events out of a byte stream.
struct EventReader {
    private var rest: [UInt8] = []
    /// `[DONE]` was read.
    private(set) var isDone = false
    private static let lineBytesMax = 16 << 20

    mutating func append(_ buffer: ByteBuffer) throws -> [JSON] {
        rest += buffer.readableBytesView
        var events: [JSON] = []
        while let end = rest.firstIndex(of: UInt8(ascii: "\n")) {
            let line = rest[..<end]
            rest = Array(rest[(end + 1)...])
            let mark = Array("data: ".utf8)
            guard line.starts(with: mark) else { continue }
            let data = Array(line.dropFirst(mark.count))
            if data == Array("[DONE]".utf8) { isDone = true } else { events.append(try JSON.parse(data)) }
        }
        guard rest.count <= Self.lineBytesMax else { throw CommandError("the router sent a line without end") }
        return events
    }
}

/// Draws where a request's time went.
struct TimingView {
    let style: TerminalStyle

    /// The `baton` object of an answer.
    func text(_ timing: JSON) -> String {
        let ms = timing["ms"]
        func value(_ key: String) -> Double { ms?[key]?.double ?? 0 }
        let parts = [
            ("router", "parse, template, tokenise"), ("queue", "wait for a pair of nodes"),
            ("prefill_queue", "wait for the prefill node"), ("prefill", "compute the prompt"),
            ("kv_transfer", "KV pages written after the last layer"), ("seal", "digests checked, pages sealed"),
            ("first_step", "first decode step"), ("control", "messages on their way"),
        ]
        let names = [
            "router": "router", "queue": "queue", "prefill_queue": "prefill queue", "prefill": "prefill",
            "kv_transfer": "KV transfer", "seal": "seal", "first_step": "first step", "control": "control",
        ]
        let total = max(value("first_token"), 0.001)
        var table = TextTable([("WHERE THE TIME WENT", .left), ("MS", .right), ("", .left), ("", .left)])
        for (key, meaning) in parts {
            let bar = String(repeating: "█", count: min(30, Int((value(key) / total * 30).rounded())))
            table.add([
                .init(names[key] ?? key), .init(Self.decimal(value(key))), .init(bar, .cyan), .init(meaning, .dim),
            ])
        }
        table.add([
            .init("first token", .bold), .init(Self.decimal(value("first_token")), .bold), .init(""), .init("", .dim),
        ])
        let tokens = timing["completion_tokens"]?.int ?? 0
        let each = value("per_token")
        let rate = each > 0 ? ", \(StatusView.oneDecimal(1000 / each)) tokens/s" : ""
        table.add([
            .init("each further token"), .init(Self.decimal(each)), .init(""), .init("\(tokens) tokens\(rate)", .dim),
        ])
        table.add([.init("total"), .init(Self.decimal(value("total"))), .init(""), .init("", .dim)])
        if let speculation = timing["speculation"], let length = speculation["accept_length"]?.double {
            let (drafted, accepted) = (speculation["drafted"]?.int ?? 0, speculation["accepted"]?.int ?? 0)
            table.add([
                .init("accept length"), .init(Self.decimal(length)), .init(""),
                .init("tokens per step; \(accepted) of \(drafted) drafts were right", .dim),
            ])
        }
        let prompt = timing["prompt_tokens"]?.int ?? 0
        let cached = timing["cached_tokens"]?.int ?? 0
        let bytes = Double(timing["kv_bytes"]?.int ?? 0) / 1_048_576
        let nodes = "\(timing["prefill_node"]?.string ?? "?") → \(timing["decode_node"]?.string ?? "?")"
        let foot =
            "\(nodes): \(prompt) prompt tokens (\(cached) cached), \(StatusView.oneDecimal(bytes)) MiB of KV handed over"
        return table.text(style) + "\n" + style.paint(foot, .dim)
    }

    /// Two decimals.
    private static func decimal(_ value: Double) -> String {
        let hundredths = Int((value * 100).rounded())
        let fraction = hundredths % 100
        return "\(hundredths / 100).\(fraction < 10 ? "0" : "")\(fraction)"
    }
}
