import Handoff

/// Prefill nodes: the driver of the shipping machine, and an engine that computes prompts layer by layer.
extension World {
    func received(_ message: ToNode, _ index: Int, from router: Incarnation) {
        let node = prefills[index]
        switch message {
        case .prefill(let terms, let part):
            guard let terms = terms.part(part) else { return violate("1: \(TraceText.text(message)), which is none") }
            perform(node.handoffs.prefill(terms, pages: terms.tablePages), index)
        case .release(let id): perform(node.handoffs.release(id), index)
        case .cancel(let id): perform(node.handoffs.cancel(id), index)
        case .query(let id): perform(node.handoffs.query(id), index)
        case .listHandoffs:
            // What a router before this one left behind is listed too, but nothing of one that is attached.
            let open = node.handoffs.open.filter { $0.router == router || node.host.links[$0.router] == nil }
            send(.openHandoffs(open), from: node.host.seat, to: router)
        case .reserve, .reclaim, .fence: violate("7: \(TraceText.text(message)) at \(node.host.seat)")
        }
    }

    func perform(_ actions: [SendingAction], _ index: Int) {
        let node = prefills[index]
        let seat = node.host.seat
        mix(UInt64(actions.count))
        for action in actions {
            if let text = TraceText.text(action) { trace(seat, text) }
            switch action {
            case .startCompute(let id):
                node.jobs[id] = PrefillJob(pages: node.handoffs.rows.first { $0.id == id }?.pages ?? 0)
                plan(.compute(prefill: index, id), on: seat, in: computeTime())
            case .cancelCompute(let id): node.jobs[id]?.isStopped = true
            case .post(let lane, let batch):
                if node.drained.contains(batch.handoff) { violate("4: \(batch.handoff.text) posts after its Drained") }
                post(.batch(batch), lane, index)
            case .postCompletion(let lane, let terms): post(.completion(terms), lane, index)
            case .sendAccepted(let id): send(.accepted(id), from: seat, to: id.router)
            case .sendWritten(let id, _): send(.written(id), from: seat, to: id.router)
            case .sendDrained(let id, let posted, let completed):
                node.drained.insert(id)
                send(.drained(id, posted: posted, completed: completed), from: seat, to: id.router)
            case .sendFailed(let id, let why): send(.failed(id, why), from: seat, to: id.router)
            case .unpin(let id): unpin(id, node)
            case .closeLane(let key):
                if let lane = lanes.firstIndex(where: { $0.key == key && isOwn($0, node) }) { closeSender(lane) }
            case .setDeadline(let deadline, let id):
                node.draining.append((id, awake(node.host)))
                setDeadline(seat, deadline, id)
            case .clearDeadline(let deadline, let id): clearDeadline(seat, deadline, id)
            case .settled(let id): node.draining.removeAll { $0.handoff == id }
            }
        }
    }

    private func isOwn(_ lane: Lane, _ node: PrefillProcess) -> Bool { lane.prefill == node.host.incarnation }

    func awake(_ host: Host) -> Duration {
        now - host.pausedTotal
    }

    // MARK: Engine

    private func computeTime() -> Duration { draw(.fabric) { $0.time(.microseconds(20), scenario.computeMax) } }

    private func unpin(_ id: HandoffID, _ node: PrefillProcess) {
        guard let job = node.jobs.removeValue(forKey: id), !job.isUnpinned else {
            return violate("4: the source pages of \(id.text) are let go twice")
        }
        for slot in job.sources { node.pool.release(slot) }
        // A real engine is asked to stop with the same breath; nothing of it may come any more.
    }

    /// The block table of a prompt; then its layers, page range by page range; or its failure.
    func compute(_ index: Int, _ id: HandoffID) {
        let node = prefills[index]
        guard var job = node.jobs[id], !job.isStopped else { return }
        if strikes(.computeFailed) {
            mark(.computeFailed, id, only: .prefill, on: node.host.incarnation)
            node.jobs[id]?.isStopped = true
            trace(node.host.seat, "computing \(id.text) fails")
            return perform(node.handoffs.computeFailed(id, retryable: true), index)
        }
        if job.sources.isEmpty {
            guard let sources = node.pool.lease(job.pages) else {
                return plan(.compute(prefill: index, id), on: node.host.seat, in: .milliseconds(20))
            }
            job.sources = sources
            job.steps = steps(job.pages)
            node.jobs[id] = job
            trace(node.host.seat, "computes \(id.text) into slots \(sources.map(\.index))")
            perform(node.handoffs.started(id, sources: sources), index)
        } else {
            let (layers, pages) = job.steps[job.next]
            job.next += 1
            node.jobs[id] = job
            for page in pages {
                let source = job.sources[page]
                for layer in layers { node.memory[Int(source.index)][layer] = tag(id, page) }
                engine?.computed(id, page: page, in: source, of: node.host.incarnation, layers: share(layers))
            }
            trace(node.host.seat, "layers \(layers) of pages \(pages) of \(id.text) are ready")
            perform(node.handoffs.pagesReady(id, layers: layers, pages: pages), index)
        }
        if job.next < job.steps.count {
            plan(.compute(prefill: index, id), on: node.host.seat, in: computeTime())
        }
    }

    func share(_ layers: Range<Int>) -> LayerShare { LayerShare(layers: layers, count: scenario.layers) }

    /// Chunk by chunk, and in each chunk layer by layer.
    private func steps(_ pages: Int) -> [(layers: Range<Int>, pages: Range<Int>)] {
        var steps: [(layers: Range<Int>, pages: Range<Int>)] = []
        let chunk = draw(.requests) { $0.between(1, pages) }
        var first = 0
        while first < pages {
            let range = first..<min(pages, first + chunk)
            for layer in 0..<scenario.layers { steps.append((layer..<layer + 1, range)) }
            first = range.upperBound
        }
        return steps
    }
}
