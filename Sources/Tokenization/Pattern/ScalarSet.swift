/// A set of Unicode scalars: a bitmap for ASCII, general categories and ranges for the rest.
struct ScalarSet: Sendable {
    /// ASCII members, one bit each.
    var low: UInt64 = 0
    var high: UInt64 = 0
    /// General categories whose non-ASCII scalars belong to the set, one bit each (see `category`).
    var categories: UInt32 = 0
    /// Further non-ASCII members.
    var ranges: [ClosedRange<UInt32>] = []
    /// Whether membership of non-ASCII scalars is reversed. The ASCII bitmap is always as it reads.
    var reversed = false

    static let allCategories: UInt32 = (1 << 30) - 1

    static func single(_ scalar: Unicode.Scalar) -> ScalarSet {
        var set = ScalarSet()
        set.insert(scalar.value...scalar.value)
        return set
    }

    /// Every scalar; without the newline if `.` is meant.
    static func any(exceptNewline: Bool) -> ScalarSet {
        var set = ScalarSet(low: .max, high: .max, categories: allCategories)
        if exceptNewline { set.low &= ~(1 << 10) }
        return set
    }

    mutating func insert(_ range: ClosedRange<UInt32>) {
        var value = range.lowerBound
        while value <= range.upperBound && value < 128 {
            if value < 64 { low |= 1 << UInt64(value) } else { high |= 1 << UInt64(value - 64) }
            value += 1
        }
        if range.upperBound >= 128 { ranges.append(max(range.lowerBound, 128)...range.upperBound) }
    }

    /// Adds every scalar whose general category is in `mask`.
    mutating func insert(categories mask: UInt32) {
        for value in 0..<UInt32(128) where mask & 1 << UInt32(categoryTable[Int(value)]) != 0 {
            insert(value...value)
        }
        categories |= mask
    }

    /// Adds White_Space, or everything else.
    mutating func insertWhitespace(negated: Bool) {
        let separators: UInt32 = 1 << 20 | 1 << 21 | 1 << 22
        var ascii = ScalarSet()
        ascii.insert(9...13)
        ascii.insert(32...32)
        if negated {
            low |= ~ascii.low
            high |= ~ascii.high
            categories |= Self.allCategories & ~separators & ~(1 << controlCategory)
            ranges += [0x80...0x84, 0x86...0x9F]
        } else {
            low |= ascii.low
            high |= ascii.high
            categories |= separators
            ranges.append(0x85...0x85)
        }
    }

    /// Adds the other case of every ASCII letter in the set, and the two letters beyond ASCII that fold to one.
    mutating func closeOverCase() {
        let letters = high & 0x07FF_FFFE_07FF_FFFE
        high |= letters << 32 & 0x07FF_FFFE_0000_0000 | letters >> 32 & 0x07FF_FFFE
        if contains(ascii: 0x73) { ranges.append(0x17F...0x17F) }
        if contains(ascii: 0x6B) { ranges.append(0x212A...0x212A) }
        for range in ranges where range.count == 1 {
            guard let scalar = Unicode.Scalar(range.lowerBound) else { continue }
            for text in [scalar.properties.lowercaseMapping, scalar.properties.uppercaseMapping] {
                if let other = text.unicodeScalars.first, text.unicodeScalars.count == 1, other != scalar {
                    insert(other.value...other.value)
                }
            }
        }
    }

    mutating func invert() {
        low = ~low
        high = ~high
        reversed.toggle()
    }

    @inline(__always)
    func contains(ascii byte: UInt8) -> Bool {
        (byte < 64 ? low &>> UInt64(byte) : high &>> UInt64(byte & 63)) & 1 != 0
    }

    /// Membership of a scalar beyond ASCII.
    func contains(beyondASCII value: UInt32) -> Bool {
        if categories != 0 && categories & 1 << UInt32(category(of: value)) != 0 { return !reversed }
        for range in ranges where range.contains(value) { return !reversed }
        return reversed
    }

    /// Whether any scalar beyond ASCII can be a member.
    var reachesBeyondASCII: Bool { reversed || categories != 0 || !ranges.isEmpty }
}

/// Bits of the general categories, in this order: Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc
/// then Zs Zl Zp, Sk So, Cc Cf Cs Co Cn.
let categoryNames = [
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm",
    "Sc", "Zs", "Zl", "Zp", "Sk", "So", "Cc", "Cf", "Cs", "Co", "Cn",
]
private let controlCategory: UInt32 = 25

/// The mask of a property such as `L`, `Lu`, `Letter`; nil if the name is not known.
func categoryMask(named name: String) -> UInt32? {
    let long = [
        "Letter": "L", "Mark": "M", "Number": "N", "Punctuation": "P", "Symbol": "S", "Separator": "Z", "Other": "C",
        "Uppercase_Letter": "Lu", "Lowercase_Letter": "Ll", "Titlecase_Letter": "Lt", "Modifier_Letter": "Lm",
        "Other_Letter": "Lo", "Nonspacing_Mark": "Mn", "Decimal_Number": "Nd", "Letter_Number": "Nl",
        "Other_Number": "No", "Connector_Punctuation": "Pc", "Dash_Punctuation": "Pd", "Other_Punctuation": "Po",
        "Space_Separator": "Zs", "Control": "Cc", "Format": "Cf", "Unassigned": "Cn",
    ]
    let short = long[name] ?? name
    var mask: UInt32 = 0
    for (bit, category) in categoryNames.enumerated() where category == short || category.hasPrefix(short) {
        if short.utf8.count <= 2 && !short.isEmpty { mask |= 1 << UInt32(bit) }
    }
    return mask == 0 ? nil : mask
}

/// The category bit of a scalar, quick for the scripts that texts are made of.
func category(of value: UInt32) -> UInt8 {
    if value < 0x3400 { return categoryTable[Int(value)] }
    // Han and Hangul syllables: most of what is not in the table.
    if value >= 0x4E00 && value <= 0x9FFF || value >= 0xAC00 && value <= 0xD7A3 { return 4 }
    return Unicode.Scalar(value).map { bit(of: $0.properties.generalCategory) } ?? 27
}

private let categoryTable: [UInt8] = (0..<UInt32(0x3400)).map { value in
    Unicode.Scalar(value).map { bit(of: $0.properties.generalCategory) } ?? 29
}

private func bit(of category: Unicode.GeneralCategory) -> UInt8 {
    switch category {
    case .uppercaseLetter: 0
    case .lowercaseLetter: 1
    case .titlecaseLetter: 2
    case .modifierLetter: 3
    case .otherLetter: 4
    case .nonspacingMark: 5
    case .spacingMark: 6
    case .enclosingMark: 7
    case .decimalNumber: 8
    case .letterNumber: 9
    case .otherNumber: 10
    case .connectorPunctuation: 11
    case .dashPunctuation: 12
    case .openPunctuation: 13
    case .closePunctuation: 14
    case .initialPunctuation: 15
    case .finalPunctuation: 16
    case .otherPunctuation: 17
    case .mathSymbol: 18
    case .currencySymbol: 19
    case .spaceSeparator: 20
    case .lineSeparator: 21
    case .paragraphSeparator: 22
    case .modifierSymbol: 23
    case .otherSymbol: 24
    case .control: 25
    case .format: 26
    case .surrogate: 27
    case .privateUse: 28
    case .unassigned: 29
    @unknown default: 29
    }
}
