import Glibc
import ModelFormat
import OrderedJSON

/// A folder that goes away with this object.
final class TemporaryFolder {
    let path: String

    init() throws {
        var template = Array("/tmp/model-format-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw TestFailure("mkdtemp: \(errno)") }
        path = String(decoding: template.dropLast().map(UInt8.init(bitPattern:)), as: UTF8.self)
    }

    deinit {
        remove(path)
    }

    private func remove(_ directory: String) {
        guard let stream = opendir(directory) else { return }
        while let entry = readdir(stream) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { pointer in
                pointer.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { unlink(directory + "/" + name) }
        }
        closedir(stream)
        rmdir(directory)
    }

    /// Writes a file and gives its path; `paddedTo` extends it with a hole.
    @discardableResult
    func write(_ name: String, _ bytes: [UInt8], paddedTo length: Int? = nil) throws -> String {
        let file = path + "/" + name
        guard let stream = fopen(file, "wb") else { throw TestFailure("fopen: \(errno)") }
        defer { fclose(stream) }
        guard fwrite(bytes, 1, bytes.count, stream) == bytes.count else { throw TestFailure("fwrite: \(errno)") }
        fflush(stream)
        if let length, ftruncate(fileno(stream), length) != 0 { throw TestFailure("ftruncate: \(errno)") }
        return file
    }

    @discardableResult
    func write(_ name: String, _ text: String) throws -> String {
        try write(name, Array(text.utf8))
    }
}

struct TestFailure: Error {
    let text: String
    init(_ text: String) { self.text = text }
}

enum Fixture {
    static func gguf(_ name: String) -> String {
        sibling("../Fixtures/gguf/" + name)
    }

    /// The tiny Llama that several test targets share.
    static func tinyLlama(_ name: String = "") -> String {
        sibling("../Fixtures/tiny-llama/" + name)
    }

    /// `config.json` of one of the tiny models.
    static func config(_ model: String) throws -> JSONObject {
        let folder = model == "glm5-nano" ? "../../Models" : "../Fixtures"
        return try JSON.parse(bytes(sibling("\(folder)/\(model)/config.json"))).object ?? [:]
    }

    static func publishedConfig(_ model: String) throws -> JSON {
        try JSON.parse(bytes(sibling("../Fixtures/published-configs/\(model).json")))
    }

    static func bytes(_ path: String) throws -> [UInt8] {
        try MappedFile(path: path).withBytes { Array($0) }
    }

    private static func sibling(_ path: String) -> String {
        #filePath.split(separator: "/").dropLast().reduce("") { $0 + "/" + $1 } + "/" + path
    }
}

extension Result where Failure == ModelFormatError {
    var problem: String? {
        if case .failure(let error) = self { error.description } else { nil }
    }
}

/// Parses bytes as a safetensors file's content.
func safetensorsHeader(_ bytes: [UInt8]) throws -> SafetensorsHeader {
    try bytes.withUnsafeBytes { raw in
        Result { () throws(ModelFormatError) in try SafetensorsHeader.parse(raw, subject: "test") }
    }.get()
}

/// Parses bytes as a GGUF file's content.
func ggufHeader(_ bytes: [UInt8]) throws -> GGUFHeader {
    try bytes.withUnsafeBytes { raw in
        Result { () throws(ModelFormatError) in try GGUFHeader.parse(raw, subject: "test") }
    }.get()
}
