extension Double {
    /// The number as Python's `repr` writes it: the fewest digits that read back as the same double, a
    /// fraction always shown (`1.0`), an exponent from 1e16 up and below 1e-4 (`1e+16`, `1e-05`).
    package var pythonDescription: String {
        guard isFinite else { return isNaN ? "nan" : self < 0 ? "-inf" : "inf" }
        guard self != 0 else { return sign == .minus ? "-0.0" : "0.0" }
        let (digits, exponent) = shortestDigits
        let sign = self < 0 ? "-" : ""
        if exponent < -4 || exponent >= 16 {
            let fraction = digits.count > 1 ? "." + digits.dropFirst() : ""
            let size = String(abs(exponent))
            let padded = size.utf8.count < 2 ? "0" + size : size
            return sign + digits.prefix(1) + fraction + (exponent < 0 ? "e-" : "e+") + padded
        }
        if exponent < 0 {
            return sign + "0." + String(repeating: "0", count: -exponent - 1) + digits
        }
        let whole = exponent + 1
        if digits.utf8.count <= whole {
            return sign + digits + String(repeating: "0", count: whole - digits.utf8.count) + ".0"
        }
        return sign + digits.prefix(whole) + "." + digits.dropFirst(whole)
    }

    /// Significant digits without zeros at either end, and the decimal exponent of the first one.
    /// Swift's `description` finds them; only the layout is ours.
    private var shortestDigits: (digits: String, exponent: Int) {
        let parts = magnitude.description.split(separator: "e")
        let mantissa = parts[0].split(separator: ".", omittingEmptySubsequences: false)
        let whole = mantissa[0]
        var digits = String(whole) + (mantissa.count > 1 ? String(mantissa[1]) : "")
        var exponent = whole.utf8.count - 1 + (parts.count > 1 ? Int(parts[1]) ?? 0 : 0)
        let leadingZeros = digits.prefix { $0 == "0" }.count
        digits.removeFirst(leadingZeros)
        exponent -= leadingZeros
        while digits.utf8.last == UInt8(ascii: "0") { digits.removeLast() }
        return (digits, exponent)
    }
}
