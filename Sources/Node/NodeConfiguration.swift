import ControlPlane
package import Engine
package import Kernels
package import Messages
package import Transport

/// What a node of either role needs to know to start. Made from the flags by `NodeOptions`.
package struct NodeConfiguration: Sendable {
    package enum SlabSize: Sendable, Equatable {
        case bytes(Int)
        case pages(Int)
    }

    package var name: String
    package var modelPath: String
    package var routers: [HostPort] = []
    /// Where health and metrics are served; nil: nowhere.
    package var http: HostPort?
    package var slab = SlabSize.bytes(1 << 30)
    package var pageTokens = 32
    package var kvType = CacheType.f16
    /// 0: all cores.
    package var threads = 0
    /// nil: the best this machine has.
    package var isa: ISA?
    package var contextLimit: Int?
    package var maxRunning = 64
    /// nil: the engine's default for the role.
    package var chunkTokens: Int?
    /// Load the layer that drafts tokens, if the model has one, and keep and send its KV.
    package var draftLayer = true
    /// Tokens a decode node drafts ahead for each sequence; 0: none.
    package var speculate = 0
    package var lanesPerPeer = 4
    /// Where a decode node listens for lanes.
    package var lane = HostPort(host: "127.0.0.1", port: 0)
    /// The host that others reach this node by; nil: the one it listens on.
    package var advertisedHost: String?
    package var rdma = RDMAChoice.auto
    package var rdmaWindows = RDMAWindows.auto
    package var digests = DigestMode.sealed
    package var scrubBytesPerSecond = PageScrubber.Settings.defaultBytesPerSecond
    /// Where pages with wrong digests are written for inspection; nil: nowhere.
    package var evidenceDirectory: String?
    /// How long running work may go on after a drain began.
    package var drainTimeout = Duration.seconds(30)
    package var stopsWithParent = false

    package init(name: String, modelPath: String) {
        self.name = name
        self.modelPath = modelPath
    }

    /// The address others use for one this node listens on. Throws when it listens on all interfaces and nobody
    /// said by which name it is reached.
    package func advertised(_ address: HostPort) throws(NodeError) -> HostPort {
        if let advertisedHost { return HostPort(host: advertisedHost, port: address.port) }
        guard address.host != "0.0.0.0", address.host != "::" else {
            throw .option(name: "advertise", reason: "needed when a node listens on \(address.host)")
        }
        return address
    }

    /// Where a node listens on loopback it must not be reached from elsewhere, unless an adapter was asked for by name.
    package var rdmaOfListener: RDMAChoice {
        lane.isLoopback && rdma == .auto ? .off : rdma
    }

    /// Loads the model. Blocks for seconds.
    package func loadModel() throws(NodeError) -> LoadedModel {
        var options = LoadOptions()
        options.isa = isa
        options.kvType = kvType
        options.pageTokens = pageTokens
        options.contextLimit = contextLimit
        options.threads = threads
        options.draftLayer = draftLayer
        do throws(EngineError) {
            return try LoadedModel.load(path: modelPath, options: options)
        } catch {
            throw .engine(error)
        }
    }

    /// Allocates the KV slab.
    package func makeMemory(for model: LoadedModel) throws(NodeError) -> KVMemory {
        do throws(EngineError) {
            switch slab {
            case .bytes(let bytes): return try KVMemory(layout: model.layout, bytes: bytes)
            case .pages(let pages): return try KVMemory(layout: model.layout, pageCount: pages)
            }
        } catch {
            throw .engine(error)
        }
    }
}

extension HostPort {
    var isLoopback: Bool { host == "localhost" || host == "::1" || host.hasPrefix("127.") }
}
