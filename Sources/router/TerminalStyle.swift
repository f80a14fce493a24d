import Glibc

/// Colour on a terminal, plain text everywhere else. `NO_COLOR` (no-color.org) and `TERM=dumb` turn it off.
struct TerminalStyle: Sendable {
    enum Paint: String {
        case bold = "1"
        case dim = "2"
        case red = "31"
        case green = "32"
        case yellow = "33"
        case cyan = "36"
    }

    let isColoured: Bool
    /// The output is a terminal: lines may be redrawn.
    let isTerminal: Bool

    /// For an output stream of this process.
    init(descriptor: CInt = STDOUT_FILENO) {
        isTerminal = isatty(descriptor) == 1
        isColoured = isTerminal && Self.environment("NO_COLOR").isEmpty && Self.environment("TERM") != "dumb"
    }

    init(isColoured: Bool, isTerminal: Bool) {
        self.isColoured = isColoured
        self.isTerminal = isTerminal
    }

    func paint(_ text: String, _ paint: Paint) -> String {
        isColoured ? "\u{1b}[\(paint.rawValue)m\(text)\u{1b}[0m" : text
    }

    /// An environment variable; empty when it is not set.
    static func environment(_ name: String) -> String {
        getenv(name).map { String(cString: $0) } ?? ""
    }
}

/// Writes to standard output at once, so that what is piped arrives as it happens.
func emit(_ text: String, terminator: String = "\n") { writeAll(text + terminator, to: STDOUT_FILENO) }

/// Writes a line to standard error.
func report(_ text: String) { writeAll(text + "\n", to: STDERR_FILENO) }

/// Writes all of a text, past buffers that would hold it back; gives up when the other end is gone.
func writeAll(_ text: String, to descriptor: CInt) {
    var rest = Array(text.utf8)[...]
    while !rest.isEmpty {
        let count = rest.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        if count < 0, errno == EINTR { continue }
        guard count > 0 else { return }
        rest = rest.dropFirst(count)
    }
}
