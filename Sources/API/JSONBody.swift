package import OrderedJSON

/// Turns the bytes of a request body into JSON, within bounds.
package enum JSONBody {
    /// More nesting, or more values than the largest useful prompt needs, is an attack.
    static let limits = JSONLimits(depth: 64, bytes: 256 << 20, values: 6 << 20)

    /// Throws a 400 that says where the text stops being JSON.
    package static func parse(_ bytes: UnsafeRawBufferPointer) throws(APIError) -> JSON {
        guard !bytes.isEmpty else { throw .invalid("The request has no body; send a JSON object.") }
        do {
            return try JSON.parse(bytes, limits: limits)
        } catch {
            throw .invalid("We could not parse the body of your request as JSON: \(error).", code: "invalid_json")
        }
    }

    /// Throws a 415 unless the content type is absent, JSON.
    package static func check(contentType: String?) throws(APIError) {
        guard let contentType else { return }
        let name = contentType.split(separator: ";").first.map(String.init) ?? ""
        let trimmed = name.lowercased().filter { $0 != " " }
        guard ["application/json", "text/json", ""].contains(trimmed) || trimmed.hasSuffix("+json") else {
            throw .mediaType(contentType)
        }
    }
}
