extension JSON {
    /// Parses one value per RFC 8259: no comments, trailing commas, NaN or byte order mark; strings must be
    /// valid UTF-8, escaped surrogates paired.
    package static func parse(
        _ bytes: UnsafeRawBufferPointer, limits: JSONLimits = .standard
    ) throws(JSONError) -> JSON {
        var parser = JSONParser(bytes: bytes.assumingMemoryBound(to: UInt8.self), limits: limits)
        return try parser.parseDocument()
    }

    /// The same for an array of bytes.
    package static func parse(_ bytes: [UInt8], limits: JSONLimits = .standard) throws(JSONError) -> JSON {
        try bytes.withUnsafeBytes { (raw) -> Result<JSON, JSONError> in
            Result { () throws(JSONError) in try parse(raw, limits: limits) }
        }.get()
    }

    /// The same for a span.
    package static func parse(_ bytes: borrowing Span<UInt8>, limits: JSONLimits = .standard) throws(JSONError) -> JSON
    {
        try bytes.withUnsafeBytes { (raw) -> Result<JSON, JSONError> in
            Result { () throws(JSONError) in try parse(raw, limits: limits) }
        }.get()
    }

    /// The same for a string.
    package static func parse(_ text: String, limits: JSONLimits = .standard) throws(JSONError) -> JSON {
        var text = text
        return try text.withUTF8 { (utf8) -> Result<JSON, JSONError> in
            Result { () throws(JSONError) in try parse(UnsafeRawBufferPointer(utf8), limits: limits) }
        }.get()
    }
}

/// A recursive-descent parser over bytes. Every read is checked against `bytes.count`.
struct JSONParser {
    let bytes: UnsafeBufferPointer<UInt8>
    let limits: JSONLimits
    private var position = 0
    private var valuesLeft: Int
    private var unescaped: [UInt8] = []

    init(bytes: UnsafeBufferPointer<UInt8>, limits: JSONLimits) {
        self.bytes = bytes
        self.limits = limits
        valuesLeft = limits.values
    }

    mutating func parseDocument() throws(JSONError) -> JSON {
        guard bytes.count <= limits.bytes else {
            throw failure(.tooLong(bytes: bytes.count, limit: limits.bytes), at: 0)
        }
        skipSpace()
        let value = try parseValue(depth: 0)
        skipSpace()
        guard position == bytes.count else { throw failure(.trailingContent) }
        return value
    }

    // MARK: Values

    private mutating func parseValue(depth: Int) throws(JSONError) -> JSON {
        guard position < bytes.count else { throw failure(.unexpectedEnd) }
        valuesLeft -= 1
        guard valuesLeft >= 0 else { throw failure(.tooManyValues(limit: limits.values)) }
        switch bytes[position] {
        case UInt8(ascii: "\""):
            return .string(try parseString())
        case UInt8(ascii: "{"):
            return .object(try parseObject(depth: depth + 1))
        case UInt8(ascii: "["):
            return .array(try parseArray(depth: depth + 1))
        case UInt8(ascii: "-"), UInt8(ascii: "0")...UInt8(ascii: "9"):
            return try parseNumber()
        case UInt8(ascii: "t"):
            try expect("true")
            return .bool(true)
        case UInt8(ascii: "f"):
            try expect("false")
            return .bool(false)
        case UInt8(ascii: "n"):
            try expect("null")
            return .null
        default:
            throw failure(.expected("a value"))
        }
    }

    private mutating func parseArray(depth: Int) throws(JSONError) -> [JSON] {
        guard depth <= limits.depth else { throw failure(.tooDeep(limit: limits.depth)) }
        position += 1
        skipSpace()
        var elements: [JSON] = []
        if take(UInt8(ascii: "]")) { return elements }
        while true {
            elements.append(try parseValue(depth: depth))
            skipSpace()
            if take(UInt8(ascii: ",")) {
                skipSpace()
            } else if take(UInt8(ascii: "]")) {
                return elements
            } else {
                throw position < bytes.count ? failure(.expected("',' or ']'")) : failure(.unexpectedEnd)
            }
        }
    }

