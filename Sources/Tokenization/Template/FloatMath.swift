#if canImport(Glibc)
import Glibc
#elseif canImport(Musl)
import Musl
#else
import Darwin
#endif

/// The few functions on doubles that the standard library lacks.
enum FloatMath {
    static func power(_ base: Double, _ exponent: Double) -> Double { pow(base, exponent) }

    /// The decimal form with `digits` places, correctly rounded.
    static func fixed(_ value: Double, digits: Int) -> String { formatted("%.*f", value, digits) }

    /// The form with an exponent.
    static func scientific(_ value: Double, digits: Int) -> String { formatted("%.*e", value, digits) }

    /// The shorter of the two, of `digits` significant ones.
    static func general(_ value: Double, digits: Int) -> String { formatted("%.*g", value, digits) }

    private static func formatted(_ format: String, _ value: Double, _ digits: Int) -> String {
        let digits = Int32(max(0, min(digits, 300)))
        // A double has at most 309 digits before the point.
        var buffer = [CChar](repeating: 0, count: 700)
        let count = withVaList([digits, value]) { vsnprintf(&buffer, buffer.count, format, $0) }
        return String(decoding: buffer.prefix(max(0, Int(count))).map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }
}
