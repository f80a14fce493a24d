import Kernels
import ModelFormat

/// A mixture of experts, some of which a router chooses for each row, beside one that all rows go to (DeepSeekMoE,
/// arXiv:2401.06066; routing without auxiliary loss, arXiv:2408.15664).
struct ExpertMixture: Sendable {
    let norm: NormWeights
    /// [experts][hidden]
    let router: PackedMatrix
    /// Added to scores for the choice alone; nil without.
    let routerBias: NormWeights?
    /// Each expert's gate and up projections, one below the other.
    let gateUp: [PackedMatrix]
    let down: [PackedMatrix]
    let shared: (gateUp: PackedMatrix, down: PackedMatrix)?

    /// Scratch memory of all layers.
    final class Memory {
        let config: MixtureConfig
        fileprivate let hiddenSize: Int
        fileprivate let routing: ExpertRouting
        /// [rows][experts]: logits, then scores; and scores for the choice.
        fileprivate let scores, choice: UnsafeMutablePointer<Float>
        /// [assignments][gate | up] and [assignments][hidden], by expert.
        fileprivate let inner, products: UnsafeMutablePointer<Float>
        /// [rows][gate | up] and [rows][hidden]
        fileprivate let sharedInner, sharedProducts: UnsafeMutablePointer<Float>
        /// Rows by expert, and what experts make of them.
        fileprivate let gathered: ActivationBuffer
        private let scratch: Scratch

        init(
            _ config: MixtureConfig, rows: Int, hiddenSize: Int, table: KernelTable, pool: ComputePool
        ) throws(EngineError) {
            self.config = config
            self.hiddenSize = hiddenSize
            let assignments = rows * config.expertsPerToken
            routing = ExpertRouting(config, rows: rows)
            scratch = try Scratch(floats: [
                rows * config.expertCount, rows * config.expertCount, assignments * 2 * config.expertSize,
                assignments * hiddenSize, rows * 2 * config.sharedSize, rows * hiddenSize,
            ])
            (scores, choice, inner, products) = (scratch[0], scratch[1], scratch[2], scratch[3])
            (sharedInner, sharedProducts) = (scratch[4], scratch[5])
            gathered = try EngineError.wrap("scratch memory") { () throws(KernelError) in
                try ActivationBuffer(
                    maxRows: max(assignments, 1), maxColumns: max(hiddenSize, config.expertSize),
                    maxSegments: config.expertCount, table: table, pool: pool)
            }
        }
    }

    /// Adds what the experts make of the normed residual stream to that.
    ///
    /// - Parameter load: counts the rows each expert gets.
    func run(
        _ count: Int, epsilon: Float, _ rows: RowScratch, _ memory: Memory, load: inout [UInt64],
        decided: ((Decision) -> Void)?, table: KernelTable, pool: ComputePool
    ) {
        rows.norm(count, norm, epsilon: epsilon, table, pool)
        rows.activations.encode(rows.normed(count), as: router.encodings, pool: pool)
        let logits = FloatRows(memory.scores, rows: count, columns: memory.config.expertCount)
        matmul(router, rows.activations, into: logits, pool: pool)
        decided?(.routerLogits(logits))
        route(count, logits, memory, table, pool)
        decided?(memory.routing.decision(count))
        for (expert, rows) in memory.routing.counts.enumerated() { load[expert] += UInt64(rows) }
        rows.times?.lap(.routing)

        compute(count, rows, memory, table, pool)
        combine(count, rows, memory, table, pool)
        rows.times?.lap(.experts)
    }