    private mutating func parseObject(depth: Int) throws(JSONError) -> JSONObject {
        guard depth <= limits.depth else { throw failure(.tooDeep(limit: limits.depth)) }
        position += 1
        skipSpace()
        var object = JSONObject()
        if take(UInt8(ascii: "}")) { return object }
        while true {
            guard position < bytes.count else { throw failure(.unexpectedEnd) }
            guard bytes[position] == UInt8(ascii: "\"") else { throw failure(.expected("a key in quotes")) }
            let keyStart = position
            let key = try parseString()
            skipSpace()
            guard take(UInt8(ascii: ":")) else {
                throw position < bytes.count ? failure(.expected("':'")) : failure(.unexpectedEnd)
            }
            skipSpace()
            let isKnown = object.set(key, try parseValue(depth: depth))
            if isKnown, !limits.allowsDuplicateKeys { throw failure(.duplicateKey(key), at: keyStart) }
            skipSpace()
            if take(UInt8(ascii: ",")) {
                skipSpace()
            } else if take(UInt8(ascii: "}")) {
                return object
            } else {
                throw position < bytes.count ? failure(.expected("',' or '}'")) : failure(.unexpectedEnd)
            }
        }
    }

    // MARK: Numbers

    private mutating func parseNumber() throws(JSONError) -> JSON {
        let start = position
        let negative = take(UInt8(ascii: "-"))
        let firstDigit = position
        // The magnitude is gathered as a negative number, so that Int64.min needs no case of its own.
        var value: Int64 = 0
        var overflow = false
        while let digit = digitHere() {
            let (scaled, first) = value.multipliedReportingOverflow(by: 10)
            let (sum, second) = scaled.subtractingReportingOverflow(Int64(digit))
            overflow = overflow || first || second
            value = sum
            position += 1
        }
        let digits = position - firstDigit
        guard digits > 0, digits == 1 || bytes[firstDigit] != UInt8(ascii: "0") else {
            throw failure(.badNumber, at: start)
        }
        var integral = true
        if take(UInt8(ascii: ".")) {
            integral = false
            try skipDigits(numberStart: start)
        }
        if take(UInt8(ascii: "e")) || take(UInt8(ascii: "E")) {
            integral = false
            if !take(UInt8(ascii: "+")) { _ = take(UInt8(ascii: "-")) }
            try skipDigits(numberStart: start)
        }
        if integral, !overflow, negative || value != .min {
            return .int(negative ? value : -value)
        }
        let text = String(decoding: bytes[start..<position], as: UTF8.self)
        guard let double = Double(text), double.isFinite else { throw failure(.numberOutOfRange, at: start) }
        return .double(double)
    }

    private func digitHere() -> UInt8? {
        guard position < bytes.count else { return nil }
        let digit = bytes[position] &- UInt8(ascii: "0")
        return digit < 10 ? digit : nil
    }

    private mutating func skipDigits(numberStart: Int) throws(JSONError) {
        guard digitHere() != nil else { throw failure(.badNumber, at: numberStart) }
        while digitHere() != nil { position += 1 }
    }

    // MARK: Strings

    private mutating func parseString() throws(JSONError) -> String {
        let start = position + 1
        var end = start
        while end < bytes.count {
            let byte = bytes[end]
            if byte == UInt8(ascii: "\"") {
                position = end + 1
                return try validated(UnsafeBufferPointer(rebasing: bytes[start..<end]), at: start)
            }
            if byte == UInt8(ascii: "\\") { return try parseEscapedString(from: start, firstEscape: end) }
            guard byte >= 0x20 else { throw failure(.controlCharacter, at: end) }
            end += 1
        }
        throw failure(.unexpectedEnd, at: bytes.count)
    }

