/// A date and time of day, for `strftime_now`. The caller reads the clock; nothing here does.
package struct CivilTime: Sendable, Equatable {
    package private(set) var year: Int
    package private(set) var month: Int
    package private(set) var day: Int
    package private(set) var hour: Int
    package private(set) var minute: Int
    package private(set) var second: Int
    /// 0 for Sunday.
    package private(set) var weekday: Int

    /// - Parameters:
    ///   - secondsSince1970: Unix time.
    ///   - offsetSeconds: how far local time is ahead of UTC.
    package init(secondsSince1970: Int64, offsetSeconds: Int = 0) {
        // 400 years around the epoch in either direction are more than any clock says.
        let local = max(-1 << 40, min(1 << 40, secondsSince1970)) + Int64(max(-86_400, min(86_400, offsetSeconds)))
        let days = Int(local >= 0 ? local / 86_400 : (local - 86_399) / 86_400)
        let rest = Int(local) - days * 86_400
        (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60)
        weekday = ((days + 4) % 7 + 7) % 7
        // Howard Hinnant, "chrono-compatible low-level date algorithms": civil_from_days.
        let shifted = days + 719_468
        let era = (shifted >= 0 ? shifted : shifted - 146_096) / 146_097
        let dayOfEra = shifted - era * 146_097
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36_524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let shiftedMonth = (5 * dayOfYear + 2) / 153
        day = dayOfYear - (153 * shiftedMonth + 2) / 5 + 1
        month = shiftedMonth < 10 ? shiftedMonth + 3 : shiftedMonth - 9
        year = yearOfEra + era * 400 + (month <= 2 ? 1 : 0)
    }

    private static let months = [
        "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
        "December",
    ]
    private static let weekdays = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]

    /// Days since the first of January, from 1.
    private var dayOfYear: Int {
        let before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month - 1]
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        return before + day + (isLeap && month > 2 ? 1 : 0)
    }

    /// As Python's `strftime` in the C locale; directives it does not know stay as they are.
    package func formatted(_ format: String) -> String {
        var result = ""
        var scalars = format.unicodeScalars[...]
        while let scalar = scalars.popFirst() {
            guard scalar == "%", var directive = scalars.popFirst() else {
                result.unicodeScalars.append(scalar)
                continue
            }
            var pads = true
            if directive == "-", let next = scalars.popFirst() {
                pads = false
                directive = next
            }
            if let text = expanded(directive, pads) {
                result += text
            } else {
                result += pads ? "%\(directive)" : "%-\(directive)"
            }
        }
        return result
    }

    private func expanded(_ directive: Unicode.Scalar, _ pads: Bool) -> String? {
        func number(_ value: Int, _ width: Int) -> String {
            let digits = String(value)
            return pads ? String(repeating: "0", count: max(0, width - digits.utf8.count)) + digits : digits
        }
        let twelve = hour % 12 == 0 ? 12 : hour % 12
        let spaced = day < 10 && pads ? " \(day)" : "\(day)"
        switch directive {
        case "Y": return String(year)
        case "y": return number((year % 100 + 100) % 100, 2)
        case "m": return number(month, 2)
        case "d": return number(day, 2)
        case "e": return spaced
        case "H": return number(hour, 2)
        case "I": return number(twelve, 2)
        case "M": return number(minute, 2)
        case "S": return number(second, 2)
        case "f": return "000000"
        case "p": return hour < 12 ? "AM" : "PM"
        case "j": return number(dayOfYear, 3)
        case "B": return Self.months[month - 1]
        case "b", "h": return String(Self.months[month - 1].prefix(3))
        case "A": return Self.weekdays[weekday]
        case "a": return String(Self.weekdays[weekday].prefix(3))
        case "w": return String(weekday)
        case "u": return String(weekday == 0 ? 7 : weekday)
        case "F": return formatted("%Y-%m-%d")
        case "T", "X": return formatted("%H:%M:%S")
        case "R": return formatted("%H:%M")
        case "D", "x": return formatted("%m/%d/%y")
        case "c": return formatted("%a %b %e %H:%M:%S %Y")
        case "z", "Z":
            // Python's naive local times, which templates use, have neither.
            return ""
        case "n": return "\n"
        case "t": return "\t"
        case "%": return "%"
        default: return nil
        }
    }
}
