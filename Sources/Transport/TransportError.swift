import Glibc

/// Why a lane listener or a connection could not be set up. The message names what was tried.
package struct TransportError: Error, Sendable, Hashable, CustomStringConvertible {
    package enum Kind: Sendable, Hashable {
        case badAddress, unresolvable, inUse, refused, timeout, system
    }

    package let kind: Kind
    package let message: String

    package var description: String { message }

    init(_ kind: Kind, _ message: String) {
        self.kind = kind
        self.message = message
    }

    /// With the text of an errno value.
    init(_ kind: Kind, _ message: String, errno code: Int32) {
        self.init(kind, "\(message): \(errorText(code))")
    }
}

/// The system's text for an errno value.
func errorText(_ code: Int32) -> String {
    withUnsafeTemporaryAllocation(of: CChar.self, capacity: 256) { buffer in
        guard let base = buffer.baseAddress else { return "error \(code)" }
        base.initialize(repeating: 0, count: buffer.count)
        guard strerror_r(code, base, buffer.count) == 0 else { return "error \(code)" }
        return String(cString: base)
    }
}
