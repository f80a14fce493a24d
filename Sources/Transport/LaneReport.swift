package import Handoff

/// Why a lane closed, or was refused.
package struct LaneCloseReason: Sendable, Hashable, CustomStringConvertible {
    package enum Kind: String, Sendable, Hashable, CaseIterable {
        /// The other side closed it or died.
        case peerClosed
        /// This side fenced it.
        case fenced
        /// A better lane took its place.
        case superseded
        /// This process shuts down, or the peer is not wanted any more.
        case shutdown
        /// A record of an older handoff, epoch or generation.
        case staleWrite
        /// Bytes that this protocol does not allow.
        case protocolError
        /// The other side neither reads nor answers.
        case timeout
        case system
    }

    package let kind: Kind
    package let detail: String

    package init(_ kind: Kind, _ detail: String = "") {
        self.kind = kind
        self.detail = detail
    }

    /// Whether it ended because what is sent does not arrive, rather than by anybody's will.
    var meansNoPath: Bool { kind == .timeout || kind == .system }

    package var description: String { detail.isEmpty ? kind.rawValue : "\(kind.rawValue): \(detail)" }

    init(after failure: Socket.Failure, _ doing: String) {
        switch failure {
        case .closed: self.init(.peerClosed)
        case .timeout: self.init(.timeout, doing)
        case .refused(let reason): self.init(.peerClosed, reason)
        case .system(let code): self.init(.system, "\(doing): \(errorText(code))")
        }
    }
}

/// Why the decode node turned a connection away before it became a lane.
package enum LaneRefusal: String, Sendable, Hashable, CaseIterable {
    case notALane, wrongVersion, wrongDecodeNode, wrongLayout, digestsDiffer, tooManyLanes, tooManyOfPeer, helloTimeout
    case noThread, noResources
}

/// What happens on a decode node's lanes. Called on the lane's thread, with no lock held.
package enum LaneListenerEvent: Sendable {
    case opened(LaneID, peer: Incarnation, address: String)
    /// The completion record is in and every byte of the grant has landed. The lane has ended the right to write
    /// by itself. Call `verifyDigests` before returning.
    case completion(LaneID, LaneEpoch, CompletionRecord)
    /// The receive thread has left the slab for good and the connection is closed: nothing can land any more.
    case closed(LaneID, LaneCloseReason, fence: Duration?)
}

/// What happens on a prefill node's lanes. Called on the lane's thread, with no lock held.
package enum LanePoolEvent: Sendable {
    case opened(LaneKey)
    /// `records` of the handoff's records have landed, counted from its first.
    case acknowledged(LaneKey, HandoffID, LaneEpoch, records: Int)
    case completionAcknowledged(LaneKey, HandoffID, LaneEpoch)
    /// A page that is being sent again is not what it was when it was first sent. The decode node will find that
    /// out too, for it is told the digests of then.
    case sourceChanged(HandoffID, SlotRef, [DigestMismatch])
    /// The sender has left the slab for good and the connection is closed.
    case closed(LaneKey, LaneCloseReason)
}
