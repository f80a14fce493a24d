import OrderedJSON
import Testing

@testable import API

private func writer(
    _ kind: AnswerWriter.Kind, logprobs: Bool = false, usage: Bool = false
) -> AnswerWriter {
    AnswerWriter(
        kind: kind, unique: "1", created: 7, model: "a \"model\"", fingerprint: "fp", logprobs: logprobs,
        announcesUsage: usage)
}

/// The JSON of one server-sent event.
private func event(_ text: String) throws -> JSON {
    #expect(text.hasPrefix("data: ") && text.hasSuffix("\n\n"))
    #expect(text.dropLast(2).allSatisfy { $0 != "\n" })
    return try JSON.parse(String(text.dropFirst("data: ".count)))
}

private let logprob = TokenLogprobs(
    chosen: .init(bytes: [0x68, 0x69], logprob: -0.5),
    top: [.init(bytes: [0x68, 0x69], logprob: -0.5), .init(bytes: [0xf0, 0x9f], logprob: -.infinity)])

@Suite struct AnswerWriterTests {
    @Test func chatBody() {
        let body = writer(.chat).body(
            [Answer(index: 0, piece: AnswerPiece(text: "hi\n\u{1F600}"), finish: .length)],
            usage: Usage(prompt: 5, completion: 2, cached: 4), extra: JSONObject([("baton", 1)]))
        #expect(body["id"]?.string == "chatcmpl-1")
        #expect(body["object"]?.string == "chat.completion")
        #expect(body["created"]?.int == 7)
        #expect(body["model"]?.string == "a \"model\"")
        let choice = body["choices"]?[0]
        #expect(choice?["message"]?["role"]?.string == "assistant")
        #expect(choice?["message"]?["content"]?.string == "hi\n\u{1F600}")
        #expect(choice?["finish_reason"]?.string == "length")
        #expect(choice?["logprobs"]?.isNull == true)
        #expect(body["usage"]?["total_tokens"]?.int == 7)
        #expect(body["usage"]?["prompt_tokens_details"]?["cached_tokens"]?.int == 4)
        #expect(body["baton"]?.int == 1)
    }

    @Test func completionBody() {
        let body = writer(.completion, logprobs: true).body(
            [Answer(index: 1, piece: AnswerPiece(text: "hi", logprobs: [logprob, logprob]), finish: .stop)],
            usage: Usage())
        #expect(body["object"]?.string == "text_completion")
        #expect(body["id"]?.string == "cmpl-1")
        let choice = body["choices"]?[0]
        #expect(choice?["text"]?.string == "hi")
        #expect(choice?["index"]?.int == 1)
        let logprobs = choice?["logprobs"]
        #expect(logprobs?["tokens"] == ["hi", "hi"])
        #expect(logprobs?["token_logprobs"] == [-0.5, -0.5])
        #expect(logprobs?["text_offset"] == [0, 2])
        #expect(logprobs?["top_logprobs"]?[0] == ["hi": -0.5, "bytes:\\xf0\\x9f": -9999.0])
    }

    @Test func chatChunks() throws {
        let plain = writer(.chat, usage: true)
        let role = try event(plain.roleChunk(index: 2) ?? "")
        #expect(role["object"]?.string == "chat.completion.chunk")
        #expect(role["choices"]?[0]?["delta"] == ["role": "assistant", "content": ""])
        #expect(role["choices"]?[0]?["index"]?.int == 2)
        #expect(role["usage"]?.isNull == true)
        let content = try event(plain.contentChunks(index: 2, piece: AnswerPiece(text: "a\"\n\u{7}"), offset: 0))
        #expect(content["choices"]?[0]?["delta"] == ["content": "a\"\n\u{7}"])
        #expect(content["choices"]?[0]?["finish_reason"]?.isNull == true)
        #expect(content["choices"]?[0]?["logprobs"]?.isNull == true)
        #expect(content["usage"]?.isNull == true)
        // The quick path for plain text writes the same members as the general one.
        let general = writer(.chat, logprobs: true, usage: true)
        let slow = try event(general.contentChunks(index: 2, piece: AnswerPiece(text: "x"), offset: 0))
        #expect(content.object?.keys.sorted() == slow.object?.keys.sorted())
        let finish = try event(plain.finishChunk(index: 2, reason: .stop))
        #expect(finish["choices"]?[0]?["delta"] == .object(JSONObject()))
        #expect(finish["choices"]?[0]?["finish_reason"]?.string == "stop")
        let usage = try event(plain.closingChunk(usage: Usage(prompt: 1, completion: 2)))
        #expect(usage["choices"] == [])
        #expect(usage["usage"]?["completion_tokens"]?.int == 2)
    }

    @Test func reasoningAndCallsInABody() throws {
        var piece = AnswerPiece()
        piece.reasoning = "I look."
        piece.append(ToolCallPiece(index: 0, name: "f", arguments: "{"))
        piece.append(ToolCallPiece(index: 0, name: nil, arguments: "}"))
        piece.append(ToolCallPiece(index: 1, name: "g", arguments: "{}"))
        let body = writer(.chat).body(
            [Answer(index: 2, piece: piece, finish: .toolCalls)], usage: Usage(completion: 9, reasoning: 4))
        let choice = body["choices"]?[0]
        #expect(choice?["finish_reason"] == "tool_calls")
        let message = choice?["message"]
        #expect(message?["content"]?.isNull == true && message?["reasoning_content"] == "I look.")
        let calls = try #require(message?["tool_calls"]?.array)
        #expect(calls.map { $0["function"] } == [["name": "f", "arguments": "{}"], ["name": "g", "arguments": "{}"]])
        #expect(calls.allSatisfy { $0["type"] == "function" && $0["index"] == nil })
        #expect(calls[0]["id"]?.string?.hasPrefix("call_") == true && calls[0]["id"] != calls[1]["id"])
        #expect(body["usage"]?["completion_tokens_details"] == ["reasoning_tokens": 4])
        piece.text = "Here."
        #expect(writer(.chat).message(Answer(index: 0, piece: piece, finish: .stop))["content"] == "Here.")
        #expect(Usage().json["completion_tokens_details"] == nil)
    }

