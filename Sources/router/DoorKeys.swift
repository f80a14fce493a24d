import Subprocess

/// Who is let in. Keys come from flags, and from the environment, which unlike a process's arguments is not
/// shown to the other users of the host.
struct DoorKeys: Sendable {
    /// Keys for `/v1`, one per line.
    static let apiVariable = "BATON_API_KEYS"
    /// The key for `/admin`.
    static let adminVariable = "BATON_ADMIN_KEY"

    /// Any of these opens `/v1`; none: no key is asked for.
    let api: [String]
    /// Opens `/admin` from anywhere.
    let admin: String?

    /// - Parameters:
    ///   - api: from the flags; those of the environment come after them.
    ///   - admin: from the flags; nil takes the one of the environment.
    init(api: [String], admin: String?) {
        let lines = TerminalStyle.environment(Self.apiVariable).split(whereSeparator: \.isNewline)
        let variable = TerminalStyle.environment(Self.adminVariable)
        self.api = api + lines.map(String.init)
        self.admin = admin ?? (variable.isEmpty ? nil : variable)
    }

    /// What is wrong with keys given as flags; nil if nothing.
    static func problem(api: [String], admin: String?) -> String? {
        // An empty key is most likely a variable that was not set.
        let wrong = { (key: String) in key.isEmpty || key.contains(where: \.isNewline) }
        if api.contains(where: wrong) { return "--api-key must be one line that is not empty." }
        if admin.map(wrong) ?? false { return "--admin-key must be one line that is not empty." }
        return nil
    }

    /// Hands the keys to a child process.
    var environment: [Environment.Key: String?] {
        [
            Environment.Key(stringLiteral: Self.apiVariable): api.isEmpty ? nil : api.joined(separator: "\n"),
            Environment.Key(stringLiteral: Self.adminVariable): admin,
        ]
    }

    /// For a child process that needs no key.
    static var noEnvironment: [Environment.Key: String?] {
        [Environment.Key(stringLiteral: apiVariable): nil, Environment.Key(stringLiteral: adminVariable): nil]
    }
}
