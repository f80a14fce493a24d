package import ControlPlane
package import Engine
package import Transport

/// Why a node cannot start or go on. The text is one line, for a person.
package enum NodeError: Error, Sendable, CustomStringConvertible {
    case option(name: String, reason: String)
    case engine(EngineError)
    case lanes(TransportError)
    case control(ControlError)
    case http(address: String, reason: String)
    case thread(reason: String)
    case resources(reason: String)

    package var description: String {
        switch self {
        case .option(let name, let reason): "--\(name): \(reason)"
        case .engine(let error): error.description
        case .lanes(let error): "KV lanes: \(error)"
        case .control(let error): error.description
        case .http(let address, let reason): "cannot listen on \(address) for HTTP: \(reason)"
        case .resources(let reason): reason
        case .thread(let reason): "cannot start a thread: \(reason)"
        }
    }
}
