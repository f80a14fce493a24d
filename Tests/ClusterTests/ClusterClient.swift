import AsyncHTTPClient
import NIOCore
import NIOHTTP1
import OrderedJSON

/// What a client saw of one streamed answer.
struct StreamedAnswer: Sendable, Equatable {
    var text = ""
    /// Of a completion with `logprobs`: each token's text, and its log probability as it was written.
    var tokens: [String] = []
    var logprobs: [String] = []
    var finishReason: String?
    /// The stream ended as it should, with `[DONE]`.
    var isComplete = false
    var error: String?
}

/// When a client leaves.
enum Departure: Sendable {
    case never
    /// After this time, whatever phase the request is in.
    case after(Duration)
    /// After this many events of the stream.
    case afterEvents(Int)
}

/// An HTTP client for a router.
struct ClusterClient: Sendable {
    let base: String
    let http: HTTPClient

    init(port: Int) {
        base = "http://127.0.0.1:\(port)"
        var configuration = HTTPClient.Configuration()
        configuration.connectionPool.concurrentHTTP1ConnectionsPerHostSoftLimit = 64
        http = HTTPClient(eventLoopGroupProvider: .singleton, configuration: configuration)
    }

    func close() async { try? await http.shutdown() }

    /// Status and body of a request that is not streamed.
    func send(_ method: HTTPMethod, _ path: String, body: String? = nil) async throws -> (status: Int, body: String) {
        var request = HTTPClientRequest(url: base + path)
        request.method = method
        if let body {
            request.headers.add(name: "content-type", value: "application/json")
            request.body = .bytes(ByteBuffer(string: body))
        }
        let response = try await http.execute(request, timeout: .seconds(120))
        let bytes = try await response.body.collect(upTo: 64 << 20)
        return (Int(response.status.code), String(buffer: bytes))
    }

    func json(_ path: String) async throws -> JSON {
        try JSON.parse(try await send(.GET, path).body)
    }

    /// Sends a request of the workload and reads its stream to the end, or until the client leaves.
    func ask(_ work: WorkRequest, leaving: Departure = .never) async -> StreamedAnswer {
        switch leaving {
        case .never: return await stream(work, eventsMax: .max)
        case .afterEvents(let count): return await stream(work, eventsMax: count)
        case .after(let time):
            return await withTaskGroup(of: StreamedAnswer?.self) { group in
                group.addTask { await stream(work, eventsMax: .max) }
                group.addTask {
                    try? await Task.sleep(for: time)
                    return nil
                }
                let first = await group.next() ?? nil
                group.cancelAll()
                if let first { return first }
                return await group.next().flatMap { $0 } ?? StreamedAnswer()
            }
        }
    }

    /// The name of the one model that is served.
    func modelName() async throws -> String {
        try await json("/v1/models")["data"]?[0]?["id"]?.string ?? ""
    }

    private func stream(_ work: WorkRequest, eventsMax: Int) async -> StreamedAnswer {
        var answer = StreamedAnswer()
        var request = HTTPClientRequest(url: base + work.path)
        request.method = .POST
        request.headers.add(name: "content-type", value: "application/json")
        do {
            var body = work.body.object ?? JSONObject([])
            body["model"] = .string(try await modelName())
            request.body = .bytes(ByteBuffer(string: JSON.object(body).text()))
            let response = try await http.execute(request, timeout: .seconds(300))
            guard response.status == .ok else {
                let body = try await response.body.collect(upTo: 1 << 20)
                answer.error = "\(response.status.code) \(String(buffer: body))"
                return answer
            }
            var events = 0
            var pending: [UInt8] = []
            for try await buffer in response.body {
                pending += buffer.readableBytesView
                while let end = pending.firstRange(of: [10, 10]) {
                    let event = String(decoding: pending[..<end.lowerBound], as: UTF8.self)
                    pending.removeSubrange(..<end.upperBound)
                    events += 1
                    if events > eventsMax { return answer }
                    answer.take(event)
                }
            }
        } catch {
            answer.error = "\(error)"
        }
        return answer
    }
}

extension StreamedAnswer {
    /// One server-sent event.
    fileprivate mutating func take(_ event: String) {
        guard event.hasPrefix("data: ") else { return }
        let data = String(event.dropFirst(6))
        if data == "[DONE]" {
            isComplete = true
            return
        }
        guard let json = try? JSON.parse(data) else {
            error = "an event that is no JSON: \(data)"
            return
        }
        if let problem = json["error"], !problem.isNull { error = problem.text() }
        for choice in json["choices"]?.array ?? [] {
            text += choice["text"]?.string ?? choice["delta"]?["content"]?.string ?? ""
            tokens += (choice["logprobs"]?["tokens"]?.array ?? []).map { $0.text() }
            logprobs += (choice["logprobs"]?["token_logprobs"]?.array ?? []).map { $0.text() }
            if let reason = choice["finish_reason"]?.string { finishReason = reason }
        }
    }

    /// Whether this is what a client that left early may have seen of `whole`.
    func isStart(of whole: StreamedAnswer) -> Bool {
        error == nil && whole.text.utf8.starts(with: text.utf8) && whole.logprobs.starts(with: logprobs)
    }
}
