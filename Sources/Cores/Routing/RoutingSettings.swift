/// The bounds a router works within. All have defaults that suit a small cluster.
package struct RoutingSettings: Sendable {
    /// Requests that may wait for a pair of nodes; one more is refused with 429.
    package var queueLimit = 1024
    /// How long a request may wait for a pair before it is refused with 503.
    package var queueTimeout = Duration.seconds(60)
    /// Attempts that may fail before a request fails (refusals that only mean "not now" are not failures).
    package var failuresMax = 4
    /// A request that has been failing for this long is not tried again.
    package var retryWindow = Duration.seconds(120)
    /// First pause after a failed attempt; it doubles with every further one.
    package var retryBackoff = Duration.milliseconds(20)
    /// An attempt that shows no progress for this long, and `progressTimePerToken` for each token its node has
    /// to work on, fails: far above what the slowest machine needs, since it only catches engines that hang.
    package var progressTimeout = Duration.seconds(60)
    package var progressTimePerToken = Duration.milliseconds(20)
    /// A node whose engine has work and has not moved for this long, by its own account, loses what runs there and gets
    /// nothing new until it moves. An engine moves with every layer of a step, so this is far above what one takes.
    package var engineStallTimeout = Duration.seconds(5)
    /// A pair without any lane, and with a reason for that, counts as unusable after this: lanes to a node that has just
    /// started need a moment.
    package var lanePatience = Duration.seconds(5)
    /// A router that has just started, or has just lost its last pair, lets requests wait this long for nodes to attach.
    package var attachPatience = Duration.seconds(3)
    /// How long the end of a whole answer waits for what the prefill node measured, which may come behind it.
    package var reportPatience = Duration.milliseconds(100)
    /// How long a node is left alone after it refused for lack of pages, lanes or sequences.
    package var refusalBackoff = Duration.milliseconds(25)
    /// A pair whose round trip failed is probed again after this, doubling up to `probeBackoffMax`.
    package var probeBackoff = Duration.milliseconds(250)
    package var probeBackoffMax = Duration.seconds(5)
    /// Tokens of the readiness probe's prompt; empty turns probing off (tests).
    package var probeTokens: [UInt32] = []
    /// A client that has taken nothing for this long while tokens wait for it is cut off.
    package var slowClientTimeout = Duration.seconds(30)
    /// Tokens that may wait for a client; one more cuts it off at once.
    package var unreadTokensMax = 65_536

    package init() {}
}
