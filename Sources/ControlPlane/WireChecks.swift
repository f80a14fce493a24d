import Handoff
import Messages
import SwiftProtobuf

/// The checks that turn fields of a message from outside into values of this module. Each throws
/// `ControlError.invalid` naming the field and the limit.
enum Wire {
    static func count(_ value: some BinaryInteger, _ field: String, atMost limit: Int) throws(ControlError) -> Int {
        try count(value, field, in: 0...limit)
    }

    static func count(
        _ value: some BinaryInteger, _ field: String, in range: ClosedRange<Int>
    ) throws(ControlError) -> Int {
        guard let count = Int(exactly: value), range.contains(count) else {
            throw .invalid(field: field, reason: "\(value) is not in \(range.lowerBound)...\(range.upperBound)")
        }
        return count
    }

    /// A total that is only shown: kept in range instead of refused.
    static func total(_ value: UInt64) -> Int { Int(clamping: value) }

    /// A measured time that is only shown.
    static func microseconds(_ value: UInt64) -> Duration {
        .microseconds(Int64(min(value, 1_000_000_000_000_000)))
    }

    static func microseconds(_ value: Duration) -> UInt64 {
        let (seconds, attoseconds) = value.components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return UInt64(min(seconds, 1_000_000_000)) * 1_000_000 + UInt64(attoseconds / 1_000_000_000_000)
    }

    static func nanoseconds(_ value: Duration) -> UInt64 {
        let (seconds, attoseconds) = value.components
        guard seconds >= 0, attoseconds >= 0 else { return 0 }
        return UInt64(min(seconds, 1_000_000_000)) * 1_000_000_000 + UInt64(attoseconds / 1_000_000_000)
    }

    static func nanoseconds(_ value: UInt64) -> Duration {
        .nanoseconds(Int64(min(value, 1_000_000_000_000_000_000)))
    }

    static func incarnation(_ value: UInt64, _ field: String) throws(ControlError) -> Incarnation {
        guard value != 0 else { throw .invalid(field: field, reason: "is missing") }
        return Incarnation(value)
    }

    /// Text that identifies something: refused when it is too long or has control characters.
    static func text(
        _ value: String, _ field: String, atMost limit: Int = ControlLimits.textBytes
    ) throws(ControlError) -> String {
        guard value.utf8.count <= limit else {
            throw .invalid(field: field, reason: "\(value.utf8.count) bytes, at most \(limit)")
        }
        guard value.unicodeScalars.allSatisfy({ $0.value >= 0x20 && !(0x7F...0x9F).contains($0.value) }) else {
            throw .invalid(field: field, reason: "has control characters")
        }
        return value
    }

    /// Text for people: cut to the limit, control characters (terminal escapes too) made blanks.
    static func shown(_ value: String, atMost limit: Int = ControlLimits.textBytes) -> String {
        var shown = ""
        var bytes = 0
        for scalar in value.unicodeScalars {
            let clean = scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value) ? " " : scalar
            bytes += UTF8.width(clean)
            if bytes > limit { break }
            shown.unicodeScalars.append(clean)
        }
        return shown
    }

    static func tokens(
        _ value: [UInt32], _ field: String, atMost limit: Int = ControlLimits.tokens
    ) throws(ControlError) -> [UInt32] {
        guard !value.isEmpty else { throw .invalid(field: field, reason: "is empty") }
        guard value.count <= limit else {
            throw .invalid(field: field, reason: "\(value.count) tokens, at most \(limit)")
        }
        guard value.allSatisfy({ $0 <= UInt32(Int32.max) }) else {
            throw .invalid(field: field, reason: "holds a token above \(Int32.max)")
        }
        return value
    }

    static func finite(_ value: Float, _ field: String) throws(ControlError) -> Float {
        guard value.isFinite else { throw .invalid(field: field, reason: "is not a finite number") }
        return value
    }

    static func most(_ count: Int, _ field: String, _ limit: Int) throws(ControlError) {
        guard count <= limit else { throw .invalid(field: field, reason: "\(count) entries, at most \(limit)") }
    }

    /// HOST:PORT with a port from 1, IPv6 hosts in brackets.
    static func address(_ value: String, _ field: String) throws(ControlError) -> String {
        let text = try text(value, field, atMost: 300)
        guard let address = HostPort(text), address.port > 0 else {
            throw .invalid(field: field, reason: "\"\(text)\" is not HOST:PORT with a port in 1...65535")
        }
        return text
    }

    static func addresses(_ values: [String], _ field: String) throws(ControlError) -> [String] {
        try most(values.count, field, ControlLimits.adapters)
        var addresses: [String] = []
        for value in values { addresses.append(try address(value, field)) }
        return addresses
    }

    static func handoff(
        _ present: Bool, _ value: Baton_Control_V1_HandoffID, _ field: String
    ) throws(ControlError) -> HandoffID {
        guard present else { throw .invalid(field: field, reason: "is missing") }
        return try handoff(value, field)
    }

    static func handoff(_ value: Baton_Control_V1_HandoffID, _ field: String) throws(ControlError) -> HandoffID {
        let router = try incarnation(value.router, "\(field).router")
        guard value.attempt >= 1 else { throw .invalid(field: "\(field).attempt", reason: "0, counted from 1") }
        return HandoffID(router: router, request: value.request, attempt: value.attempt)
    }

    static func grant(_ value: Baton_Control_V1_Grant, _ field: String) throws(ControlError) -> GrantTerms {
        let handoff = try handoff(value.hasHandoff, value.handoff, "\(field).handoff")
        guard !value.slots.isEmpty else { throw .invalid(field: "\(field).slots", reason: "is empty") }
        try most(value.slots.count, "\(field).slots", ControlLimits.grantSlots)
        return GrantTerms(
            handoff: handoff, decode: try incarnation(value.decode, "\(field).decode"), lane: LaneID(value.lane),
            epoch: LaneEpoch(value.epoch),
            slots: value.slots.map { SlotRef(index: $0.index, generation: Generation($0.generation)) })
    }
}

extension HandoffID {
    var wire: Baton_Control_V1_HandoffID {
        .with {
            $0.router = router.value
            $0.request = request
            $0.attempt = attempt
        }
    }
}

extension GrantTerms {
    var wire: Baton_Control_V1_Grant {
        .with { grant in
            grant.handoff = handoff.wire
            grant.decode = decode.value
            grant.lane = lane.value
            grant.epoch = epoch.value
            grant.slots = slots.map { slot in
                .with {
                    $0.index = slot.index
                    $0.generation = slot.generation.value
                }
            }
        }
    }
}
