/// Everything this module can fail with. The message names the field and the limit.
package enum ControlError: Error, Sendable, Equatable, CustomStringConvertible {
    /// A message from the peer has a field with a value that cannot be used.
    case invalid(field: String, reason: String)
    /// The address cannot be listened on.
    case listen(address: String, reason: String)
    /// The address to dial cannot be used.
    case address(String, reason: String)
    /// The router refused this node, and trying again will not help.
    case rejected(router: String, message: String)
    /// Nothing was heard from the peer for the lease time.
    case leaseLost(Duration)

    package var description: String {
        switch self {
        case .invalid(let field, let reason): "\(field): \(reason)"
        case .listen(let address, let reason): "cannot listen on \(address): \(reason)"
        case .address(let address, let reason): "address \(address): \(reason)"
        case .rejected(let router, let message): "the router at \(router) refused this node: \(message)"
        case .leaseLost(let lease): "nothing heard from the router for \(lease)"
        }
    }
}
