import ControlPlane
package import Cores
import Handoff
import Messages
package import OrderedJSON

/// What the admin API shows of the router and its nodes, as JSON. Operators and scripts
/// rely on the shapes: docs/operating.md.
extension RoutingCore {
    /// `GET /admin/status`.
    package func statusReport(model: String, version: String, now: Duration) -> JSON {
        [
            "model": .string(model),
            "version": .string(version),
            "incarnation": .string(incarnation.text),
            "uptime_s": .int(now.components.seconds),
            "ready": .bool(probes.isReady),
            "draining": .bool(isDraining),
            "requests": [
                "running": .int(Int64(runningCount)),
                "waiting": .int(Int64(waitingCount)),
                "queue_limit": .int(Int64(settings.queueLimit)),
            ],
            "handoffs": [
                "open": .int(Int64(unsettledCount)),
                "by_state": .object(JSONObject(handoffStates.map { ($0, .int(Int64($1))) })),
            ],
            "nodes": .array(nodes.all.map { nodeReport($0, now: now) }),
        ]
    }

    /// One entry of `nodes`.
    package func nodeReport(_ node: NodeTable.Entry, now: Duration) -> JSON {
        let load = node.load ?? NodeLoad()
        let registration = node.registration
        let mismatch = nodes.mismatch(of: node)
        var lastError = load.lastError.isEmpty ? node.lastFailure : load.lastError
        if let mismatch { lastError = mismatch }
        func count(_ value: Int) -> JSON { .int(Int64(value)) }
        return [
            "name": .string(registration.name),
            "role": .string(registration.role.rawValue),
            "state": .string(state(of: node, isPaired: mismatch == nil)),
            "model": .string(registration.model),
            "incarnation": .string(node.id.text),
            "http": .string(registration.httpAddress),
            "lane_address": .string(registration.laneAddress),
            "rdma_addresses": .array(registration.rdmaAddresses.map { .string($0) }),
            "version": .string(registration.version),
            "attached_s": .int((now - node.joined).components.seconds),
            "compatibility": [
                "fingerprint": .string(registration.compatibility.fingerprint),
                "page_layout": .string(registration.compatibility.pageLayout),
                "kv_dtype": .string(registration.compatibility.kvType),
                "isa_class": .string(registration.compatibility.isaClass),
                "page_tokens": count(registration.compatibility.pageTokens),
                "page_bytes": count(registration.compatibility.pageBytes),
            ],
            "context_limit": count(registration.contextLimit),
            "pages": [
                "total": count(registration.slots), "free": count(load.slots.free),
                "in_use": count(load.slots.inUse), "granted": count(load.slots.granted),
                "quarantined": count(load.slots.quarantined), "cached": count(load.slots.cached),
                "lost": count(node.load == nil ? 0 : registration.slots - load.slots.total),
            ],
            "requests": ["running": count(load.running), "waiting": count(load.waiting)],
            "queued_tokens": count(load.queuedTokens),
            "tokens_per_second": .double(load.tokensPerSecond),
            "tokens_total": count(load.tokensTotal),
            "lanes": [
                "idle": count(load.lanesIdle), "busy": count(load.lanesBusy),
                "errors": .array(node.lanes.values.map(\.error).filter { !$0.isEmpty }.sorted().map { .string($0) }),
                "peers": .array(node.lanes.sorted { $0.key.value < $1.key.value }.map { peerReport($0.value) }),
            ],
            "open_handoffs": count(load.openHandoffs),
            "stale_writes": count(load.staleWrites), "fences": count(load.fences),
            "digest_mismatches": count(load.digestMismatches), "preemptions": count(load.preemptions),
            "contract": contractReport(load),
            "speculation": load.speculation.report,
            "experts": expertReport(load.experts),
            "last_error": .string(lastError),
        ]
    }

    /// How a prefill node reaches a decode node.
    private func peerReport(_ lanes: PeerLanes) -> JSON {
        [
            "decode": .string(nodes[lanes.decode]?.registration.name ?? lanes.decode.text),
            "transport": .string(lanes.transport), "reason": .string(lanes.reason),
            "idle": .int(Int64(lanes.idle)), "busy": .int(Int64(lanes.busy)),
        ]
    }

    /// How evenly tokens went to experts; null without experts.
    private func expertReport(_ balance: ExpertBalance?) -> JSON {
        guard let balance else { return .null }
        return [
            "mean_imbalance": .thousandths(balance.meanImbalance),
            "worst_imbalance": .thousandths(balance.worstImbalance),
            "worst_layer": .int(Int64(balance.worstLayer)), "worst_expert": .int(Int64(balance.worstExpert)),
        ]
    }

    /// What the handoff contract did on a node.
    private func contractReport(_ load: NodeLoad) -> JSON {
        let counts = load.contract
        func count(_ value: Int) -> JSON { .int(Int64(value)) }
        func milliseconds(_ time: Duration) -> JSON { .double(time / .milliseconds(1)) }
        return [
            "proofs": [
                "write_complete": count(counts.proofsWriteComplete), "drained": count(counts.proofsDrained),
                "fenced": count(counts.proofsFenced),
            ],
            "events": [
                "duplicate": count(counts.duplicateEvents), "stale": count(counts.staleEvents),
                "peer_fault": count(counts.peerFaults),
            ],
            "digest_mismatches": [
                "seal": count(load.digestMismatches - counts.scrubMismatches - counts.sendMismatches),
                "scrub": count(counts.scrubMismatches), "send": count(counts.sendMismatches),
            ],
            "unchecked_seals": count(counts.uncheckedSeals), "scrub_passes": count(counts.scrubPasses),
            "reclaim_ms": [
                "count": count(counts.reclaims), "p50": milliseconds(counts.reclaimMedian),
                "p99": milliseconds(counts.reclaimP99), "max": milliseconds(counts.reclaimMax),
            ],
        ]
    }

    private func state(of node: NodeTable.Entry, isPaired: Bool) -> String {
        if node.isDraining {
            let load = node.load ?? NodeLoad()
            let isEmpty = load.running == 0 && load.waiting == 0 && load.openHandoffs == 0 && node.sequences == 0
            return isEmpty ? "drained" : "draining"
        }
        if !isPaired { return "unpaired" }
        if node.load == nil { return "joining" }
        return "ready"
    }

    /// `GET /admin/handoffs`.
    package func handoffReport() -> JSON {
        .array(
            ledger.rows.map { row in
                [
                    "handoff": .string(row.id.text),
                    "request": .int(Int64(clamping: row.id.request)),
                    "attempt": .int(Int64(row.id.attempt)),
                    "state": .string(row.phase),
                    "prefill": .string(
                        row.prefills.map { nodes[$0]?.registration.name ?? $0.text }.joined(separator: ", ")),
                    "decode": .string(nodes[row.decode]?.registration.name ?? row.decode.text),
                    "pages": .int(Int64(row.pages)),
                ]
            })
    }
}
