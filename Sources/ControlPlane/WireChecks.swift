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
        let lent = try count(value.lent, "\(field).lent", atMost: value.slots.count - 1)
        return GrantTerms(
            handoff: handoff, decode: try incarnation(value.decode, "\(field).decode"),
            slots: value.slots.map { SlotRef(index: $0.index, generation: Generation($0.generation)) }, lent: lent,
            parts: try parts(value.parts, "\(field).parts", pages: lent..<value.slots.count))
    }

    /// The parts of a grant, each within these pages, all within one page's layers, and none over another.
    private static func parts(
        _ values: [Baton_Control_V1_Part], _ field: String, pages: Range<Int>
    ) throws(ControlError) -> [GrantPart] {
        var parts: [GrantPart] = []
        guard (1...GrantTerms.partsMax).contains(values.count) else {
            throw .invalid(field: field, reason: "\(values.count) parts, of 1 to \(GrantTerms.partsMax)")
        }
        for value in values {
            let part = GrantPart(
                writer: try incarnation(value.writer, "\(field).writer"), lane: LaneID(value.lane),
                epoch: LaneEpoch(value.epoch),
                pages: try range(value.firstPage, value.pages, "\(field).pages", atMost: pages.upperBound),
                layers: try range(value.firstLayer, value.layers, "\(field).layers", atMost: ControlLimits.layers))
            guard part.pages.lowerBound >= pages.lowerBound else {
                throw .invalid(field: "\(field).first_page", reason: "\(part.pages.lowerBound) is lent")
            }
            parts.append(part)
        }
        let layers = parts.reduce(0) { max($0, $1.layers.upperBound) }
        guard GrantTerms.areCovering(parts, pages: pages, layers: layers) else {
            throw .invalid(field: field, reason: "do not cover each layer of each page once")
        }
        return parts
    }

    private static func range(
        _ first: UInt32, _ count: UInt32, _ field: String, atMost limit: Int
    ) throws(ControlError) -> Range<Int> {
        guard count > 0, Int(first) + Int(count) <= limit else {
            throw .invalid(field: field, reason: "\(count) from \(first) on, within \(limit)")
        }
        return Int(first)..<Int(first) + Int(count)
    }

    /// What each writer is to write. That they cover everything once is looked at where the pages and layers are known.
    static func shares(_ values: [Baton_Control_V1_Share], _ field: String) throws(ControlError) -> [Share] {
        guard (1...GrantTerms.partsMax).contains(values.count) else {
            throw .invalid(field: field, reason: "\(values.count) shares, of 1 to \(GrantTerms.partsMax)")
        }
        func upTo(_ first: UInt32, _ count: UInt32) -> Range<Int> {
            Int(first)..<(count == 0 ? Share.last : Int(first) + Int(count))
        }
        var shares: [Share] = []
        for value in values {
            shares.append(
                Share(
                    writer: try incarnation(value.writer, "\(field).writer"),
                    pages: upTo(value.firstPage, value.pages), layers: upTo(value.firstLayer, value.layers)))
        }
        return shares
    }

    static func partSet(_ value: UInt32, _ field: String) throws(ControlError) -> PartSet {
        guard value != 0 else { throw .invalid(field: field, reason: "names no part") }
        return PartSet(rawValue: value)
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
            grant.lent = UInt32(clamping: lent)
            grant.parts = parts.map(\.wire)
            grant.slots = slots.map { slot in
                .with {
                    $0.index = slot.index
                    $0.generation = slot.generation.value
                }
            }
        }
    }
}

extension GrantPart {
    var wire: Baton_Control_V1_Part {
        .with {
            $0.writer = writer.value
            $0.lane = lane.value
            $0.epoch = epoch.value
            $0.firstPage = UInt32(clamping: pages.lowerBound)
            $0.pages = UInt32(clamping: pages.count)
            $0.firstLayer = UInt32(clamping: layers.lowerBound)
            $0.layers = UInt32(clamping: layers.count)
        }
    }
}

extension Share {
    var wire: Baton_Control_V1_Share {
        .with {
            $0.writer = writer.value
            $0.firstPage = UInt32(clamping: pages.lowerBound)
            $0.pages = pages.upperBound == Share.last ? 0 : UInt32(clamping: pages.count)
            $0.firstLayer = UInt32(clamping: layers.lowerBound)
            $0.layers = layers.upperBound == Share.last ? 0 : UInt32(clamping: layers.count)
        }
    }
}
