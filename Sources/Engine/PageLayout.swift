package import Kernels

/// How the KV of `pageTokens` consecutive tokens lies in one page: layer after layer, each layer's planes one
/// after the other, so that a layer can be written as soon as it is computed and a page is one contiguous unit.
/// Two nodes may exchange pages only when their layouts are equal.
package struct PageLayout: Sendable, Equatable {
    /// One tensor kept per token and layer: `heads` × `width` elements per token.
    package struct Plane: Sendable, Equatable {
        package enum Storage: Sendable {
            /// In the cache's type, with scales where that has some.
            case kv
            /// Without scales: bf16 where the cache's type has some.
            case unscaled
            /// Not per token but once per page, in float32.
            case page
        }

        package var name: String
        package var heads: Int
        package var width: Int
        package var storage: Storage

        package init(name: String, heads: Int, width: Int, storage: Storage = .kv) {
            self.name = name
            self.heads = heads
            self.width = width
            self.storage = storage
        }

        func bytes(_ type: CacheType, tokens: Int) -> Int {
            switch storage {
            case .kv: heads * type.rowBytes(width) * tokens
            case .unscaled: heads * (type == .fp8 ? CacheType.bf16 : type).rowBytes(width) * tokens
            case .page: heads * width * MemoryLayout<Float>.size
            }
        }

        var text: String { "\(name)\(heads)x\(width)\(storage == .page ? "/page" : "")" }
    }

    package let architecture: String
    package let kvType: CacheType
    package let pageTokens: Int
    /// The planes of each layer.
    package let layers: [[Plane]]
    /// Byte offset of each layer in a page; one more entry at the end, which is the page's size.
    package let layerOffsets: [Int]
    /// Byte offset of each plane in its layer, by layer.
    package let planeOffsets: [[Int]]

    /// Every plane starts on a cache line.
    private static let alignment = 64

    /// Whether a page may hold that many tokens.
    package static func isValid(pageTokens: Int) -> Bool { (16...1024).contains(pageTokens) && pageTokens % 16 == 0 }

    /// Throws `invalid` when `pageTokens` is no multiple of 16 in 16...1024.
    package init(
        architecture: String, kvType: CacheType, pageTokens: Int, layers: [[Plane]]
    ) throws(EngineError) {
        guard Self.isValid(pageTokens: pageTokens) else {
            throw .invalid(field: "page tokens", reason: "\(pageTokens) is no multiple of 16 in 16...1024")
        }
        self.architecture = architecture
        self.kvType = kvType
        self.pageTokens = pageTokens
        self.layers = layers
        var layerOffsets = [0]
        var planeOffsets: [[Int]] = []
        for planes in layers {
            var offset = 0
            var offsets: [Int] = []
            for plane in planes {
                offsets.append(offset)
                let bytes = plane.bytes(kvType, tokens: pageTokens)
                offset += (bytes + Self.alignment - 1) / Self.alignment * Self.alignment
            }
            planeOffsets.append(offsets)
            layerOffsets.append(layerOffsets[layerOffsets.count - 1] + offset)
        }
        self.layerOffsets = layerOffsets
        self.planeOffsets = planeOffsets
    }

    package var layerCount: Int { layers.count }
    package var pageBytes: Int { layerOffsets[layers.count] }

    /// Bytes of one token's elements and their scales. What a page keeps once, and what it leaves free so that planes
    /// begin on cache lines, is not counted.
    package var tokenBytes: Int {
        layers.joined().reduce(0) { $0 + ($1.storage == .page ? 0 : $1.bytes(kvType, tokens: 1)) }
    }

    /// From a page's base to a plane.
    package func planeOffset(_ layer: Int, _ plane: Int) -> Int { layerOffsets[layer] + planeOffsets[layer][plane] }

    /// The bytes of a layer inside a page.
    package func layerRange(_ layer: Int) -> Range<Int> { layerOffsets[layer]..<layerOffsets[layer + 1] }

    /// The bytes of consecutive layers inside a page: one contiguous range.
    package func layerRange(_ layers: Range<Int>) -> Range<Int> {
        layerOffsets[layers.lowerBound]..<layerOffsets[layers.upperBound]
    }

    /// Pages that hold `tokens` tokens.
    package func pages(for tokens: Int) -> Int { (tokens + pageTokens - 1) / pageTokens }

    /// The canonical text that nodes compare, like `llama/30x(k3x64,v3x64)/32`; equal layers in a row are counted.
    package var text: String {
        var groups: [(count: Int, text: String)] = []
        for planes in layers {
            let text = planes.map(\.text).joined(separator: ",")
            if let last = groups.last, last.text == text {
                groups[groups.count - 1].count += 1
            } else {
                groups.append((1, text))
            }
        }
        let body = groups.map { "\($0.count)x(\($0.text))" }.joined(separator: "+")
        return "\(architecture)/\(body)/\(pageTokens)"
    }
}
