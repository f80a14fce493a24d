import HTTPTypes
import NIOCore
import NIOHTTPTypes
import Synchronization

/// One connection's end, for whoever answers a request on it.
final class ConnectionSignal: Sendable {
    private struct State {
        var isClosed = false
        var onClose: (@Sendable () -> Void)?
    }

    private let state = Mutex(State())
    private let channel: any Channel

    init(channel: any Channel) { self.channel = channel }

    /// The body runs once when the client goes away, at once if it has. One watcher at a time: a connection
    /// carries one request at a time.
    func watch(_ body: @escaping @Sendable () -> Void) {
        let isClosed = state.withLock { state in
            if !state.isClosed { state.onClose = body }
            return state.isClosed
        }
        if isClosed { body() }
    }

    /// The request is answered.
    func unwatch() { state.withLock { $0.onClose = nil } }

    /// Whether what is written now goes out before long.
    var isWritable: Bool { channel.isWritable }

    /// Writes a piece of the response's body, from any thread, behind what was written before.
    func write(_ text: String, whenSent: @escaping @Sendable () -> Void) {
        let sent = channel.eventLoop.makePromise(of: Void.self)
        sent.futureResult.whenSuccess(whenSent)
        channel.writeAndFlush(HTTPResponsePart.body(ByteBuffer(string: text)), promise: sent)
    }

    /// Ends the connection from our side.
    func close() { channel.close(promise: nil) }

    fileprivate func closed() {
        let body = state.withLock { state in
            defer {
                state.isClosed = true
                state.onClose = nil
            }
            return state.onClose
        }
        body?()
    }
}

/// Finds a connection's signal from its channel.
final class Connections: Sendable {
    private let signals = Mutex<[ObjectIdentifier: ConnectionSignal]>([:])

    func signal(of channel: any Channel) -> ConnectionSignal? {
        signals.withLock { $0[ObjectIdentifier(channel)] }
    }

    fileprivate func add(_ signal: ConnectionSignal, for channel: any Channel) {
        signals.withLock { $0[ObjectIdentifier(channel)] = signal }
    }

    fileprivate func remove(_ channel: any Channel) {
        signals.withLock { $0[ObjectIdentifier(channel)] = nil }
    }
}

/// Sits in every HTTP connection's pipeline. It notices a client that leaves while its request is still being
/// computed, which the server itself would only find out at its next write, and keeps connections usable
/// afterwards, which cancelling the server's own reader would not. It also closes a connection after a
/// response that says so, and keeps little in socket buffers, so that a client that does not read is noticed.
///
/// A client that shuts down its sending side counts as gone, as with every server that watches for this.
final class ConnectionGuard: ChannelDuplexHandler, RemovableChannelHandler {
    typealias InboundIn = HTTPRequestPart
    typealias InboundOut = HTTPRequestPart
    typealias OutboundIn = HTTPResponsePart
    typealias OutboundOut = HTTPResponsePart

    /// Enough for some hundred chunks in flight; a reader that lags more than this is slow.
    private static let sendBufferBytes = 128 << 10

    private let connections: Connections
    private let stallTimeout: TimeAmount
    private var stall: Scheduled<Void>?
    private var signal: ConnectionSignal?
    private var closesAfterResponse = false

    /// - Parameter stallTimeout: a client that takes nothing of its answer for this long is cut off.
    init(connections: Connections, stallTimeout: Duration) {
        self.connections = connections
        self.stallTimeout = TimeAmount(stallTimeout)
    }

    func handlerAdded(context: ChannelHandlerContext) {
        let signal = ConnectionSignal(channel: context.channel)
        self.signal = signal
        connections.add(signal, for: context.channel)
        if let options = context.channel.syncOptions {
            // Either may be refused by the system; the connection works without.
            try? options.setOption(.socketOption(.so_sndbuf), value: Self.sendBufferBytes)
            try? options.setOption(.writeBufferWaterMark, value: .init(low: 8 << 10, high: 32 << 10))
        }
    }

    func handlerRemoved(context: ChannelHandlerContext) { gone(context) }

    func channelInactive(context: ChannelHandlerContext) {
        gone(context)
        context.fireChannelInactive()
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        stall?.cancel()
        stall = nil
        if !context.channel.isWritable {
            let channel = context.channel
            stall = context.eventLoop.scheduleTask(in: stallTimeout) { channel.close(promise: nil) }
        }
        context.fireChannelWritabilityChanged()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        signal?.closed()
        context.fireErrorCaught(error)
    }

    func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
        if let event = event as? ChannelEvent, event == .inputClosed { signal?.closed() }
        context.fireUserInboundEventTriggered(event)
    }

    func write(context: ChannelHandlerContext, data: NIOAny, promise: EventLoopPromise<Void>?) {
        switch unwrapOutboundIn(data) {
        case .head(let head):
            closesAfterResponse = head.headerFields[.connection]?.lowercased() == "close"
        case .body:
            break
        case .end:
            guard closesAfterResponse else { break }
            context.writeAndFlush(data, promise: promise)
            context.close(promise: nil)
            return
        }
        context.write(data, promise: promise)
    }

    private func gone(_ context: ChannelHandlerContext) {
        stall?.cancel()
        signal?.closed()
        connections.remove(context.channel)
    }
}
