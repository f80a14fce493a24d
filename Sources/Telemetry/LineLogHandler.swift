import Glibc
package import Logging

/// How log lines look.
package enum LogFormat: String, Sendable, CaseIterable {
    /// One JSON object per line: time, level, process, message, then the metadata.
    case json
    /// For people: time, level, process, message, key=value.
    case text
}

/// Makes one line of each log entry and puts it into the process's log queue. Control characters in values are escaped.
package struct LineLogHandler: LogHandler {
    package var metadata: Logger.Metadata = [:]
    package var metadataProvider: Logger.MetadataProvider?
    package var logLevel: Logger.Level
    private let label: String
    private let format: LogFormat
    private let queue: LogQueue

    package init(
        label: String, format: LogFormat = .text, level: Logger.Level = .info, queue: LogQueue = .standardError
    ) {
        self.label = label
        self.format = format
        self.queue = queue
        logLevel = level
    }

    package subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    package func log(event: LogEvent) {
        var fields = metadata
        if let provided = metadataProvider?.get() { fields.merge(provided) { $1 } }
        if let own = event.metadata { fields.merge(own) { $1 } }
        let text = line(level: event.level, message: "\(event.message)", fields: fields, time: Self.timestamp())
        queue.append(text) { dropped in
            line(
                level: .warning, message: "log lines were dropped: nobody read them fast enough",
                fields: ["dropped": "\(dropped)"], time: Self.timestamp())
        }
    }

    func line(level: Logger.Level, message: String, fields: Logger.Metadata, time: String) -> String {
        let sorted = fields.sorted { $0.key < $1.key }
        switch format {
        case .json:
            var line = "{\"time\":\"\(time)\",\"level\":\"\(level.rawValue)\",\"process\":\(JSONText.quoted(label)),"
            line += "\"message\":\(JSONText.quoted(message))"
            for (key, value) in sorted { line += ",\(JSONText.quoted(key)):\(JSONText.value(value))" }
            return line + "}\n"
        case .text:
            var line = "\(time) \(level.rawValue.uppercased()) \(label): \(JSONText.escaped(message, quotes: false))"
            for (key, value) in sorted { line += " \(key)=\(JSONText.plain(value))" }
            return line + "\n"
        }
    }

    /// UTC with milliseconds, RFC 3339.
    static func timestamp() -> String {
        var now = timespec()
        clock_gettime(CLOCK_REALTIME, &now)
        var parts = tm()
        gmtime_r(&now.tv_sec, &parts)
        func digits(_ value: some BinaryInteger, _ count: Int) -> String {
            let text = String(value)
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        return "\(digits(parts.tm_year + 1900, 4))-\(digits(parts.tm_mon + 1, 2))-\(digits(parts.tm_mday, 2))"
            + "T\(digits(parts.tm_hour, 2)):\(digits(parts.tm_min, 2)):\(digits(parts.tm_sec, 2))"
            + ".\(digits(now.tv_nsec / 1_000_000, 3))Z"
    }
}

/// The little JSON that a log line needs.
enum JSONText {
    static func quoted(_ text: String) -> String { "\"\(escaped(text, quotes: true))\"" }

    static func value(_ value: Logger.Metadata.Value) -> String {
        switch value {
        case .string(let text): quoted(text)
        case .stringConvertible(let item): quoted("\(item)")
        case .array(let items): "[" + items.map(Self.value).joined(separator: ",") + "]"
        case .dictionary(let items):
            "{"
                + items.sorted { $0.key < $1.key }.map { "\(quoted($0.key)):\(Self.value($0.value))" }
                .joined(separator: ",") + "}"
        }
    }

    /// Bare when it is one word, else quoted.
    static func plain(_ value: Logger.Metadata.Value) -> String {
        guard case .string(let text) = value else { return Self.value(value) }
        let isWord = !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7F && $0 != UInt8(ascii: "\"") }
        return isWord ? text : quoted(text)
    }

    static func escaped(_ text: String, quotes: Bool) -> String {
        var escaped = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"" where quotes: escaped += "\\\""
            case "\\" where quotes: escaped += "\\\\"
            case "\n": escaped += "\\n"
            case "\r": escaped += "\\r"
            case "\t": escaped += "\\t"
            case _ where scalar.value < 0x20 || (0x7F...0x9F).contains(scalar.value):
                let digits = String(scalar.value, radix: 16)
                escaped += "\\u" + String(repeating: "0", count: 4 - digits.count) + digits
            default: escaped.unicodeScalars.append(scalar)
            }
        }
        return escaped
    }
}
