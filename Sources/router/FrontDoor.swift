import API
import Cores
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import OrderedJSON
import Routing
import Telemetry
import Tokenization

/// What the HTTP side is allowed to take and whom it lets in.
struct FrontDoorSettings: Sendable {
    var bodyLimit = 32 << 20
    /// Bytes that bodies may take together while they arrive and until they are read.
    var bodyMemory = 512 << 20
    /// The whole body must arrive within this.
    var bodyTimeout = Duration.seconds(60)
    /// Any of these opens `/v1`; none: no key is asked for.
    var apiKeys: [String] = []
    /// Opens `/admin`; nil: only connections from this host may.
    var adminKey: String?
}

/// The channel a request came on.
struct DoorContext: InitializableFromSource, Sendable {
    let channel: any Channel
    init(source: ApplicationRequestContextSource) { channel = source.channel }
}

/// Answers every HTTP request of the router: the OpenAI API, health, metrics, and the operator's interface.
struct FrontDoor: HTTPResponder {
    let router: Routing.Router
    let prompts: PromptReader
    let settings: FrontDoorSettings
    let connections: Connections
    let version: String
    let logger: Logger
    let largeBodies = LargeBodyThread()
    let bodyBudget: BodyBudget

    func respond(to request: Request, context: DoorContext) async throws -> Response {
        let response = await answer(to: request, context, received: router.now)
        return request.method == .head ? response.createHeadResponse() : response
    }

    private func answer(to request: Request, _ context: DoorContext, received: Duration) async -> Response {
        do throws(APIError) {
            return try await route(request, context, received: received)
        } catch {
            logger.debug(
                "refused",
                metadata: [
                    "path": "\(APIError.clipped(request.uri.path))", "status": "\(error.status)",
                    "reason": "\(error.message)",
                ])
            return .failure(error)
        }
    }

    private func route(
        _ request: Request, _ context: DoorContext, received: Duration
    ) async throws(APIError) -> Response {
        let path = request.uri.path
        switch path {
        case "/health":
            try expect(request, .get)
            return .json(["status": router.isDraining ? "draining" : "ok"])
        case "/ready":
            try expect(request, .get)
            if let reason = router.inspect({ $0.unreadyReason() }) {
                return .json(["ready": false, "reason": .string(reason)], status: .serviceUnavailable)
            }
            return .json(["ready": true])
        case "/metrics":
            try expect(request, .get)
            return .text(router.metrics.registry.exposition(), type: MetricsRegistry.contentType)
        case "/v1/chat/completions", "/v1/completions":
            try expect(request, .post)
            try checkKey(request)
            let answerable = try await read(request, received: received)
            return try await answer(answerable, connections.signal(of: context.channel))
        case "/v1/models":
            try expect(request, .get)
            try checkKey(request)
            return .json(ServedModel.list([servedModel]))
        default:
            if path.hasPrefix("/v1/models/") {
                try expect(request, .get)
                try checkKey(request)
                let name = String(path.dropFirst("/v1/models/".count))
                try prompts.check(model: percentDecoded(name))
                return .json(servedModel.json)
            }
            if path == "/admin" || path.hasPrefix("/admin/") { return try admin(request, context) }
            throw .unknownAddress(method: request.method.rawValue, path: path)
        }
    }

    var servedModel: ServedModel {
        ServedModel(name: prompts.name, created: prompts.created, contextLimit: contextLimit)
    }

    /// The longest sequence the model and the attached nodes can hold.
    var contextLimit: Int? {
        switch (prompts.contextLimit, router.sequenceLimit) {
        case (let model?, let cluster?): min(model, cluster)
        case (let model, let cluster): model ?? cluster
        }
    }

    func expect(_ request: Request, _ method: HTTPRequest.Method) throws(APIError) {
        guard request.method == method || (method == .get && request.method == .head) else {
            throw .methodNotAllowed(request.method.rawValue, path: request.uri.path, allowed: method.rawValue)
        }
    }

