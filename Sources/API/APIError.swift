package import OrderedJSON

/// What a client gets instead of an answer: an HTTP status and OpenAI's error body
/// `{"error": {"message", "type", "param", "code"}}`.
package struct APIError: Error, Equatable {
    /// The HTTP status.
    package var status: Int
    /// OpenAI's coarse class: `invalid_request_error`, `authentication_error`, `rate_limit_error`, …
    package var type: String
    /// One sentence that names the field and the limit.
    package var message: String
    /// The request field at fault, e.g. `messages[2].content`.
    package var param: String?
    /// A stable word for programs, e.g. `context_length_exceeded`.
    package var code: String?
    /// For 429 and 503: when to try again (the `Retry-After` header).
    package var retryAfter: Duration?
    /// The answer leaves the connection in a state that cannot be reused (an unread body): close it.
    package var closesConnection = false

    package init(
        status: Int, type: String, message: String, param: String? = nil, code: String? = nil,
        retryAfter: Duration? = nil, closesConnection: Bool = false
    ) {
        self.status = status
        self.type = type
        self.message = message
        self.param = param
        self.code = code
        self.retryAfter = retryAfter
        self.closesConnection = closesConnection
    }

    /// The response body.
    package var body: JSON {
        let fields: JSON = [
            "message": .string(message),
            "type": .string(type),
            "param": param.map { .string($0) } ?? .null,
            "code": code.map { .string($0) } ?? .null,
        ]
        return ["error": fields]
    }
}

extension APIError {
    /// 400: a field is missing, of the wrong type or out of range.
    package static func invalid(_ message: String, param: String? = nil, code: String? = nil) -> APIError {
        APIError(status: 400, type: "invalid_request_error", message: message, param: param, code: code)
    }

    /// 400: a field OpenAI knows and this server does not do.
    package static func unsupported(_ message: String, param: String) -> APIError {
        APIError(
            status: 400, type: "invalid_request_error", message: message, param: param, code: "unsupported_parameter")
    }

    /// 400: the prompt, or the prompt with what may follow it, does not fit the model.
    package static func contextLength(limit: Int, prompt: Int, completion: Int?, param: String) -> APIError {
        var message = "This model's maximum context length is \(limit) tokens. However, "
        if let completion {
            message += "you requested \(prompt + completion) tokens (\(prompt) in the prompt, "
            message += "\(completion) in the completion)."
        } else {
            message += "your prompt has \(prompt) tokens."
        }
        return .invalid(message, param: param, code: "context_length_exceeded")
    }

    /// 401: no key, or one this server does not know.
    package static func unauthorized() -> APIError {
        APIError(
            status: 401, type: "authentication_error",
            message: "Incorrect or missing API key. Send it as `Authorization: Bearer KEY`.",
            code: "invalid_api_key")
    }

    /// 404: the model of the request is not served here.
    package static func unknownModel(_ name: String) -> APIError {
        APIError(
            status: 404, type: "invalid_request_error",
            message: "The model \(quoted(name)) does not exist here. GET /v1/models lists what is served.",
            param: "model", code: "model_not_found")
    }

    /// 404: no such address.
    package static func unknownAddress(method: String, path: String) -> APIError {
        APIError(
            status: 404, type: "invalid_request_error", message: "Unknown request URL: \(method) \(clipped(path)).",
            code: "unknown_url")
    }

    /// 405: the address exists, but not with this method.
    package static func methodNotAllowed(_ method: String, path: String, allowed: String) -> APIError {
        APIError(
            status: 405, type: "invalid_request_error",
            message: "Not allowed to \(method) on \(clipped(path)); use \(allowed).", code: "method_not_allowed")
    }

    /// 408: the body did not arrive in time.
    package static func bodyTimeout(after limit: Duration) -> APIError {
        APIError(
            status: 408, type: "invalid_request_error",
            message: "The request body did not arrive within \(limit.components.seconds) s.",
            code: "request_timeout", closesConnection: true)
    }

    /// 413: the body is larger than this server takes.
    package static func bodyTooLarge(limit: Int) -> APIError {
        APIError(
            status: 413, type: "invalid_request_error",
            message: "The request body exceeds the limit of \(limit) bytes.",
            code: "request_too_large", closesConnection: true)
    }

    /// 415: the body is declared to be something else than JSON.
    package static func mediaType(_ name: String) -> APIError {
        APIError(
            status: 415, type: "invalid_request_error",
            message: "Unsupported Content-Type \(quoted(name)); send application/json.", code: "unsupported_media_type")
    }

    /// 429: this server has as many requests waiting as it is willing to keep.
    package static func queueFull(limit: Int, retryAfter: Duration) -> APIError {
        APIError(
            status: 429, type: "rate_limit_error",
            message: "The queue is full: \(limit) requests are waiting. Try again later.", code: "queue_full",
            retryAfter: retryAfter)
    }

    /// 503: nothing can serve the request at the moment; the message says what is missing.
    package static func unavailable(_ message: String, code: String, retryAfter: Duration) -> APIError {
        APIError(status: 503, type: "service_unavailable", message: message, code: code, retryAfter: retryAfter)
    }

    /// 500: our own fault, or an attempt that failed too often.
    package static func server(_ message: String, code: String? = nil) -> APIError {
        APIError(status: 500, type: "server_error", message: message, code: code)
    }

    /// Text from outside, short enough for a message.
    package static func clipped(_ text: String) -> String {
        guard text.utf8.count > 80 else { return text }
        return String(text.unicodeScalars.prefix(64).map(Character.init)) + "…"
    }

    package static func quoted(_ text: String) -> String { "'\(clipped(text))'" }
}
