import CXXHash
package import Handoff

/// What a node does with the digests of pages (docs/handoff.md, "Digests").
package enum DigestMode: String, Sendable, CaseIterable {
    /// None is made or compared. Both ends of a lane must say so.
    case off
    /// Made where a page is sent and where it lands, compared at the seal.
    case sealed
    /// Like `sealed`, but the decode node reads the pages in its memory at the seal, not the bytes as they landed,
    /// and looks at them again for as long as they are in use.
    case scrub

    package var makesDigests: Bool { self != .off }
}

/// The digests of one page: an XXH3-64 per layer, in layer order, so that they do not depend on how the layers were
/// grouped into writes, can be taken layer by layer as they are computed or land, and name the layer that differs.
package struct PageDigest: Sendable, Hashable {
    package private(set) var layers: [UInt64] = []
    /// The layer of the first of them: those of a part of a grant need not begin with the first.
    package let firstLayer: Int

    package init(firstLayer: Int = 0) { self.firstLayer = firstLayer }

    package init(layers: [UInt64], firstLayer: Int = 0) {
        self.layers = layers
        self.firstLayer = firstLayer
    }

    var nextLayer: Int { firstLayer + layers.count }

    /// Adds the next layers of a page, whose bytes start at `bytes`.
    package mutating func add(layers added: Range<Int>, at bytes: UnsafeRawPointer, shape: PageShape) {
        precondition(added.lowerBound == nextLayer, "layers \(added) after \(nextLayer)")
        if layers.isEmpty { layers.reserveCapacity(shape.layerCount) }
        let start = shape.layerStarts[added.lowerBound]
        for layer in added {
            layers.append(PageDigest.of(layer: layer, at: bytes + (shape.layerStarts[layer] - start), shape: shape))
        }
    }

    /// One layer, whose bytes start at `bytes`.
    package static func of(layer: Int, at bytes: UnsafeRawPointer, shape: PageShape) -> UInt64 {
        baton_xxh3_64(bytes, shape.layerStarts[layer + 1] - shape.layerStarts[layer])
    }

    /// Some layers of a page, all of them unless they are named.
    package static func of(
        page: UnsafeRawPointer, layers: Range<Int>? = nil, shape: PageShape
    ) -> PageDigest {
        let layers = layers ?? 0..<shape.layerCount
        var digest = PageDigest(firstLayer: layers.lowerBound)
        digest.add(layers: layers, at: page + shape.layerStarts[layers.lowerBound], shape: shape)
        return digest
    }

    /// All layers in one number; 0 where no digests are kept.
    package var value: UInt64 {
        layers.reduce(0) { value, layer in
            let mixed = (value ^ layer) &* 0x9E37_79B1_85EB_CA87
            return mixed ^ (mixed >> 32)
        }
    }
}

/// A layer of a page whose bytes are not those that its digest was made of.
package struct DigestMismatch: Sendable, Hashable {
    /// Position in the handoff's block table.
    package let page: Int
    package let layer: Int
    package let expected: UInt64
    package let found: UInt64

    package init(page: Int, layer: Int, expected: UInt64, found: UInt64) {
        self.page = page
        self.layer = layer
        self.expected = expected
        self.found = found
    }
}

/// What a comparison at the seal came to.
package enum DigestVerdict: Sendable, Equatable {
    /// Both ends of the lane keep no digests: nothing was compared.
    case unchecked
    /// All equal; they are the pages' digests, in block-table order.
    case matching([PageDigest])
    case mismatch([DigestMismatch])

    package var allowsSeal: Bool {
        switch self {
        case .unchecked, .matching: true
        case .mismatch: false
        }
    }

    /// `firstPage`: the position in the block table of the first of them.
    init(expected: [PageDigest], found: [PageDigest], firstPage: Int) {
        var differences: [DigestMismatch] = []
        for (page, pair) in zip(expected, found).enumerated() {
            for (layer, digests) in zip(pair.0.layers, pair.1.layers).enumerated() where digests.0 != digests.1 {
                differences.append(
                    DigestMismatch(
                        page: firstPage + page, layer: pair.0.firstLayer + layer, expected: digests.0,
                        found: digests.1))
            }
        }
        self = differences.isEmpty ? .matching(found) : .mismatch(differences)
    }
}
