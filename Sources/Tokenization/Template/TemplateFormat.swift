/// Python's two ways to format text: `"…" % values` and `"…".format(…)`.
extension TemplateRun {
    /// How a value is laid out: `[[fill]align][sign][0][width][,][.precision][type]`.
    private struct Layout {
        var fill: [UInt8] = [0x20]
        var alignment: TemplateMethods.Alignment?
        var sign: UInt8 = 0x2D
        var groups = false
        var width = 0
        var precision: Int?
        var type: UInt8 = 0
        var padsAfterSign = false
    }

    // MARK: Percent

    func formatPercent(_ format: TemplateText, _ values: TemplateValue) throws(TokenizationError) -> TemplateText {
        var arguments: [TemplateValue] = [values]
        if case .tuple(let list) = values { arguments = list.items }
        var next = 0
        func take() throws(TokenizationError) -> TemplateValue {
            guard next < arguments.count else { throw fail("not enough arguments for format string") }
            next += 1
            return arguments[next - 1]
        }
        let text = format.bytes
        var result: [UInt8] = []
        var index = 0
        while index < text.count {
            guard text[index] == 0x25 else {
                result.append(text[index])
                index += 1
                continue
            }
            index += 1
            var layout = Layout()
            var named: TemplateValue?
            if index < text.count, text[index] == 0x28, let end = text[index...].firstIndex(of: 0x29) {
                guard case .dict(let dict) = values else { throw fail("format requires a mapping") }
                named = dict.value(TemplateText(text[(index + 1)..<end])) ?? .undefined("missing key")
                index = end + 1
            }
            layout.alignment = .right
            while index < text.count, "-+ 0#".utf8.contains(text[index]) {
                switch text[index] {
                case 0x2D: layout.alignment = .left
                case 0x30:
                    layout.fill = [0x30]
                    layout.padsAfterSign = true
                case 0x23: break
                default: layout.sign = text[index]
                }
                index += 1
            }
            layout.width = try number(text, &index) ?? 0
            if index < text.count, text[index] == 0x2E {
                index += 1
                layout.precision = try number(text, &index) ?? 0
            }
            guard index < text.count else { throw fail("incomplete format") }
            layout.type = text[index]
            index += 1
            if layout.type == 0x25 {
                result.append(0x25)
                continue
            }
            let value = if let named { named } else { try take() }
            result += try percentItem(value, layout)
            try spend(bytes: result.count)
        }
        if next < arguments.count, case .tuple = values {
            throw fail("not all arguments converted during string formatting")
        }
        return TemplateText(result)
    }

    private func percentItem(_ value: TemplateValue, _ layout: Layout) throws(TokenizationError) -> [UInt8] {
        var layout = layout
        switch layout.type {
        case 0x73, 0x72, 0x61:  // s r a
            let text = layout.type == 0x73 ? value.printed : TemplateText(value.represented)
            layout.type = 0x73
            layout.fill = [0x20]
            return try laidOut(.string(text), layout)
        case 0x64, 0x69, 0x75:  // d i u
            guard let number = value.number, let integer = value.integer ?? Int64(exactly: number.rounded(.towardZero))
            else { throw fail("%d format: a number is required, not \(value.typeName)") }
            layout.type = 0x64
            return try laidOut(.int(integer), layout)
        case 0x63:  // c
            let scalar = value.integer.flatMap { UInt32(exactly: $0) }.flatMap { Unicode.Scalar($0) }
            let text = scalar.map { TemplateText([$0]) } ?? value.text
            guard let text, text.length == 1 else { throw fail("%c requires int or char") }
            layout.type = 0x73
            return try laidOut(.string(text), layout)
        case 0x66, 0x46, 0x65, 0x45, 0x67, 0x47, 0x78, 0x58, 0x6F:  // f e g x o
            guard value.number != nil else { throw fail("must be real number, not \(value.typeName)") }
            return try laidOut(value, layout)
        default:
            throw fail("unsupported format character")
        }
    }

