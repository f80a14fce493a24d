import Cores
import GRPCCore
import Logging
import Messages

/// The gRPC service behind `ControlServer`: one call per attached node.
struct AttachService: Baton_Control_V1_Control.SimpleServiceProtocol {
    let core: ServerCore

    func attach(
        request: RPCAsyncSequence<Baton_Control_V1_FromNode, any Swift.Error>,
        response: RPCWriter<Baton_Control_V1_FromRouter>,
        context: ServerContext
    ) async throws {
        guard let stream = core.open() else { throw RPCError(code: .unavailable, message: "the router stops") }
        let reason = await serve(stream, request: request, response: response)
        core.ended(stream, reason)
        switch reason {
        case .disconnected: return
        case .protocolError(let message): throw RPCError(code: .invalidArgument, message: message)
        case .leaseExpired: throw RPCError(code: .deadlineExceeded, message: "\(reason)")
        case .tooSlow: throw RPCError(code: .resourceExhausted, message: "\(reason)")
        case .replaced: throw RPCError(code: .aborted, message: "\(reason)")
        case .detached, .stopped: throw RPCError(code: .unavailable, message: "\(reason)")
        }
    }

    /// Reads and writes until either side is done; returns why.
    private func serve(
        _ stream: RouterStream,
        request: RPCAsyncSequence<Baton_Control_V1_FromNode, any Swift.Error>,
        response: RPCWriter<Baton_Control_V1_FromRouter>
    ) async -> LeaveReason {
        await withTaskGroup(of: LeaveReason.self) { group in
            group.addTask {
                do {
                    while let batch = await stream.outbox.take() {
                        try await response.write(contentsOf: batch.map(\.wire))
                    }
                } catch {}
                return stream.closeReason ?? .disconnected
            }
            group.addTask { await read(stream, request) }
            let first = await group.next() ?? .disconnected
            let hasReaderFailed = first != .disconnected && stream.closeReason == nil
            stream.close(first)
            // When the node broke the protocol, what is queued for it may still go out.
            if !hasReaderFailed { group.cancelAll() }
            // A node that reads nothing must not hold the stream open.
            group.addTask {
                try? await Task.sleep(for: .seconds(1))
                return first
            }
            _ = await group.next()
            group.cancelAll()
            return stream.closeReason ?? first
        }
    }

    private func read(
        _ stream: RouterStream, _ request: RPCAsyncSequence<Baton_Control_V1_FromNode, any Swift.Error>
    ) async -> LeaveReason {
        do {
            var node: AttachedNode?
            var isRefused = false
            for try await message in request {
                // The refusal is on its way; what ends the stream is the other side of it.
                if isRefused { continue }
                if let node {
                    core.received(try NodeMessage(message), from: node, on: stream)
                } else {
                    guard case .register(let register)? = message.body else {
                        return .protocolError("the first message must be Register")
                    }
                    if let refusal = Registration.refusal(ofVersion: register.protocolVersion) {
                        core.refuse(stream, refusal)
                        isRefused = true
                    } else {
                        node = core.register(stream, try Registration(register))
                    }
                }
            }
            return .disconnected
        } catch let error as ControlError {
            core.logger.warning(
                "a node broke the protocol", metadata: ["session": "\(stream.session)", "error": "\(error)"])
            return .protocolError("\(error)")
        } catch let error as RPCError where error.code != .cancelled && error.code != .unavailable {
            // A message that is no protobuf of ours, or one above the size limit.
            core.logger.warning(
                "a node broke the protocol", metadata: ["session": "\(stream.session)", "error": "\(error)"])
            return .protocolError(error.message)
        } catch {
            return .disconnected
        }
    }
}
