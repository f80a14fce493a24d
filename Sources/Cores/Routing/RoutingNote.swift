package import API
package import Handoff

/// What happened, for logs and metrics. The core only says it; the shell writes it down.
package enum RoutingNote: Sendable {
    package enum Outcome: String, Sendable, CaseIterable {
        case completed, failed, cancelled
    }

    case nodeJoined(name: String, warning: String?)
    /// Its engine has had work for this long and has not moved.
    case engineStalled(name: String, for: Duration)
    case nodeLeft(name: String, reason: String)
    /// A run that is no probe ended: how, and with how many completion tokens.
    case ended(UInt64, Outcome, RunRequest, Int)
    case runFailed(UInt64, APIError)
    /// A handoff failed and its run will be tried again.
    case retrying(HandoffID, cause: String, delivered: Int)
    case refused(HandoffID, reason: String, node: String)
    case settled(HandoffID)
    case probed(prefill: String, decode: String, failure: String?)
    /// Time between two deliveries to one run, with the number of tokens in the later one.
    case tokenGap(Duration, tokens: Int)
    case firstToken(UInt64, RunTimeline)
}
