import Handoff
import Threads

/// The decode node's end of one lane, over whatever carries it. One thread waits until it is ready and runs it;
/// everything else may be called from any thread.
protocol ReceivingLane: AnyObject, Sendable {
    var id: LaneID { get }
    var peer: Incarnation { get }
    var address: String { get }
    var transport: LaneTransport { get }
    var counters: Monitor<LaneCounters> { get }
    /// Lets the lane write what the terms grant. False when it is closed, or the terms are over already.
    func bind(_ terms: PartTerms) -> Bool
    /// Ends the right to write.
    func unbind(_ epoch: LaneEpoch) -> LaneUnbinding
    /// The digests of the pages of this epoch, as the completion record has them and as they are here; nil unless it
    /// has completed.
    func digests(_ epoch: LaneEpoch) -> (expected: [PageDigest], landed: [PageDigest], firstPage: Int)?
    /// Makes further landing impossible. Does not wait: `run` reports when it is so. Needs nothing of the peer.
    func fence(_ reason: LaneCloseReason)
    /// Ends the lane if no grant is open on it, for a lane that is better has been opened.
    func retire()
    /// Ends the lane if what carries it is not there any more. To be called now and then.
    func checkDevice()
    /// Waits until the prefill node knows the lane too; only then may it be granted. False when it never does.
    func waitUntilReady(_ timeout: Duration) -> Bool
    /// Serves the lane until it ends; returns why, after nothing can land in the slab any more, and how long that
    /// took when it was asked for.
    /// - Parameters:
    ///   - onCompletion: the node is told first, so that what is whole is safe before anybody relies on the lane.
    ///   - whenAcknowledged: the peer has been told too.
    func run(
        _ onCompletion: (CompletionRecord, LaneEpoch) -> Void, whenAcknowledged: () -> Void
    ) -> (reason: LaneCloseReason, fence: Duration?)
}

/// What receiving lanes are told of the node they serve.
struct ReceivingSettings: Sendable {
    let digests: DigestMode
    /// How long a peer may leave acknowledgements unread.
    let writeTimeout: Duration
}
