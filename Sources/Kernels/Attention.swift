import CKernels

/// What attention over a model's pages needs to know of their layout.
///
/// A layer's part of a page holds the keys, [kvHead][headDim][pageTokens], and then the values,
/// [kvHead][pageTokens][headDim], without padding. Keys are transposed so that a vector holds positions.
package struct AttentionShape: Sendable, Equatable {
    package let heads: Int
    package let kvHeads: Int
    package let headDim: Int
    package let pageTokens: Int
    package let cacheType: CacheType
    /// What scores are multiplied by before the softmax.
    package let scale: Float

    package init(
        heads: Int, kvHeads: Int, headDim: Int, pageTokens: Int, cacheType: CacheType, scale: Float? = nil
    ) throws(KernelError) {
        guard (1...1024).contains(kvHeads), (1...4096).contains(heads), heads % kvHeads == 0 else {
            throw .badShape("attention: \(heads) heads over \(kvHeads) key/value heads")
        }
        guard (1...Int(CK_HEAD_DIM_MAX)).contains(headDim) else {
            throw .badShape("attention: head dimension \(headDim); 1 to \(CK_HEAD_DIM_MAX) are supported")
        }
        guard cacheType.scaleBlock == nil else {
            throw .unsupported("attention: \(cacheType.name) is for the KV of latent attention; use bf16")
        }
        guard pageTokens > 0, pageTokens % 16 == 0, pageTokens <= 1 << 16 else {
            throw .badShape("attention: pages of \(pageTokens) tokens; a multiple of 16 up to 65536 is supported")
        }
        self.heads = heads
        self.kvHeads = kvHeads
        self.headDim = headDim
        self.pageTokens = pageTokens
        self.cacheType = cacheType
        self.scale = scale ?? 1 / Float(headDim).squareRoot()
    }

    /// Bytes of one head's keys in one page; its values take as many.
    var headBytes: Int { headDim * pageTokens * cacheType.bytes }
    /// Bytes of a layer's keys in one page.
    package var keyPlaneBytes: Int { kvHeads * headBytes }
    /// Bytes of a layer's values in one page.
    package var valuePlaneBytes: Int { kvHeads * headBytes }
    /// Bytes of a layer's part of a page.
    package var layerBytes: Int { keyPlaneBytes + valuePlaneBytes }
}

/// Consecutive positions of one sequence, at one layer.
package struct AttentionRun {
    /// Page i holds positions i · pageTokens …; covers all positions up to the run's last.
    package var pages: UnsafePointer<UnsafeMutableRawPointer>
    /// From a page's base to the layer's part of it: layer · layerBytes.
    package var pageOffset: Int
    package var firstPosition: Int
    package var count: Int

    package init(
        pages: UnsafePointer<UnsafeMutableRawPointer>, pageOffset: Int, firstPosition: Int, count: Int
    ) {
        precondition(pageOffset >= 0 && firstPosition >= 0 && count >= 0)
        self.pages = pages
        self.pageOffset = pageOffset
        self.firstPosition = firstPosition
        self.count = count
    }
}

/// A run with its queries and the place for its results: row 0, head 0; head h is at h · headDim; strides
/// between rows in floats.
package struct AttentionJob {
    package var run: AttentionRun
    package var queries: UnsafePointer<Float>
    package var queryStride: Int
    package var out: UnsafeMutablePointer<Float>
    package var outStride: Int

    package init(
        run: AttentionRun, queries: UnsafePointer<Float>, queryStride: Int, out: UnsafeMutablePointer<Float>,
        outStride: Int
    ) {
        self.run = run
        self.queries = queries
        self.queryStride = queryStride
        self.out = out
        self.outStride = outStride
    }
}

extension KernelTable {
    /// Writes the keys and values of the run's row `row` (kvHeads · headDim floats each) into their page.
    package func storeKeysValues(
        _ shape: AttentionShape, _ run: AttentionRun, row: Int, key: UnsafePointer<Float>, value: UnsafePointer<Float>
    ) {
        precondition(row >= 0 && row < run.count)
        let position = run.firstPosition + row
        let (page, slot) = (run.pages[position / shape.pageTokens] + run.pageOffset, position % shape.pageTokens)
        for head in 0..<shape.kvHeads {
            let keys = page + head * shape.headBytes + slot * shape.cacheType.bytes
            let values =
                page + shape.keyPlaneBytes + head * shape.headBytes + slot * shape.headDim * shape.cacheType.bytes
            table.pointee.store_keys(
                shape.cacheType.code, key + head * shape.headDim, Int64(shape.headDim), Int64(shape.pageTokens), keys)
            table.pointee.from_float(shape.cacheType.code, value + head * shape.headDim, Int64(shape.headDim), values)
        }
    }

    /// Attention of the query heads that share `kvHead`, for some rows of a run, on the calling thread.
    ///
    /// Row i attends to positions 0…firstPosition + i, whose keys and values must have been stored; nothing
    /// else in the pages shows in the result, whatever it is. A row's bits don't depend on the other rows.
    package func attend(_ shape: AttentionShape, _ job: AttentionJob, kvHead: Int, rows: Range<Int>) {
        precondition(kvHead >= 0 && kvHead < shape.kvHeads && rows.lowerBound >= 0 && rows.upperBound <= job.run.count)
        let group = shape.heads / shape.kvHeads
        let keys = job.run.pageOffset + kvHead * shape.headBytes
        // A block table's elements are never null; C has no way to say so.
        let pages = UnsafeRawPointer(job.run.pages).assumingMemoryBound(to: UnsafeMutableRawPointer?.self)
        var call = ck_attention(
            pages: pages, key_offset: Int64(keys), value_offset: Int64(keys + shape.keyPlaneBytes),
            page_tokens: Int64(shape.pageTokens), head_dim: Int64(shape.headDim), type: shape.cacheType.code,
            group: Int32(group), scale: shape.scale, first_position: Int64(job.run.firstPosition),
            row_begin: Int64(rows.lowerBound), row_end: Int64(rows.upperBound),
            queries: job.queries + kvHead * group * shape.headDim, query_stride: Int64(job.queryStride),
            out: job.out + kvHead * group * shape.headDim, out_stride: Int64(job.outStride))
        table.pointee.attend(&call)
    }
}

/// Attention for a whole batch, in one parallel region: jobs × key/value heads × slices of rows.
package func attend(
    _ shape: AttentionShape, jobs: UnsafeBufferPointer<AttentionJob>, table: KernelTable, pool: ComputePool
) {
    let sliceRows = max(1, 32 * shape.kvHeads / shape.heads)
    // The last slices of a prompt take longest: they are handed out first.
    let slices = jobs.map { ($0.run.count + sliceRows - 1) / sliceRows }.max() ?? 0
    let perSlice = jobs.count * shape.kvHeads
    pool.run(slices * perSlice) { task in
        let job = jobs[task % perSlice / shape.kvHeads]
        let end = job.run.count - task / perSlice * sliceRows
        guard end > 0 else { return }
        table.attend(shape, job, kvHead: task % shape.kvHeads, rows: max(0, end - sliceRows)..<end)
    }
}
