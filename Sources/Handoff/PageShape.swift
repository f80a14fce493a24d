/// Where the layers of a page lie. A page is the KV of `pageTokens` tokens for all layers, one layer's part after
/// the other, so a layer can be written as soon as it is computed and a page is still one contiguous write.
package struct PageShape: Hashable, Sendable {
    /// Byte offset of each layer's part, and `pageBytes` as the last element.
    package let layerStarts: [Int]

    /// Parts of different sizes, for models whose layers keep different caches.
    package init(layerBytes: [Int]) {
        precondition(!layerBytes.isEmpty, "a page has at least one layer")
        var starts = [0]
        for bytes in layerBytes {
            precondition(bytes > 0, "layer part of \(bytes) bytes")
            starts.append(starts[starts.count - 1] + bytes)
        }
        precondition(starts[starts.count - 1] <= PageShape.pageBytesMax, "page above \(PageShape.pageBytesMax) bytes")
        layerStarts = starts
    }

    package init(layers: Int, layerBytes: Int) {
        self.init(layerBytes: Array(repeating: layerBytes, count: layers))
    }

    /// Offsets travel as 32 bits.
    package static let pageBytesMax = 1 << 31

    package var layerCount: Int { layerStarts.count - 1 }
    package var pageBytes: Int { layerStarts[layerCount] }

    /// The bytes of some layers within a page.
    package func bytes(of layers: Range<Int>) -> Range<Int> {
        layerStarts[layers.lowerBound]..<layerStarts[layers.upperBound]
    }

    /// The layer whose part begins at this offset (`layerCount` for the page's end); nil inside a part.
    /// O(log layers).
    package func layer(startingAt offset: Int) -> Int? {
        var low = 0
        var high = layerCount
        while low < high {
            let middle = (low + high) / 2
            if layerStarts[middle] < offset { low = middle + 1 } else { high = middle }
        }
        return layerStarts[low] == offset ? low : nil
    }
}
