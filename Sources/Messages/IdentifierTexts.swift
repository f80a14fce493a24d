package import Handoff

extension HandoffID {
    /// For logs and tables: router incarnation in hexadecimal, request, attempt.
    package var text: String {
        "\(router.text)/\(request)/\(attempt)"
    }
}

extension Incarnation {
    /// Sixteen hexadecimal digits.
    package var text: String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }

    /// A new one for this process. Never 0, which the wire uses for "none".
    package static func random() -> Incarnation {
        Incarnation(UInt64.random(in: 1...UInt64.max))
    }
}
