import OrderedJSON

extension AnswerWriter {
    /// The `message` of a whole answer. Where the model has thought or called tools and said nothing beside, `content`
    /// is null.
    func message(_ answer: Answer) -> JSON {
        let piece = answer.piece
        let saysNothing = piece.text.isEmpty && !(piece.reasoning.isEmpty && piece.calls.isEmpty)
        var fields = JSONObject([("role", "assistant"), ("content", saysNothing ? .null : .string(piece.text))])
        if !piece.reasoning.isEmpty { fields["reasoning_content"] = .string(piece.reasoning) }
        if !piece.calls.isEmpty {
            fields["tool_calls"] = .array(
                piece.calls.map { call in
                    var whole = head(of: call, choice: answer.index)
                    whole["function"] = [
                        "name": .string(call.name ?? ""), "arguments": .string(call.arguments),
                    ]
                    return .object(whole)
                })
        }
        fields["refusal"] = .null
        return .object(fields)
    }

    /// The `delta` of a piece.
    func delta(_ piece: AnswerPiece, choice: Int) -> JSON {
        var fields = JSONObject()
        if !piece.reasoning.isEmpty { fields["reasoning_content"] = .string(piece.reasoning) }
        // A piece with nothing but logprobs has empty content.
        if !piece.text.isEmpty || (piece.reasoning.isEmpty && piece.calls.isEmpty) {
            fields["content"] = .string(piece.text)
        }
        if !piece.calls.isEmpty { fields["tool_calls"] = .array(piece.calls.map { delta($0, choice: choice) }) }
        return .object(fields)
    }

    /// The same as text; the common case is quick.
    func deltaText(_ piece: AnswerPiece, choice: Int) -> String {
        guard piece.calls.isEmpty, piece.text.isEmpty != piece.reasoning.isEmpty else {
            return delta(piece, choice: choice).text()
        }
        return piece.reasoning.isEmpty
            ? "{\"content\":\(JSON.quoted(piece.text))}" : "{\"reasoning_content\":\(JSON.quoted(piece.reasoning))}"
    }

    /// The first piece of a call has its id, type and name, the others only more of the arguments.
    private func delta(_ call: ToolCallPiece, choice: Int) -> JSON {
        var fields = JSONObject([("index", .int(Int64(call.index)))])
        var function = JSONObject()
        if let name = call.name {
            for (key, value) in head(of: call, choice: choice) { fields[key] = value }
            function["name"] = .string(name)
        }
        function["arguments"] = .string(call.arguments)
        fields["function"] = .object(function)
        return .object(fields)
    }

    private func head(of call: ToolCallPiece, choice: Int) -> JSONObject {
        JSONObject([("id", .string("call_\(unique)_\(choice)_\(call.index)")), ("type", "function")])
    }
}
