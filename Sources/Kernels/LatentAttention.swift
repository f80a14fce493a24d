import CKernels

/// What attention over latents needs to know of a model and its pages (multi-head latent attention in its absorbed
/// form; DeepSeek-V2, https://arxiv.org/abs/2405.04434).
package struct LatentShape: Sendable, Equatable {
    package let heads: Int
    /// Numbers of a latent, and of the rotated key that all heads share.
    package let latent: Int
    package let rope: Int
    package let pageTokens: Int
    package let cacheType: CacheType
    /// What scores are multiplied by before the softmax.
    package let scale: Float

    package init(
        heads: Int, latent: Int, rope: Int, pageTokens: Int, cacheType: CacheType, scale: Float
    ) throws(KernelError) {
        guard (1...4096).contains(heads) else { throw .badShape("latent attention: \(heads) heads") }
        guard (1...Int(CK_LATENT_MAX)).contains(latent), (1...Int(CK_LATENT_ROPE_MAX)).contains(rope) else {
            throw .badShape(
                "latent attention: latents of \(latent), rotated keys of \(rope); up to \(CK_LATENT_MAX) and "
                    + "\(CK_LATENT_ROPE_MAX) are supported")
        }
        guard pageTokens > 0, pageTokens % 16 == 0, pageTokens <= 1 << 16 else {
            throw .badShape("latent attention: pages of \(pageTokens) tokens")
        }
        self.heads = heads
        self.latent = latent
        self.rope = rope
        self.pageTokens = pageTokens
        self.cacheType = cacheType
        self.scale = scale
    }

    /// Rotated keys have no scales.
    package var ropeType: CacheType { cacheType == .fp8 ? .bf16 : cacheType }
    /// Of one head's query.
    package var width: Int { latent + rope }
}

/// The positions a query attends to: some of them, or a range.
package struct Selection {
    /// Ascending; nil: `first`, first + 1, ….
    package var positions: UnsafePointer<Int32>?
    package var first: Int
    package var count: Int

    package init(positions: UnsafePointer<Int32>?, first: Int, count: Int) {
        precondition(count > 0 && first >= 0)
        self.positions = positions
        self.first = first
        self.count = count
    }
}

/// One query row: where its sequence's pages are, and where queries come from and results go to.
package struct LatentAttentionJob {
    package var pages: UnsafePointer<UnsafeMutableRawPointer>
    /// From a page's base to the planes [pageTokens][latent] and [pageTokens][rope].
    package var latentOffset: Int
    package var ropeOffset: Int
    package var selection: Selection
    /// [heads][latent + rope]
    package var queries: UnsafePointer<Float>
    /// [heads][latent]
    package var out: UnsafeMutablePointer<Float>

    package init(
        pages: UnsafePointer<UnsafeMutableRawPointer>, latentOffset: Int, ropeOffset: Int, selection: Selection,
        queries: UnsafePointer<Float>, out: UnsafeMutablePointer<Float>
    ) {
        self.pages = pages
        self.latentOffset = latentOffset
        self.ropeOffset = ropeOffset
        self.selection = selection
        self.queries = queries
        self.out = out
    }
}

extension KernelTable {
    /// Writes `count` numbers side by side as `type` has them, with their scales behind.
    package func storeRow(
        _ x: UnsafePointer<Float>, count: Int, as type: CacheType, into out: UnsafeMutableRawPointer
    ) {
        guard type == .fp8 else { return table.pointee.from_float(type.code, x, Int64(count), out) }
        table.pointee.store_scaled(x, Int64(count), out.assumingMemoryBound(to: UInt8.self), 1, out + count)
    }

    /// Attention of some heads of one row, on the calling thread. `heads` are up to 16 consecutive ones.
    package func attend(_ shape: LatentShape, _ job: LatentAttentionJob, heads: Range<Int>) {
        precondition(heads.count <= Int(CK_LATENT_HEADS) && heads.lowerBound >= 0 && heads.upperBound <= shape.heads)
        // A block table's elements are never null; C has no way to say so.
        let pages = UnsafeRawPointer(job.pages).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
        var call = ck_latent_attention(
            pages: pages, page_tokens: Int64(shape.pageTokens), latent_offset: Int64(job.latentOffset),
            rope_offset: Int64(job.ropeOffset), latent: Int64(shape.latent), rope: Int64(shape.rope),
            type: shape.cacheType.code, heads: Int32(heads.count), selection: job.selection.positions,
            first: Int64(job.selection.first), count: Int64(job.selection.count), scale: shape.scale,
            queries: job.queries + heads.lowerBound * shape.width, query_stride: Int64(shape.width),
            out: job.out + heads.lowerBound * shape.latent, out_stride: Int64(shape.latent))
        table.pointee.attend_latent(&call)
    }
}

/// Latent attention of many rows, in one parallel region: rows × groups of 16 heads.
package func attend(
    _ shape: LatentShape, jobs: UnsafeBufferPointer<LatentAttentionJob>, table: KernelTable, pool: ComputePool
) {
    let lanes = Int(CK_LATENT_HEADS)
    let groups = (shape.heads + lanes - 1) / lanes
    pool.run(jobs.count * groups) { task in
        let first = task % groups * lanes
        // The last rows of a prompt take longest: they are handed out first.
        table.attend(
            shape, jobs[jobs.count - 1 - task / groups], heads: first..<min(first + lanes, shape.heads))
    }
}
