import Glibc

/// Whole files of a bounded size, for the command line.
package enum TextFile {
    /// Greater files are refused.
    package static let limitBytes = 1 << 30

    package static func exists(_ path: String) -> Bool { access(path, R_OK) == 0 }

    /// The file's bytes. Throws `invalid` naming the file.
    package static func read(_ path: String) throws(EngineError) -> [UInt8] {
        guard let file = fopen(path, "rb") else {
            throw .invalid(field: path, reason: String(cString: strerror(errno)))
        }
        defer { fclose(file) }
        var bytes: [UInt8] = []
        var buffer = [UInt8](repeating: 0, count: 1 << 16)
        while true {
            let count = fread(&buffer, 1, buffer.count, file)
            guard count > 0 else { break }
            bytes += buffer[0..<count]
            guard bytes.count <= limitBytes else {
                throw .invalid(field: path, reason: "is larger than \(SystemMemory.text(limitBytes))")
            }
        }
        guard ferror(file) == 0 else { throw .invalid(field: path, reason: "cannot be read") }
        return bytes
    }
}
