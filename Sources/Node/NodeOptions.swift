package import ArgumentParser
import ControlPlane
import Engine
package import Handoff
import Kernels
package import Logging
package import Messages
import Telemetry
import Transport

/// The flags that both node executables have.
package struct NodeOptions: ParsableArguments {
    @Option(help: "Model: a GGUF file, a safetensors file, or a folder with config.json.")
    package var model: String

    @Option(help: ArgumentHelp("Router to attach to; repeat it or separate by commas.", valueName: "host:port"))
    package var router: [String] = []

    @Option(help: "Name of this node, unique in the cluster (default: the role and a random number).")
    package var name: String?

    @Option(help: ArgumentHelp("Where /health, /ready and /metrics are served.", valueName: "host:port"))
    package var http: String = "127.0.0.1:0"

    @Option(help: ArgumentHelp("Memory for KV pages, in GiB (default: 1).", valueName: "gib"))
    package var slabGb: Double?

    @Option(help: "KV pages, instead of --slab-gb.")
    package var pages: Int?

    @Option(help: "Tokens per KV page, a multiple of 16.")
    package var pageTokens = 32

    @Option(help: "Type of KV elements: f32, f16, bf16, or fp8 for models with latent attention.")
    package var kvDtype = "f16"

    @Option(help: "Compute threads (default: one per core).")
    package var threads = 0

    @Option(help: "Instruction set: \(ISA.allCases.map(\.rawValue).joined(separator: ", ")) (default: the best).")
    package var isa: String?

    @Option(help: "Tokens of one sequence at most (default: what the model allows).")
    package var context: Int?

    @Option(help: "Sequences at once at most.")
    package var maxRunning = 64

    @Option(help: "Prompt tokens computed per step.")
    package var chunk: Int?

    @Option(help: "The model's layer that drafts tokens (MTP): auto (keep and send its KV) or off; equal on all nodes.")
    package var mtp = "auto"

    @Option(help: "Lanes kept connected from each prefill node to each decode node.")
    package var lanes = 4

    @Option(help: "Lanes over RDMA where it works: auto, off, or the one adapter to use, DEVICE or DEVICE:PORT.")
    package var rdma = "auto"

    @Option(help: "Narrow each grant to its pages by memory windows of the adapter: auto, on or off.")
    package var rdmaWindows = RDMAWindows.auto.rawValue

    @Option(help: "Digests of KV pages: off, sealed (compared when pages become readable) or scrub (and ever after).")
    package var digests = DigestMode.sealed.rawValue

    @Option(help: ArgumentHelp("Bytes that --digests scrub reads per second.", valueName: "bytes"))
    package var scrubRate = PageScrubber.Settings.defaultBytesPerSecond

    @Option(help: ArgumentHelp("Folder for pages whose digests are wrong.", valueName: "folder"))
    package var evidence: String?

    @Option(help: ArgumentHelp("Host by which others reach this node.", valueName: "host"))
    package var advertise: String?

    @Option(help: "Seconds that running work may take after SIGTERM.")
    package var drainSeconds = 30

    @Option(help: "Log level: trace, debug, info, notice, warning, error, critical.")
    package var logLevel = "info"

    @Option(help: "Log lines as json or text.")
    package var logFormat = "text"

    @Flag(help: "Stop when standard input ends.")
    package var stopWithParent = false

    package init() {}

    // MARK: Checks

    package func validate() throws {
        do throws(NodeError) {
            _ = try configuration(role: .decode, incarnation: Incarnation(1))
        } catch {
            throw ValidationError(error.description)
        }
        guard LogFormat(rawValue: logFormat) != nil else {
            throw ValidationError("--log-format: \(logFormat) is neither json nor text")
        }
        guard Logger.Level(rawValue: logLevel) != nil else {
            throw ValidationError("--log-level: \(logLevel) is no level")
        }
    }

    /// Checks every flag and makes the configuration of a node.
    package func configuration(
        role: NodeRole, incarnation: Incarnation
    ) throws(NodeError) -> NodeConfiguration {
        func number(_ value: Int, _ option: String, _ range: ClosedRange<Int>) throws(NodeError) -> Int {
            guard range.contains(value) else {
                throw .option(name: option, reason: "\(value) is not in \(range.lowerBound)...\(range.upperBound)")
            }
            return value
        }
        let name = name ?? "\(role)-\(incarnation.text.prefix(8))"
        guard Registration.isValidName(name) else {
            throw .option(name: "name", reason: "must be 1 to \(ControlLimits.nodeNameBytes) of [A-Za-z0-9._-]")
        }
        var configuration = NodeConfiguration(name: name, modelPath: model)
        for router in router.flatMap({ $0.split(separator: ",") }) {
            configuration.routers.append(try address(String(router), "router", ports: 1...65535))
        }
        configuration.http = http.isEmpty ? nil : try address(http, "http", ports: 0...65535)
        configuration.slab = try slabSize()
        configuration.pageTokens = try number(pageTokens, "page-tokens", 16...ControlLimits.pageTokens)
        guard pageTokens % 16 == 0 else {
            throw .option(name: "page-tokens", reason: "\(pageTokens) is not a multiple of 16")
        }
        do throws(EngineError) {
            configuration.kvType = try CacheType(option: kvDtype)
        } catch {
            throw .option(name: "kv-dtype", reason: "\(kvDtype) is none of f32, f16, bf16, fp8")
        }
        configuration.threads = try number(threads, "threads", 0...1024)
        if let isa {
            guard let known = ISA(rawValue: isa) else {
                let names = ISA.allCases.map(\.rawValue).joined(separator: ", ")
                throw .option(name: "isa", reason: "\(isa) is none of \(names)")
            }
            configuration.isa = known
        }
        if let context { configuration.contextLimit = try number(context, "context", 1...ControlLimits.contextTokens) }
        configuration.maxRunning = try number(maxRunning, "max-running", 1...4096)
        if let chunk { configuration.chunkTokens = try number(chunk, "chunk", 1...16384) }
        guard mtp == "auto" || mtp == "off" else {
            throw .option(name: "mtp", reason: "\(mtp) is neither auto nor off")
        }
        configuration.draftLayer = mtp == "auto"
        configuration.lanesPerPeer = try number(lanes, "lanes", 1...64)
        configuration.rdma = try RDMAChoice(option: rdma)
        configuration.rdmaWindows = try RDMAWindows(option: rdmaWindows)
        guard let mode = DigestMode(rawValue: digests) else {
            let names = DigestMode.allCases.map(\.rawValue).joined(separator: ", ")
            throw .option(name: "digests", reason: "\(digests) is none of \(names)")
        }
        configuration.digests = mode
        configuration.scrubBytesPerSecond = try number(scrubRate, "scrub-rate", 1 << 16...1 << 40)
        configuration.evidenceDirectory = evidence
        if let advertise {
            guard let host = HostPort("\(advertise):1") ?? HostPort("[\(advertise)]:1") else {
                throw .option(name: "advertise", reason: "\(advertise) is no host name")
            }
            configuration.advertisedHost = host.host
        }
        configuration.drainTimeout = .seconds(try number(drainSeconds, "drain-seconds", 0...86400))
        configuration.stopsWithParent = stopWithParent
        return configuration
    }

    private func slabSize() throws(NodeError) -> NodeConfiguration.SlabSize {
        if let pages {
            guard slabGb == nil else { throw .option(name: "pages", reason: "cannot be given with --slab-gb") }
            guard (1...ControlLimits.slabSlots).contains(pages) else {
                throw .option(name: "pages", reason: "\(pages) is not in 1...\(ControlLimits.slabSlots)")
            }
            return .pages(pages)
        }
        return .bytes(try Self.slabBytes(slabGb))
    }

    /// The bytes of `--slab-gb`, or of its default.
    static func slabBytes(_ gibibytes: Double?) throws(NodeError) -> Int {
        let gibibytes = gibibytes ?? 1
        guard gibibytes > 0, gibibytes <= 65536 else {
            throw .option(name: "slab-gb", reason: "\(gibibytes) is not above 0 and at most 65536")
        }
        return Int(gibibytes * 1_073_741_824)
    }

    private func address(
        _ text: String, _ option: String, ports: ClosedRange<Int>
    ) throws(NodeError) -> HostPort {
        try Self.address(text, option, ports: ports)
    }

    /// Reads HOST:PORT.
    package static func address(
        _ text: String, _ option: String, ports: ClosedRange<Int>
    ) throws(NodeError) -> HostPort {
        guard let address = HostPort(text), ports.contains(address.port) else {
            throw .option(
                name: option,
                reason: "\"\(text)\" is not HOST:PORT with a port in \(ports.lowerBound)...\(ports.upperBound)")
        }
        return address
    }

    /// The logger of the process, writing to standard error.
    package func logger(_ process: String) -> Logger {
        let format = LogFormat(rawValue: logFormat) ?? .text
        let level = Logger.Level(rawValue: logLevel) ?? .info
        return Logger(label: process) { LineLogHandler(label: $0, format: format, level: level) }
    }
}

extension RDMAChoice {
    /// What `--rdma` says.
    init(option text: String) throws(NodeError) {
        guard let choice = RDMAChoice(text) else {
            throw .option(name: "rdma", reason: "\(text) is none of auto, off, DEVICE, DEVICE:PORT")
        }
        self = choice
    }
}

extension RDMAWindows {
    /// What `--rdma-windows` says.
    init(option text: String) throws(NodeError) {
        guard let windows = RDMAWindows(rawValue: text) else {
            let names = RDMAWindows.allCases.map(\.rawValue).joined(separator: ", ")
            throw .option(name: "rdma-windows", reason: "\(text) is none of \(names)")
        }
        self = windows
    }
}
