import ControlPlane
package import Cores
import Messages
package import OrderedJSON

extension JSON {
    /// A number to three places.
    static func thousandths(_ value: Double) -> JSON { .double((value * 1000).rounded() / 1000) }
}

extension Speculation {
    /// Null before the first round.
    var report: JSON {
        guard let acceptLength, let acceptRate else { return .null }
        return [
            "rounds": .int(Int64(rounds)), "drafted": .int(Int64(drafted)), "accepted": .int(Int64(accepted)),
            "accept_length": .thousandths(acceptLength), "accept_rate": .thousandths(acceptRate),
        ]
    }
}

extension RunTimeline {
    /// Where a request's time went, in milliseconds, as clients get it who send `x-baton-timing: 1`.
    ///
    /// `first_token` is what the client waits for; the entries before it add up to it, but for the time
    /// messages travel (`control`).
    package var report: JSON {
        let reserve = Self.difference(granted, reserved)
        let ttft = Self.difference(firstToken, received)
        let router = tokenised - received
        let queue = Self.difference(reserved, queued)
        let parts = [router, queue, prefillQueue, prefillCompute, transferTail, sealing, firstStep]
        let known = parts.compactMap { $0 }.reduce(.zero, +)
        let decode = Self.difference(lastToken, firstToken)
        let spread = completionTokens > 1 ? decode.map { $0 / (completionTokens - 1) } : nil
        return [
            "attempts": .int(Int64(attempts)),
            "prefill_node": .string(prefillNode),
            "decode_node": .string(decodeNode),
            "prompt_tokens": .int(Int64(promptTokens)),
            "cached_tokens": .int(Int64(cachedTokens)),
            "completion_tokens": .int(Int64(completionTokens)),
            "kv_bytes": .int(Int64(clamping: transferBytes)),
            "speculation": speculation.report,
            "ms": [
                "router": Self.milliseconds(router),
                "queue": Self.milliseconds(queue),
                "reserve": Self.milliseconds(reserve),
                "prefill_queue": Self.milliseconds(prefillQueue),
                "prefill": Self.milliseconds(prefillCompute),
                "kv_transfer": Self.milliseconds(transferTail),
                "seal": Self.milliseconds(sealing),
                "first_step": Self.milliseconds(firstStep),
                "control": Self.milliseconds(ttft.map { max(.zero, $0 - known) }),
                "first_token": Self.milliseconds(ttft),
                "decode": Self.milliseconds(decode),
                "per_token": Self.milliseconds(spread),
                "total": Self.milliseconds(Self.difference(ended, received)),
            ],
        ]
    }

    private static func difference(_ later: Duration?, _ earlier: Duration?) -> Duration? {
        guard let later, let earlier else { return nil }
        return later - earlier
    }

    /// To a thousandth; null where it was not measured.
    private static func milliseconds(_ duration: Duration?) -> JSON {
        guard let duration else { return .null }
        return .thousandths(duration / .milliseconds(1))
    }
}