    private func checkKey(_ request: Request) throws(APIError) {
        guard !settings.apiKeys.isEmpty else { return }
        guard let given = request.bearerKey, settings.apiKeys.contains(where: { equalInConstantTime($0, given) })
        else { throw .unauthorized() }
    }

    // MARK: The body

    /// The whole body, within its limits of size, time and memory, and its share of what bodies may take: to be kept as
    /// long as the bytes are.
    func body(of request: Request) async throws(APIError) -> (bytes: ByteBuffer, share: BodyShare) {
        try JSONBody.check(contentType: request.headers[.contentType])
        let limit = settings.bodyLimit
        if let length = request.headers[.contentLength].flatMap({ Int($0) }), length > limit {
            throw .bodyTooLarge(limit: limit)
        }
        let timeout = settings.bodyTimeout
        let body = request.body
        let share = BodyShare(bodyBudget)
        do {
            return try await withThrowingTaskGroup(of: ByteBuffer?.self) { group in
                group.addTask {
                    var whole = ByteBuffer()
                    for try await part in body {
                        guard whole.readableBytes + part.readableBytes <= limit else {
                            throw APIError.bodyTooLarge(limit: limit)
                        }
                        try share.grow(by: part.readableBytes)
                        whole.writeImmutableBuffer(part)
                    }
                    return whole
                }
                group.addTask {
                    try await Task.sleep(for: timeout)
                    return nil
                }
                defer { group.cancelAll() }
                guard let buffer = try await group.next() ?? nil else { throw APIError.bodyTimeout(after: timeout) }
                return (buffer, share)
            }
        } catch let error as APIError {
            throw error
        } catch {
            throw APIError(
                status: 400, type: "invalid_request_error", message: "The request body could not be read.",
                closesConnection: true)
        }
    }
}

extension Request {
    /// The key of an `Authorization: Bearer` header.
    var bearerKey: String? {
        guard let value = headers[.authorization], value.lowercased().hasPrefix("bearer ") else { return nil }
        return String(value.dropFirst("bearer ".count))
    }
}

/// Undoes %XX; text that is not encoded properly stays as it is.
func percentDecoded(_ text: String) -> String {
    var bytes: [UInt8] = []
    var rest = text.utf8[...]
    while let byte = rest.popFirst() {
        guard byte == UInt8(ascii: "%") else {
            bytes.append(byte)
            continue
        }
        guard let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16), rest.count >= 2 else {
            return text
        }
        bytes.append(value)
        rest = rest.dropFirst(2)
    }
    return String(validating: bytes, as: UTF8.self) ?? text
}

/// Compares without telling by its timing how much of a key was right.
func equalInConstantTime(_ a: String, _ b: String) -> Bool {
    let left = Array(a.utf8)
    let right = Array(b.utf8)
    var difference = left.count ^ right.count
    for index in 0..<min(left.count, right.count) { difference |= Int(left[index] ^ right[index]) }
    return difference == 0
}

extension Response {
    static func json(_ value: JSON, status: HTTPResponse.Status = .ok, headers: HTTPFields = [:]) -> Response {
        var headers = headers
        headers[.contentType] = "application/json"
        let buffer = ByteBuffer(string: value.text())
        headers[.contentLength] = String(buffer.readableBytes)
        return Response(status: status, headers: headers, body: .init(byteBuffer: buffer))
    }

    static func text(_ text: String, type: String) -> Response {
        Response(
            status: .ok, headers: [.contentType: type], body: .init(byteBuffer: ByteBuffer(string: text)))
    }

    /// OpenAI's error body, with `Retry-After` where the client may come back.
    static func failure(_ error: APIError) -> Response {
        var headers = HTTPFields()
        if let pause = error.retryAfter { headers[.retryAfter] = String(max(1, pause.components.seconds)) }
        if error.status == 401 { headers[.wwwAuthenticate] = "Bearer" }
        if error.closesConnection { headers[.connection] = "close" }
        return .json(error.body, status: .init(code: error.status), headers: headers)
    }
}