    @Test(arguments: [false, true])
    func reasoningAndCallsInChunks(withLogprobs: Bool) throws {
        let writer = writer(.chat, logprobs: withLogprobs)
        func delta(_ change: (inout AnswerPiece) -> Void) throws -> JSON? {
            var piece = AnswerPiece()
            change(&piece)
            let chunk = try event(writer.contentChunks(index: 3, piece: piece, offset: 0))["choices"]?[0]
            #expect(chunk?["finish_reason"]?.isNull == true && chunk?["index"] == 3)
            return chunk?["delta"]
        }
        #expect(try delta { $0.reasoning = "a\n" } == ["reasoning_content": "a\n"])
        #expect(try delta { $0.text = "a" } == ["content": "a"])
        #expect(try delta { _ in } == ["content": ""])
        // One chunk for each, and the logprobs once.
        var both = named
        both.text = "b"
        both.reasoning = "a"
        both.logprobs = [logprob]
        let chunks = writer.contentChunks(index: 0, piece: both, offset: 0).split(separator: "\n\n")
        let choices = try chunks.map { try event($0 + "\n\n")["choices"]?[0] }
        #expect(choices.map { $0?["delta"]?.object?.keys } == [["reasoning_content"], ["content"], ["tool_calls"]])
        #expect(
            choices.map { $0?["logprobs"]?["content"]?.array?.count } == (withLogprobs ? [1, 0, 0] : [nil, nil, nil]))
        let first = try delta { $0.append(ToolCallPiece(index: 1, name: "f", arguments: "{")) }
        let call = first?["tool_calls"]?[0]
        #expect(first?.object?.keys == ["tool_calls"] && call?["index"] == 1 && call?["type"] == "function")
        #expect(call?["function"] == ["name": "f", "arguments": "{"])
        let whole = writer.body([Answer(index: 3, piece: named, finish: .stop)], usage: Usage())
        #expect(call?["id"] == whole["choices"]?[0]?["message"]?["tool_calls"]?[1]?["id"])
        let more = try delta { $0.append(ToolCallPiece(index: 1, name: nil, arguments: "}")) }
        #expect(more?["tool_calls"] == [["index": 1, "function": ["arguments": "}"]]])
    }

    private var named: AnswerPiece {
        var piece = AnswerPiece()
        for index in 0...1 { piece.append(ToolCallPiece(index: index, name: "f", arguments: "{}")) }
        return piece
    }

    @Test func completionChunksAndLogprobs() throws {
        #expect(writer(.completion).roleChunk(index: 0) == nil)
        let chunk = try event(writer(.completion).contentChunks(index: 0, piece: AnswerPiece(text: "x"), offset: 0))
        #expect(chunk["choices"]?[0]?["text"]?.string == "x")
        #expect(chunk["usage"] == nil)
        let piece = AnswerPiece(text: "hi", logprobs: [logprob])
        let offset = try event(writer(.completion, logprobs: true).contentChunks(index: 0, piece: piece, offset: 9))
        #expect(offset["choices"]?[0]?["logprobs"]?["text_offset"] == [9])
        let chat = try event(writer(.chat, logprobs: true).contentChunks(index: 0, piece: piece, offset: 0))
        let entry = chat["choices"]?[0]?["logprobs"]?["content"]?[0]
        #expect(entry?["token"]?.string == "hi")
        #expect(entry?["bytes"] == [0x68, 0x69])
        #expect(entry?["top_logprobs"]?[1]?["logprob"]?.double == -9999)
    }

    @Test func charactersThatSpanTokensCountOnce() throws {
        func token(_ bytes: [UInt8]) -> TokenLogprobs {
            TokenLogprobs(chosen: TokenLogprobs.Candidate(bytes: bytes, logprob: 0), top: [])
        }
        // "é!" with é in two tokens.
        let piece = AnswerPiece(text: "aé!", logprobs: [[0x61], [0xc3], [0xa9], [0x21]].map(token))
        let chunk = try event(writer(.completion, logprobs: true).contentChunks(index: 0, piece: piece, offset: 4))
        #expect(chunk["choices"]?[0]?["logprobs"]?["text_offset"] == [4, 5, 5, 6])
    }

    @Test func errors() throws {
        let error = APIError.invalid("no", param: "n", code: "invalid_value")
        let fields: JSON = ["message": "no", "type": "invalid_request_error", "param": "n", "code": "invalid_value"]
        #expect(error.body == ["error": fields])
        #expect(try event(AnswerWriter.errorEvent(error))["error"]?["message"]?.string == "no")
        #expect(APIError.unauthorized().status == 401)
        #expect(APIError.unknownModel("x").status == 404)
        #expect(APIError.bodyTooLarge(limit: 5).message.contains("5 bytes"))
        #expect(APIError.queueFull(limit: 1, retryAfter: .seconds(2)).retryAfter == .seconds(2))
        let long = APIError.contextLength(limit: 10, prompt: 8, completion: 4, param: "messages")
        #expect(long.code == "context_length_exceeded" && long.message.contains("12 tokens"))
    }

    @Test func models() {
        let model = ServedModel(name: "m", created: 3, contextLimit: 2048)
        #expect(ServedModel.list([model])["data"]?[0]?["id"]?.string == "m")
        #expect(model.json["max_model_len"]?.int == 2048)
        #expect(model.json["object"]?.string == "model")
    }
}