    private mutating func parseEscapedString(from start: Int, firstEscape: Int) throws(JSONError) -> String {
        unescaped.removeAll(keepingCapacity: true)
        unescaped.append(contentsOf: bytes[start..<firstEscape])
        position = firstEscape
        while position < bytes.count {
            let byte = bytes[position]
            switch byte {
            case UInt8(ascii: "\""):
                position += 1
                return try unescaped.withUnsafeBufferPointer { (buffer) -> Result<String, JSONError> in
                    Result { () throws(JSONError) in try validated(buffer, at: start) }
                }.get()
            case UInt8(ascii: "\\"):
                try parseEscape()
            case 0..<0x20:
                throw failure(.controlCharacter)
            default:
                unescaped.append(byte)
                position += 1
            }
        }
        throw failure(.unexpectedEnd)
    }

    private mutating func parseEscape() throws(JSONError) {
        let start = position
        guard position + 1 < bytes.count else { throw failure(.unexpectedEnd, at: bytes.count) }
        let letter = bytes[position + 1]
        position += 2
        switch letter {
        case UInt8(ascii: "\""), UInt8(ascii: "\\"), UInt8(ascii: "/"): unescaped.append(letter)
        case UInt8(ascii: "b"): unescaped.append(0x08)
        case UInt8(ascii: "f"): unescaped.append(0x0C)
        case UInt8(ascii: "n"): unescaped.append(0x0A)
        case UInt8(ascii: "r"): unescaped.append(0x0D)
        case UInt8(ascii: "t"): unescaped.append(0x09)
        case UInt8(ascii: "u"):
            let scalar = try parseUnicodeEscape(from: start)
            unescaped.append(contentsOf: String(scalar).utf8)
        default: throw failure(.badEscape, at: start)
        }
    }

    /// Reads the digits after `\u`, and the second escape of a surrogate pair.
    private mutating func parseUnicodeEscape(from start: Int) throws(JSONError) -> Unicode.Scalar {
        let first = try parseHex4(escapeStart: start)
        if let scalar = Unicode.Scalar(first) { return scalar }
        guard first < 0xDC00, take(UInt8(ascii: "\\")), take(UInt8(ascii: "u")) else {
            throw failure(.loneSurrogate, at: start)
        }
        let second = try parseHex4(escapeStart: start)
        guard (0xDC00...0xDFFF).contains(second),
            let scalar = Unicode.Scalar(0x10000 + (first - 0xD800) << 10 + (second - 0xDC00))
        else { throw failure(.loneSurrogate, at: start) }
        return scalar
    }

    private mutating func parseHex4(escapeStart: Int) throws(JSONError) -> UInt32 {
        guard position + 4 <= bytes.count else { throw failure(.unexpectedEnd, at: bytes.count) }
        var value: UInt32 = 0
        for offset in 0..<4 {
            guard let digit = Character(Unicode.Scalar(bytes[position + offset])).hexDigitValue,
                bytes[position + offset] < 0x80
            else { throw failure(.badEscape, at: escapeStart) }
            value = value << 4 | UInt32(digit)
        }
        position += 4
        return value
    }

    private func validated(_ utf8: UnsafeBufferPointer<UInt8>, at start: Int) throws(JSONError) -> String {
        guard let string = String(validating: utf8, as: UTF8.self) else { throw failure(.invalidUTF8, at: start) }
        return string
    }

    // MARK: Bytes

    private mutating func skipSpace() {
        while position < bytes.count {
            switch bytes[position] {
            case 0x20, 0x0A, 0x0D, 0x09: position += 1
            default: return
            }
        }
    }

    private mutating func take(_ byte: UInt8) -> Bool {
        guard position < bytes.count, bytes[position] == byte else { return false }
        position += 1
        return true
    }

    private mutating func expect(_ word: StaticString) throws(JSONError) {
        let start = position
        for index in 0..<word.utf8CodeUnitCount {
            guard position < bytes.count else { throw failure(.unexpectedEnd) }
            guard take(word.utf8Start[index]) else { throw failure(.expected("\(word)"), at: start) }
        }
    }

    private func failure(_ reason: JSONError.Reason, at offset: Int? = nil) -> JSONError {
        let offset = offset ?? position
        let line = 1 + bytes[..<min(offset, bytes.count)].reduce(0) { $0 + ($1 == 0x0A ? 1 : 0) }
        return JSONError(reason: reason, offset: offset, line: line)
    }
}
