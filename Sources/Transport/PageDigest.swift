import CXXHash
package import Handoff

/// The digest of a page: one XXH3-64 per layer, folded in layer order, so that it does not depend on how the
/// layers were grouped into writes and can be taken layer by layer as they are computed or land.
package struct PageDigest: Sendable, Hashable {
    package private(set) var value: UInt64 = 0

    package init() {}

    /// Adds the next layers of a page, whose bytes start at `bytes`.
    package mutating func add(layers: Range<Int>, at bytes: UnsafeRawPointer, shape: PageShape) {
        let start = shape.layerStarts[layers.lowerBound]
        for layer in layers {
            let from = shape.layerStarts[layer]
            fold(baton_xxh3_64(bytes + (from - start), shape.layerStarts[layer + 1] - from))
        }
    }

    /// A whole page.
    package static func of(page: UnsafeRawPointer, shape: PageShape) -> UInt64 {
        var digest = PageDigest()
        digest.add(layers: 0..<shape.layerCount, at: page, shape: shape)
        return digest.value
    }

    private mutating func fold(_ layer: UInt64) {
        value = (value ^ layer) &* 0x9E37_79B1_85EB_CA87
        value ^= value >> 32
    }
}
