import FoundationEssentials
import OrderedJSON
import Testing

@testable import Tokenization

/// Files of Tests/Fixtures, and of Models.
enum Fixtures {
    private static let root = #filePath.split(separator: "/").dropLast(3).reduce("") { $0 + "/" + $1 }

    static func bytes(_ path: String) throws -> [UInt8] {
        let fixture = URL(filePath: "\(root)/Tests/Fixtures/\(path)")
        if let data = try? Data(contentsOf: fixture) { return [UInt8](data) }
        return [UInt8](try Data(contentsOf: URL(filePath: "\(root)/Models/\(path)")))
    }

    static func json(_ path: String) throws -> JSON {
        try JSON.parse(bytes(path))
    }

    static func text(_ path: String) throws -> String {
        String(decoding: try bytes(path), as: UTF8.self)
    }

    static func tokenizerPath(_ name: String) -> String {
        ["smollm2", "glm5-nano"].contains(name) ? "\(name)/tokenizer.json" : "tokenizers/\(name).json"
    }
}

extension JSON {
    var ids: [Int32] { array?.compactMap { $0.int.map(Int32.init) } ?? [] }
}

/// Strings compared scalar by scalar; `==` would accept canonically equal ones.
func same(_ left: String, _ right: String) -> Bool {
    left.utf8.elementsEqual(right.utf8)
}