    private func number(_ text: [UInt8], _ index: inout Int) throws(TokenizationError) -> Int? {
        var value: Int?
        while index < text.count, (0x30...0x39).contains(text[index]) {
            value = (value ?? 0) * 10 + Int(text[index] - 0x30)
            guard value ?? 0 <= 1_000_000 else { throw fail("a width or precision in a format is too big") }
            index += 1
        }
        return value
    }

    // MARK: Braces

    func formatBraces(_ format: TemplateText, _ given: TemplateValues) throws(TokenizationError) -> TemplateText {
        let text = format.bytes
        var result: [UInt8] = []
        var automatic: Int64 = 0
        var index = 0
        while index < text.count {
            let byte = text[index]
            guard byte == 0x7B || byte == 0x7D else {
                result.append(byte)
                index += 1
                continue
            }
            if index + 1 < text.count, text[index + 1] == byte {
                result.append(byte)
                index += 2
                continue
            }
            guard byte == 0x7B, let end = text[index...].firstIndex(of: 0x7D) else {
                throw fail("single '{' or '}' encountered in format string")
            }
            let field = TemplateText(text[(index + 1)..<end])
            guard !field.bytes.contains(0x7B) else { throw fail("nested fields in a format string are not supported") }
            index = end + 1
            let parts = field.split(":", most: 1)
            let nameAndConversion = parts[0].split("!", most: 1)
            var value = try self.field(nameAndConversion[0], given, &automatic)
            if nameAndConversion.count > 1 {
                value = nameAndConversion[1] == "r" ? .text(value.represented) : .string(value.printed)
            }
            result += try laidOut(value, parts.count > 1 ? layout(parts[1].bytes, for: value) : Layout())
            try spend(bytes: result.count)
        }
        return TemplateText(result)
    }

    /// The value that `name.attribute[key]` of a replacement field stands for.
    private func field(
        _ path: TemplateText, _ given: TemplateValues, _ automatic: inout Int64
    ) throws(TokenizationError) -> TemplateValue {
        let name = TemplateText(path.bytes.prefix { $0 != 0x2E && $0 != 0x5B })
        var value: TemplateValue
        if name.isEmpty || Int64(name.string) != nil {
            let place = Int64(name.string) ?? automatic
            if name.isEmpty { automatic += 1 }
            guard place >= 0, place < given.positional.count else {
                throw fail("replacement index \(place) out of range for positional args tuple")
            }
            value = given.positional[Int(place)]
        } else {
            guard let found = given.named.first(where: { $0.0 == name.string })?.1 else {
                throw fail("format() misses the argument '\(name.string)'")
            }
            value = found
        }
        var rest = path.bytes.dropFirst(name.bytes.count)
        while let first = rest.popFirst() {
            if first == 0x2E {
                let part = rest.prefix { $0 != 0x2E && $0 != 0x5B }
                rest = rest.dropFirst(part.count)
                value = try attribute(value, String(decoding: part, as: UTF8.self))
            } else {
                let part = rest.prefix { $0 != 0x5D }
                rest = rest.dropFirst(part.count + 1)
                let key = TemplateText(Array(part))
                value = try item(value, Int64(key.string).map { .int($0) } ?? .string(key))
            }
        }
        return value
    }

