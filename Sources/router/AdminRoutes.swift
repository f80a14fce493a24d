import API
import Cores
import HTTPTypes
import Hummingbird
import Logging
import NIOCore
import OrderedJSON
import Routing

/// The operator's interface, under `/admin`: what `router status`, `drain` and `handoffs` talk to.
extension FrontDoor {
    func admin(_ request: Request, _ context: DoorContext) throws(APIError) -> Response {
        try checkOperator(request, context)
        let now = router.now
        let path = request.uri.path
        switch path {
        case "/admin/status":
            try expect(request, .get)
            let name = prompts.name
            let version = version
            return .json(router.inspect { $0.statusReport(model: name, version: version, now: now) })
        case "/admin/nodes":
            try expect(request, .get)
            return .json(router.inspect { core in .array(core.nodes.all.map { core.nodeReport($0, now: now) }) })
        case "/admin/handoffs":
            try expect(request, .get)
            return .json(router.inspect { $0.handoffReport() })
        default:
            let parts = path.split(separator: "/")
            guard parts.count == 4, parts[1] == "nodes", parts[3] == "drain" else {
                throw .unknownAddress(method: request.method.rawValue, path: path)
            }
            try expect(request, .post)
            let name = String(parts[2])
            guard router.drain(name) else {
                throw APIError(
                    status: 404, type: "invalid_request_error",
                    message: "No node is called \(APIError.quoted(name)); `router nodes` lists them.",
                    param: "node", code: "node_not_found")
            }
            logger.notice("draining a node", metadata: ["node": "\(name)"])
            return .json(["node": .string(name), "state": "draining"])
        }
    }

    /// With an admin key: that key. Without: connections from this host, but neither what a proxy on it passes
    /// on, nor a page that a browser loaded elsewhere. Browsers send `Origin` on what scripts send, but not where
    /// a name of the page's own was made to lead here (DNS rebinding); then `Host` has that name.
    private func checkOperator(_ request: Request, _ context: DoorContext) throws(APIError) {
        if let key = settings.adminKey {
            guard let given = request.bearerKey, equalInConstantTime(key, given) else { throw .unauthorized() }
            return
        }
        let isLocal = context.channel.remoteAddress?.isLoopback ?? false
        let isForwarded = ["forwarded", "x-forwarded-for", "via"].contains { name in
            HTTPField.Name(name).map { request.headers.contains($0) } ?? false
        }
        let isAskedForHere = request.head.authority.map(isLoopbackHost) ?? false
        guard isLocal, !isForwarded, isAskedForHere, request.headers[.origin] == nil else {
            throw APIError(
                status: 403, type: "permission_error",
                message:
                    "Without an admin key, /admin is open to this host only, asked for as localhost or 127.0.0.1 and "
                    + "without a proxy; start the router with --admin-key to change that.",
                code: "admin_local_only")
        }
    }
}

/// Whether a `Host` header names this host: localhost or a loopback address, with or without a port.
func isLoopbackHost(_ authority: String) -> Bool {
    var host = authority.lowercased()[...]
    if host.hasPrefix("[") {
        guard let end = host.firstIndex(of: "]") else { return false }
        host = host[..<end].dropFirst()
    } else if let colon = host.firstIndex(of: ":") {
        host = host[..<colon]
    }
    if host == "localhost" { return true }
    return (try? SocketAddress(ipAddress: String(host), port: 0))?.isLoopback ?? false
}

extension SocketAddress {
    /// 127.0.0.0/8, ::1, the same mapped into IPv6, or a Unix socket.
    var isLoopback: Bool {
        switch self {
        case .v4: ipAddress?.hasPrefix("127.") ?? false
        case .v6: ipAddress == "::1" || ipAddress?.hasPrefix("::ffff:127.") ?? false
        case .unixDomainSocket: true
        }
    }
}
