import Glibc

/// The small model that comes with Baton, for clusters that are started without one.
enum BundledModel {
    /// Tokens drafted ahead for each sequence: its MTP layer is right about them most of the time.
    static let speculate = 3

    /// Looked for beside the executables: in `share/baton` of an installation, or in the repository they were built in.
    static func path() throws(CommandError) -> String {
        var folder = Substring(Executable.folder)
        var tried = [folder + "/../share/baton/glm5-nano"]
        // .build/release is a link to .build/TRIPLE/release.
        for _ in 0..<4 {
            tried.append(folder + "/Models/glm5-nano")
            guard let slash = folder.lastIndex(of: "/") else { break }
            folder = folder[..<slash]
        }
        if let found = tried.first(where: { access($0 + "/config.json", R_OK) == 0 }) { return String(found) }
        throw CommandError("--model is missing, and the bundled model is in none of \(tried.joined(separator: ", "))")
    }
}

/// Where this program and those beside it lie.
enum Executable {
    static var folder: String {
        var buffer = [CChar](repeating: 0, count: 4096)
        let count = readlink("/proc/self/exe", &buffer, buffer.count)
        let path = String(decoding: buffer.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
        return path.split(separator: "/", omittingEmptySubsequences: false).dropLast().joined(separator: "/")
    }
}