    private func layout(_ text: [UInt8], for value: TemplateValue) throws(TokenizationError) -> Layout {
        var layout = Layout()
        var scalars = TemplateText(text).scalars[...]
        let alignments: [Unicode.Scalar: TemplateMethods.Alignment] = ["<": .left, ">": .right, "^": .center]
        if scalars.count > 1, let alignment = alignments[scalars[1]] {
            layout.fill = TemplateText([scalars[0]]).bytes
            layout.alignment = alignment
            scalars = scalars.dropFirst(2)
        } else if let first = scalars.first, let alignment = alignments[first] {
            layout.alignment = alignment
            scalars = scalars.dropFirst()
        }
        let rest = TemplateText(scalars).bytes
        var index = 0
        if index < rest.count, "+- ".utf8.contains(rest[index]) {
            layout.sign = rest[index]
            index += 1
        }
        if index < rest.count, rest[index] == 0x30, layout.alignment == nil {
            layout.fill = [0x30]
            layout.padsAfterSign = true
            index += 1
        }
        layout.width = try number(rest, &index) ?? 0
        if index < rest.count, rest[index] == 0x2C {
            layout.groups = true
            index += 1
        }
        if index < rest.count, rest[index] == 0x2E {
            index += 1
            layout.precision = try number(rest, &index)
        }
        if index < rest.count {
            layout.type = rest[index]
            index += 1
        }
        guard index == rest.count else { throw fail("invalid format specifier '\(TemplateText(text).string)'") }
        return layout
    }

    // MARK: Layout

    private func laidOut(_ value: TemplateValue, _ layout: Layout) throws(TokenizationError) -> [UInt8] {
        try spend(bytes: layout.width)
        guard let number = value.number, layout.type != 0x73 else {
            var text = value.printed
            if let precision = layout.precision { text = TemplateText(text.scalars.prefix(precision)) }
            return TemplateMethods.padded(text, layout.width, layout.alignment ?? .left, layout.fill).bytes
        }
        if case .bool = value, layout.type == 0 {
            return TemplateMethods.padded(value.printed, layout.width, layout.alignment ?? .left, layout.fill).bytes
        }
        var digits = try magnitude(value, number, layout)
        if layout.groups { digits = Self.grouped(digits) }
        let isNegative = number.sign == .minus
        let sign = isNegative ? "-" : layout.sign == 0x2D ? "" : String(Unicode.Scalar(layout.sign))
        if layout.padsAfterSign && layout.alignment != .left {
            let padded = TemplateMethods.padded(
                TemplateText(digits), layout.width - sign.utf8.count, .right, layout.fill)
            return Array(sign.utf8) + padded.bytes
        }
        return TemplateMethods.padded(
            TemplateText(sign + digits), layout.width, layout.alignment ?? .right, layout.fill
        ).bytes
    }

    /// The digits of a number without its sign.
    private func magnitude(
        _ value: TemplateValue, _ number: Double, _ layout: Layout
    ) throws(TokenizationError) -> String {
        if let integer = value.integer {
            switch layout.type {
            case 0, 0x64: return String(integer.magnitude)
            case 0x78: return String(integer.magnitude, radix: 16)
            case 0x58: return String(integer.magnitude, radix: 16, uppercase: true)
            case 0x6F: return String(integer.magnitude, radix: 8)
            case 0x62: return String(integer.magnitude, radix: 2)
            default: break
            }
        }
        let size = number.magnitude
        switch layout.type {
        case 0x66, 0x46: return FloatMath.fixed(size, digits: layout.precision ?? 6)
        case 0x65, 0x45: return FloatMath.scientific(size, digits: layout.precision ?? 6)
        case 0x67, 0x47: return FloatMath.general(size, digits: layout.precision ?? 6)
        case 0x25: return FloatMath.fixed(size * 100, digits: layout.precision ?? 6) + "%"
        case 0:
            return layout.precision.map { FloatMath.general(size, digits: $0) } ?? TemplateValue.float(size).represented
        default:
            throw fail("unknown format code for '\(value.typeName)'")
        }
    }

    /// A comma after every three digits of the whole part.
    private static func grouped(_ digits: String) -> String {
        let whole = Array(digits.utf8.prefix { (0x30...0x39).contains($0) })
        var result: [UInt8] = []
        for (index, digit) in whole.enumerated() {
            if index > 0 && (whole.count - index) % 3 == 0 { result.append(0x2C) }
            result.append(digit)
        }
        return String(decoding: result, as: UTF8.self) + digits.dropFirst(whole.count)
    }
}