    private func route(
        _ count: Int, _ logits: FloatRows, _ memory: Memory, _ table: KernelTable, _ pool: ComputePool
    ) {
        let (routing, choice, experts) = (memory.routing, memory.choice, memory.config.expertCount)
        let bias = routerBias?.base
        pool.eachRow(count) { row in
            switch memory.config.scoring {
            case .sigmoid: table.sigmoid(logits[row], count: experts, into: logits[row])
            case .softmax: table.softmax(logits[row], count: experts, into: logits[row])
            }
            let own = choice + row * experts
            own.update(from: logits[row], count: experts)
            if let bias { table.add(bias, to: own, count: experts) }
            routing.choose(row, scores: logits[row], choice: own)
        }
        routing.group(count)
    }

    /// All experts' products, in two parallel regions.
    private func compute(
        _ count: Int, _ rows: RowScratch, _ memory: Memory, _ table: KernelTable, _ pool: ComputePool
    ) {
        let (routing, config, width) = (memory.routing, memory.config, memory.hiddenSize)
        let (normed, perToken) = (rows.normed(count), config.expertsPerToken)
        var encodings = gateUp[0].encodings
        memory.gathered.encode(segments: routing.counts, columns: width, as: encodings, pool: pool) { place, out in
            out.update(from: normed[Int(routing.order[place]) / perToken], count: width)
        }
        var jobs = expertJobs(gateUp, memory, into: memory.inner)
        let sharedInner = FloatRows(memory.sharedInner, rows: count, columns: 2 * config.sharedSize)
        if let shared {
            rows.activations.encode(normed, as: shared.gateUp.encodings, pool: pool)
            jobs.append(MatmulJob(shared.gateUp, rows.activations, segment: 0, into: sharedInner))
        }
        matmul(jobs, pool: pool)

        let (inner, size) = (memory.inner, config.expertSize)
        encodings = down[0].encodings
        memory.gathered.encode(segments: routing.counts, columns: size, as: encodings, pool: pool) { place, out in
            let own = inner + place * 2 * size
            table.siluMultiply(gate: own, up: own + size, count: size, into: out)
        }
        jobs = expertJobs(down, memory, into: memory.products)
        if let shared {
            let size = config.sharedSize
            rows.activations.encode(rows: count, columns: size, as: shared.down.encodings, pool: pool) { row, out in
                table.siluMultiply(gate: sharedInner[row], up: sharedInner[row] + size, count: size, into: out)
            }
            let products = FloatRows(memory.sharedProducts, rows: count, columns: width)
            jobs.append(MatmulJob(shared.down, rows.activations, segment: 0, into: products))
        }
        matmul(jobs, pool: pool)
    }

    private func expertJobs(
        _ matrices: [PackedMatrix], _ memory: Memory, into base: UnsafeMutablePointer<Float>
    ) -> [MatmulJob] {
        var jobs: [MatmulJob] = []
        var first = 0
        for (expert, rows) in memory.routing.counts.enumerated() where rows > 0 {
            let matrix = matrices[expert]
            let out = FloatRows(base + first * matrix.rows, rows: rows, columns: matrix.rows)
            jobs.append(MatmulJob(matrix, memory.gathered, segment: expert, into: out))
            first += rows
        }
        return jobs
    }

    /// Each row's experts in the order of their choice, then the shared one: an order that no other row changes.
    private func combine(
        _ count: Int, _ rows: RowScratch, _ memory: Memory, _ table: KernelTable, _ pool: ComputePool
    ) {
        let (routing, perToken, width) = (memory.routing, memory.config.expertsPerToken, memory.hiddenSize)
        let (products, sharedProducts) = (memory.products, memory.sharedProducts)
        let (residual, sums, hasShared) = (rows.residual(count), rows.normed(count), shared != nil)
        pool.eachRow(count) { row in
            let sum = sums[row]
            sum.update(repeating: 0, count: width)
            for assignment in row * perToken..<(row + 1) * perToken {
                let product = products + Int(routing.places[assignment]) * width
                table.add(product, times: routing.weights[assignment], to: sum, count: width)
            }
            if hasShared { table.add(sharedProducts + row * width, to: sum, count: width) }
            table.add(sum, to: residual[row], count: width)
        }
    }
}
