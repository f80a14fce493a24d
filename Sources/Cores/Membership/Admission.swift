package import Messages

/// Which nodes a router takes. Pure.
package enum Admission {
    /// Why a node may not attach; nil when it may. All nodes of a router serve one model.
    /// - Parameter expected: the fingerprint of the router's own model; nil where it is not known.
    package static func refusal(
        of registration: Registration, expected: String?, attached: [Registration]
    ) -> String? {
        let mine = registration.compatibility.fingerprint
        if let expected, mine != expected {
            return "model fingerprint is \(mine), the router's model has \(expected)"
        }
        if expected == nil, let other = attached.first(where: { $0.name != registration.name }),
            other.compatibility.fingerprint != mine
        {
            return "model fingerprint is \(mine), that of \(other.name) is \(other.compatibility.fingerprint)"
        }
        return nil
    }
}
