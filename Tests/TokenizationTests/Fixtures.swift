import FoundationEssentials
import OrderedJSON
import Testing

@testable import Tokenization

/// Files of Tests/Fixtures.
enum Fixtures {
    static let folder = #filePath.split(separator: "/").dropLast(2).reduce("") { $0 + "/" + $1 } + "/Fixtures"

    static func bytes(_ path: String) throws -> [UInt8] {
        [UInt8](try Data(contentsOf: URL(filePath: "\(folder)/\(path)")))
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
