import CKernels

/// One of several products that are computed together: a matrix times the rows of a segment.
package struct MatmulJob {
    package var weights: PackedMatrix
    package var input: ActivationBuffer
    /// Of `input`.
    package var segment: Int
    /// The segment's rows × `weights.rows`.
    package var out: FloatRows

    package init(_ weights: PackedMatrix, _ input: ActivationBuffer, segment: Int, into out: FloatRows) {
        self.weights = weights
        self.input = input
        self.segment = segment
        self.out = out
    }
}

/// Computes many products in one parallel region: the experts of a layer, or the heads of an attention. However
/// unevenly rows are spread over matrices, all threads have work until the end: every product is cut into tasks of
/// about equal size, and tasks of all products go to whoever is free. Results are those of `matmul`, bit for bit.
package func matmul(_ jobs: [MatmulJob], pool: ComputePool) {
    var pieces: [MatmulPiece] = []
    var views: [ck_activations] = []
    views.reserveCapacity(jobs.count)
    for job in jobs { views.append(job.input.view(job.segment)) }
    views.withUnsafeBufferPointer { views in
        guard let first = views.baseAddress else { return }
        var tasks = 0
        for (index, job) in jobs.enumerated() where views[index].rows > 0 {
            append(job, first + index, threads: pool.threads, to: &pieces, &tasks)
        }
        pieces.withUnsafeBufferPointer { pieces in
            pool.run(tasks) { task in
                let piece = pieces.last(atOrBefore: task, begin: \.firstTask)
                let own = task - piece.firstTask
                let groups = piece.plan.groups(own % piece.plan.groupChunks)
                let tiles = piece.plan.tiles(own / piece.plan.groupChunks)
                var call = piece.call
                call.group_begin = Int64(groups.lowerBound)
                call.group_end = Int64(groups.upperBound)
                call.tile_begin = Int64(tiles.lowerBound)
                call.tile_end = Int64(tiles.upperBound)
                piece.table.pointee.matmul(&call)
            }
        }
    }
    // Only addresses of them are used above.
    withExtendedLifetime(jobs) {}
}

private func append(
    _ job: MatmulJob, _ view: UnsafePointer<ck_activations>, threads: Int, to pieces: inout [MatmulPiece],
    _ tasks: inout Int
) {
    let (w, segment) = (job.weights, job.input.segments[job.segment])
    precondition(
        job.input.columns == w.columns && job.input.encodings.isSuperset(of: w.encodings),
        "activations don't fit the matrix")
    precondition(job.out.rows == segment.rows && job.out.columns == w.rows, "the result doesn't fit the product")
    for part in w.parts {
        let plan = MatmulPlan(
            groups: part.groups, groupBytes: part.groupBytes, columns: w.columns, tiles: segment.tiles,
            threads: threads)
        let call = ck_matmul(
            weights: w.weights(part), type: part.type.code, adding: false, outputs: Int64(part.rows),
            columns: Int64(w.columns), group_begin: 0, group_end: 0, x: view, tile_begin: 0, tile_end: 0,
            out: job.out.base + part.firstRow, out_stride: Int64(job.out.stride),
            bias: w.bias.map { UnsafePointer($0 + part.firstRow) })
        pieces.append(MatmulPiece(firstTask: tasks, plan: plan, table: w.table.table, call: call))
        tasks += plan.groupChunks * plan.tileChunks
    }
}

/// A part of a product and its tasks, of which there are some.
private struct MatmulPiece {
    var firstTask: Int
    var plan: MatmulPlan
    var table: UnsafePointer<ck_table>
    var call: ck_matmul
}
