package import OrderedJSON

/// A model as `/v1/models` shows it.
package struct ServedModel: Equatable, Sendable {
    package var name: String
    /// Seconds since 1970.
    package var created: Int64
    package var contextLimit: Int?

    package init(name: String, created: Int64, contextLimit: Int?) {
        self.name = name
        self.created = created
        self.contextLimit = contextLimit
    }

    /// The body of `/v1/models/{id}`.
    package var json: JSON {
        var object = JSONObject([
            ("id", .string(name)), ("object", "model"), ("created", .int(created)), ("owned_by", "baton"),
        ])
        if let contextLimit { object["max_model_len"] = .int(Int64(contextLimit)) }
        return .object(object)
    }

    /// The body of `/v1/models`.
    package static func list(_ models: [ServedModel]) -> JSON {
        ["object": "list", "data": .array(models.map(\.json))]
    }
}
