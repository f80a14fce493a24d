/// The markers of GLM's answers (GLM-4.5 to GLM-5), as their published chat templates write them.
enum GLMMarker: String, CaseIterable, Sendable {
    case thinkBegin = "<think>"
    case thinkEnd = "</think>"
    case callBegin = "<tool_call>"
    case callEnd = "</tool_call>"
    case keyBegin = "<arg_key>"
    case keyEnd = "</arg_key>"
    case valueBegin = "<arg_value>"
    case valueEnd = "</arg_value>"

    /// How text relates to a marker.
    enum Match {
        /// It begins with the marker.
        case whole
        /// It ends within the marker.
        case beginning
        case none
    }

    var count: Int { rawValue.utf8.count }

    /// How `text` from `start` on relates to this marker.
    func match(_ text: [UInt8], at start: Int) -> Match {
        var place = start
        for byte in rawValue.utf8 {
            guard place < text.count else { return .beginning }
            guard text[place] == byte else { return .none }
            place += 1
        }
        return .whole
    }
}
