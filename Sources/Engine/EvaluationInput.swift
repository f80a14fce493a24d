import OrderedJSON

/// Token sequences to evaluate, with the names their outputs get.
package struct EvaluationInput: Sendable, Equatable {
    package struct Prompt: Sendable, Equatable {
        /// Prefix of the output tensors' names; empty for a lone unnamed sequence.
        package var name: String
        package var tokens: [TokenID]

        package init(name: String, tokens: [TokenID]) {
            self.name = name
            self.tokens = tokens
        }

        func tensor(_ name: String) -> String { self.name.isEmpty ? name : "\(self.name).\(name)" }
    }

    package var prompts: [Prompt]

    package init(prompts: [Prompt]) { self.prompts = prompts }

    /// From JSON text: a list of ids (outputs without prefix), a list of such lists (prefixes 0, 1, …), or an
    /// object {name: ids}. Throws `invalid` naming the place.
    package init(json bytes: [UInt8]) throws(EngineError) {
        let json: JSON
        do throws(JSONError) {
            json = try JSON.parse(bytes)
        } catch {
            throw .invalid(field: "ids", reason: "\(error)")
        }
        if let object = json.object {
            prompts = []
            for (name, value) in object {
                prompts.append(Prompt(name: name, tokens: try Self.tokens(value, at: "ids.\(name)")))
            }
        } else if let list = json.array, list.first?.array != nil {
            prompts = []
            for (index, value) in list.enumerated() {
                prompts.append(Prompt(name: "\(index)", tokens: try Self.tokens(value, at: "ids[\(index)]")))
            }
        } else {
            prompts = [Prompt(name: "", tokens: try Self.tokens(json, at: "ids"))]
        }
        guard !prompts.isEmpty else { throw .invalid(field: "ids", reason: "there are no sequences") }
    }

    private static func tokens(_ json: JSON, at place: String) throws(EngineError) -> [TokenID] {
        guard let list = json.array, !list.isEmpty else {
            throw .invalid(field: place, reason: "must be a list of at least one token id")
        }
        var tokens: [TokenID] = []
        tokens.reserveCapacity(list.count)
        for (index, value) in list.enumerated() {
            guard let number = value.int, let token = TokenID(exactly: number) else {
                throw .invalid(field: "\(place)[\(index)]", reason: "is no token id")
            }
            tokens.append(token)
        }
        return tokens
    }
}
