import CKernels

/// The lightning indexer of sparse attention (DeepSeek-V3.2, https://arxiv.org/abs/2512.02556): what it needs to know of
/// a model and its pages.
package struct IndexShape: Sendable, Equatable {
    package let heads: Int
    package let dimension: Int
    package let pageTokens: Int
    package let cacheType: CacheType

    package init(heads: Int, dimension: Int, pageTokens: Int, cacheType: CacheType) throws(KernelError) {
        guard heads > 0, dimension > 0, heads <= 4096, dimension <= 4096, heads * dimension <= Int(CK_INDEX_MAX) else {
            throw .badShape("indexer: \(heads) heads of \(dimension); up to \(CK_INDEX_MAX) numbers are supported")
        }
        // The keys of 8-bit floats have one scale.
        guard cacheType.scaleBlock.map({ dimension <= $0 }) ?? true else {
            throw .unsupported("indexer: keys of \(dimension) in \(cacheType.name); up to 128 are supported")
        }
        self.heads = heads
        self.dimension = dimension
        self.pageTokens = pageTokens
        self.cacheType = cacheType
    }
}

extension KernelTable {
    /// Writes one position's key into a page's plane, which begins at `plane`: [dimension][pageTokens], and the scales
    /// of 8-bit floats behind.
    package func storeIndexKey(
        _ shape: IndexShape, _ key: UnsafePointer<Float>, slot: Int, plane: UnsafeMutableRawPointer
    ) {
        let (dimension, tokens) = (shape.dimension, shape.pageTokens)
        guard shape.cacheType == .fp8 else {
            table.pointee.store_keys(
                shape.cacheType.code, key, Int64(dimension), Int64(tokens), plane + slot * shape.cacheType.bytes)
            return
        }
        table.pointee.store_scaled(
            key, Int64(dimension), (plane + slot).assumingMemoryBound(to: UInt8.self), Int64(tokens),
            plane + dimension * tokens + slot * MemoryLayout<Float>.size)
    }

    /// Scores of `positions`, Σ_h weight[h] · max(0, query[h] · key / √dimension), written to `scores[position]`.
    ///
    /// - Parameters:
    ///   - keyOffset: from a page's base to its plane of keys.
    ///   - positions: begin at a multiple of 16.
    ///   - queries: [heads][dimension]; `weights`: [heads].
    ///   - scores: room up to the end of `positions`, rounded up to a multiple of 16.
    package func indexScores(
        _ shape: IndexShape, pages: UnsafePointer<UnsafeMutableRawPointer>, keyOffset: Int, positions: Range<Int>,
        queries: UnsafePointer<Float>, weights: UnsafePointer<Float>, into scores: UnsafeMutablePointer<Float>
    ) {
        precondition(positions.lowerBound >= 0 && positions.lowerBound % 16 == 0)
        let pages = UnsafeRawPointer(pages).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
        var call = ck_index_scores(
            pages: pages, page_tokens: Int64(shape.pageTokens), key_offset: Int64(keyOffset),
            dimension: Int64(shape.dimension), type: shape.cacheType.code, heads: Int32(shape.heads),
            scale: 1 / Float(shape.dimension).squareRoot(), first: Int64(positions.lowerBound),
            count: Int64(positions.count), queries: queries, weights: weights, scores: scores + positions.lowerBound)
        table.pointee.index_scores(&call)
    }

    /// The `wanted` positions with the greatest scores, ascending; the lower position wins a tie. `scores` is indexed by
    /// position. All of them when there are no more. Returns how many.
    package func selectGreatest(
        _ scores: UnsafePointer<Float>, positions: Range<Int>, wanted: Int, into selected: UnsafeMutablePointer<Int32>
    ) -> Int {
        Int(
            table.pointee.select_greatest(
                scores, Int64(positions.lowerBound), Int64(positions.upperBound), Int64(wanted), selected))
    }
}
