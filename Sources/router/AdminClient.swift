import ArgumentParser
import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import OrderedJSON

/// How the operator's commands reach a router.
struct RouterAddress: ParsableArguments {
    @Option(help: "The router's HTTP address (default: $BATON_URL, else http://127.0.0.1:8080).")
    var url: String?

    @Option(help: "The router's admin key or API key (default: $BATON_KEY).")
    var key: String?

    var client: AdminClient {
        let environment = TerminalStyle.environment("BATON_URL")
        var base = url ?? (environment.isEmpty ? "http://127.0.0.1:8080" : environment)
        if !base.contains("://") { base = "http://" + base }
        while base.hasSuffix("/") { base.removeLast() }
        let keyInEnvironment = TerminalStyle.environment("BATON_KEY")
        return AdminClient(base: base, key: key ?? (keyInEnvironment.isEmpty ? nil : keyInEnvironment))
    }
}

/// Talks HTTP to a router.
struct AdminClient: Sendable {
    let base: String
    let key: String?
    /// No answer of the admin interface is near this.
    private static let answerBytesMax = 64 << 20

    /// What is asked for, as JSON.
    func get(_ path: String) async throws -> JSON { try await json(.GET, path) }

    /// Has something done, and returns what the router says to it.
    @discardableResult
    func order(_ path: String) async throws -> JSON { try await json(.POST, path) }

    private func json(_ method: HTTPMethod, _ path: String) async throws -> JSON {
        let response = try await send(request(method, path), timeout: .seconds(10))
        let body = try await response.body.collect(upTo: Self.answerBytesMax)
        let value = try? JSON.parse(Array(body.readableBytesView))
        guard response.status == .ok, let value else { throw Self.refusal(response.status, value, path) }
        return value
    }

    /// The status alone; nil when nobody answers.
    func status(_ path: String) async -> UInt? {
        let response = try? await HTTPClient.shared.execute(request(.GET, path), timeout: .seconds(5))
        guard let response else { return nil }
        _ = try? await response.body.collect(upTo: Self.answerBytesMax)
        return response.status.code
    }

    /// Sends JSON; the caller reads the answer as it comes.
    func post(_ path: String, _ body: JSON, headers: [(String, String)]) async throws -> HTTPClientResponse {
        var request = request(.POST, path)
        request.headers.add(name: "content-type", value: "application/json")
        for (name, value) in headers { request.headers.add(name: name, value: value) }
        request.body = .bytes(ByteBuffer(bytes: body.bytes()))
        let response = try await send(request, timeout: .minutes(30))
        guard response.status == .ok else {
            let answer = try await response.body.collect(upTo: Self.answerBytesMax)
            throw Self.refusal(response.status, try? JSON.parse(Array(answer.readableBytesView)), path)
        }
        return response
    }

    private func request(_ method: HTTPMethod, _ path: String) -> HTTPClientRequest {
        var request = HTTPClientRequest(url: base + path)
        request.method = method
        if let key { request.headers.add(name: "authorization", value: "Bearer \(key)") }
        return request
    }

    private func send(_ request: HTTPClientRequest, timeout: TimeAmount) async throws -> HTTPClientResponse {
        do {
            return try await HTTPClient.shared.execute(request, timeout: timeout)
        } catch {
            throw CommandError(
                "no router answers at \(base) (\(error)); start one with `router up` or `router serve`, "
                    + "or name another with --url")
        }
    }

    private static func refusal(_ status: HTTPResponseStatus, _ body: JSON?, _ path: String) -> CommandError {
        let message = body?["error"]?["message"]?.string ?? "no reason given"
        return CommandError("the router refused \(path) with \(status.code): \(message)")
    }
}
