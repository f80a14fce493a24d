// swift-tools-version: 6.2
import PackageDescription

// One table of modules; the arrows point downward only (docs/architecture.md, checked by TidyTests).
// `BATON_MODULES=Handoff,Transport` (scripts/only.sh) declares only those modules and what they use, so that a
// module builds and is tested alone, without the network packages (sanitizers and fuzzers use this too).

enum External: Hashable {
    case hummingbird, grpc, grpcTransport, grpcProtobuf, protobuf, arguments, log, lifecycle, subprocess, httpClient,
        nio, crypto

    var dependency: Package.Dependency {
        switch self {
        case .hummingbird: .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1")
        case .grpc: .package(url: "https://github.com/grpc/grpc-swift-2", from: "2.4.3")
        case .grpcTransport: .package(url: "https://github.com/grpc/grpc-swift-nio-transport", from: "2.9.2")
        case .grpcProtobuf: .package(url: "https://github.com/grpc/grpc-swift-protobuf", from: "2.4.1")
        case .protobuf: .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0")
        case .arguments: .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2")
        case .log: .package(url: "https://github.com/apple/swift-log", from: "1.16.2")
        case .lifecycle: .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0")
        case .subprocess: .package(url: "https://github.com/swiftlang/swift-subprocess", from: "1.0.2")
        case .httpClient: .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0")
        case .crypto: .package(url: "https://github.com/apple/swift-crypto", from: "4.5.2")
        case .nio: .package(url: "https://github.com/apple/swift-nio", from: "2.101.2")
        }
    }

    var products: [Target.Dependency] {
        switch self {
        case .hummingbird: [.product(name: "Hummingbird", package: "hummingbird")]
        case .grpc: [.product(name: "GRPCCore", package: "grpc-swift-2")]
        case .grpcTransport: [.product(name: "GRPCNIOTransportHTTP2", package: "grpc-swift-nio-transport")]
        case .grpcProtobuf: [.product(name: "GRPCProtobuf", package: "grpc-swift-protobuf")]
        case .protobuf: [.product(name: "SwiftProtobuf", package: "swift-protobuf")]
        case .arguments: [.product(name: "ArgumentParser", package: "swift-argument-parser")]
        case .log: [.product(name: "Logging", package: "swift-log")]
        case .lifecycle:
            [
                .product(name: "ServiceLifecycle", package: "swift-service-lifecycle"),
                .product(name: "UnixSignals", package: "swift-service-lifecycle"),
            ]
        case .subprocess: [.product(name: "Subprocess", package: "swift-subprocess")]
        case .httpClient: [.product(name: "AsyncHTTPClient", package: "async-http-client")]
        case .crypto: [.product(name: "Crypto", package: "swift-crypto")]
        case .nio:
            [
                .product(name: "NIOCore", package: "swift-nio"),
                .product(name: "NIOPosix", package: "swift-nio"),
                .product(name: "NIOHTTP1", package: "swift-nio"),
            ]
        }
    }
}

struct Module {
    enum Kind { case c, library, executable, test }
    var name: String
    var kind = Kind.library
    var uses: [String] = []
    var packages: [External] = []
    /// What the system has to have, from Debian's packages (scripts/setup.sh).
    var libraries: [String] = []
    /// Its tests look inside it. In release builds too, so that one build serves users and tests; not for the
    /// modules with hot loops, where it would cost optimisations.
    var isTestable = false
}

let modules: [Module] = [
    // Compute and formats.
    Module(name: "CKernels", kind: .c),
    Module(name: "Kernels", uses: ["CKernels"]),
    Module(name: "OrderedJSON"),
    Module(name: "SeededRandom"),
    Module(name: "Threads"),
    Module(name: "CHostProcess", kind: .c),
    Module(name: "HostProcess", uses: ["CHostProcess", "Threads"]),
    Module(name: "ModelFormat", uses: ["Kernels", "OrderedJSON"], packages: [.crypto]),
    Module(name: "Tokenization", uses: ["OrderedJSON"], isTestable: true),
    Module(name: "CheckpointText", uses: ["ModelFormat", "Tokenization"]),
    // The contract, and the engine whose pages it moves.
    Module(name: "Handoff"),
    Module(name: "Simulation", uses: ["Handoff", "SeededRandom"]),
    Module(
        name: "Engine",
        uses: ["Kernels", "ModelFormat", "Tokenization", "CheckpointText", "Handoff", "OrderedJSON", "Threads"]),
    Module(name: "CXXHash", kind: .c),
    Module(name: "CRDMA", kind: .c, libraries: ["ibverbs", "rdmacm"]),
    Module(name: "Transport", uses: ["Handoff", "CXXHash", "CRDMA", "Threads"], isTestable: true),
    // The cluster.
    Module(name: "Messages", uses: ["Handoff"], isTestable: true),
    Module(name: "API", uses: ["OrderedJSON"], isTestable: true),
    Module(name: "Cores", uses: ["Handoff", "Messages", "API"], isTestable: true),
    Module(name: "Telemetry", uses: ["Threads"], packages: [.log], isTestable: true),
    Module(
        name: "ControlPlane", uses: ["Handoff", "Messages", "Cores", "Threads"],
        packages: [.grpc, .grpcTransport, .grpcProtobuf, .protobuf, .log],
        isTestable: true),
    Module(
        name: "Node",
        uses: [
            "Engine", "Handoff", "Transport", "Messages", "Cores", "Threads", "HostProcess", "ControlPlane",
            "Telemetry", "Kernels", "OrderedJSON",
        ],
        packages: [.hummingbird, .log, .lifecycle, .arguments, .nio], isTestable: true),
    Module(
        name: "Routing",
        uses: [
            "Handoff", "Messages", "Cores", "Threads", "ControlPlane", "API", "Tokenization", "Telemetry",
            "OrderedJSON",
        ],
        packages: [.log], isTestable: true),
    // Assembly.
    Module(
        name: "router", kind: .executable,
        uses: [
            "Routing", "Cores", "Messages", "Threads", "HostProcess", "API", "ControlPlane", "Telemetry",
            "Tokenization", "ModelFormat",
            "CheckpointText",
            "OrderedJSON", "Handoff",
        ],
        packages: [.hummingbird, .arguments, .log, .lifecycle, .subprocess, .httpClient, .nio]),
    Module(
        name: "prefill-node", kind: .executable,
        uses: ["Node", "Engine", "Messages", "ControlPlane", "Kernels", "OrderedJSON", "Tokenization"],
        packages: [.arguments, .log]),
    Module(
        name: "decode-node", kind: .executable, uses: ["Node", "Engine", "Messages", "ControlPlane"],
        packages: [.arguments, .log]),
    Module(
        name: "bench", kind: .executable,
        uses: [
            "Engine", "Kernels", "Transport", "Handoff", "OrderedJSON", "SeededRandom", "Threads",
        ],
        packages: [.arguments]),
    Module(name: "simulate", kind: .executable, uses: ["Simulation", "Handoff"], packages: [.arguments]),
    // Tests.
    Module(name: "KernelsTests", kind: .test, uses: ["Kernels", "CKernels", "SeededRandom"]),
    Module(name: "OrderedJSONTests", kind: .test, uses: ["OrderedJSON", "SeededRandom"]),
    Module(name: "ModelFormatTests", kind: .test, uses: ["ModelFormat", "Kernels", "OrderedJSON", "SeededRandom"]),
    Module(name: "TokenizationTests", kind: .test, uses: ["Tokenization", "OrderedJSON", "SeededRandom"]),
    Module(name: "HandoffTests", kind: .test, uses: ["Handoff", "SeededRandom"]),
    Module(name: "SimulationTests", kind: .test, uses: ["Simulation", "Handoff"]),
    Module(
        name: "EngineTests", kind: .test,
        uses: [
            "Engine", "Kernels", "ModelFormat", "Tokenization", "Handoff", "OrderedJSON", "SeededRandom", "Simulation",
        ]),
    Module(name: "TransportTests", kind: .test, uses: ["Transport", "Handoff", "CRDMA"]),
    Module(name: "CoresTests", kind: .test, uses: ["Cores", "Messages", "Handoff", "API", "SeededRandom"]),
    Module(name: "HostProcessTests", kind: .test, uses: ["HostProcess", "CHostProcess"]),
    Module(name: "TelemetryTests", kind: .test, uses: ["Telemetry", "Threads"], packages: [.log]),
    Module(
        name: "ControlPlaneTests", kind: .test, uses: ["ControlPlane", "Messages", "Handoff", "SeededRandom"],
        packages: [.grpc, .grpcTransport, .protobuf, .log]),
    Module(name: "APITests", kind: .test, uses: ["API", "OrderedJSON", "SeededRandom", "Tokenization"]),
    Module(
        name: "RoutingTests", kind: .test,
        uses: [
            "Routing", "Cores", "Messages", "Handoff", "ControlPlane", "API", "Telemetry", "Tokenization",
            "OrderedJSON",
        ],
        packages: [.log]),
    Module(
        name: "NodeTests", kind: .test,
        uses: ["Node", "Engine", "Handoff", "Transport", "Messages", "ControlPlane", "Telemetry", "Kernels"],
        packages: [.log]),
    Module(name: "TidyTests", kind: .test),
    Module(
        name: "ClusterTests", kind: .test,
        uses: ["OrderedJSON", "SeededRandom", "router", "prefill-node", "decode-node"],
        packages: [.httpClient, .nio]),
]

// Which modules this build declares: all, or those named in BATON_MODULES with everything they use.
func modulesToDeclare() -> [Module] {
    guard let only = Context.environment["BATON_MODULES"], !only.isEmpty else { return modules }
    let byName = Dictionary(uniqueKeysWithValues: modules.map { ($0.name, $0) })
    var declared: Set<String> = []
    var pending = only.split(separator: ",").map(String.init)
    pending += pending.map { "\($0)Tests" }.filter { byName[$0] != nil }
    while let name = pending.popLast() {
        guard declared.insert(name).inserted else { continue }
        guard let module = byName[name] else { fatalError("BATON_MODULES names \(name), which is no module") }
        pending += module.uses
    }
    return modules.filter { declared.contains($0.name) }
}

let swiftSettings: [SwiftSetting] =
    [
        .enableUpcomingFeature("ExistentialAny"),
        .enableUpcomingFeature("MemberImportVisibility"),
        .enableUpcomingFeature("InternalImportsByDefault"),
        .treatAllWarnings(as: .error),
    ] + (breaksRules ? [.define("BATON_MUTANTS")] : [])

/// `BATON_MUTANTS=1` builds what `make simulate` breaks rules with (docs/simulation.md); nothing else may.
var breaksRules: Bool { Context.environment["BATON_MUTANTS"] == "1" }

extension Module {
    var target: Target {
        let dependencies = uses.map { Target.Dependency(stringLiteral: $0) } + packages.flatMap(\.products)
        switch kind {
        case .c:
            return .target(
                name: name, path: "Sources/\(name)",
                // Debug builds compile C at -O0, where the kernels are unusable; floating point must not be
                // contracted behind our back, or results would differ between compilers.
                cSettings: [.unsafeFlags(["-O3", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Werror"])],
                linkerSettings: libraries.map { .linkedLibrary($0) })
        case .library:
            return .target(
                name: name, dependencies: dependencies, path: "Sources/\(name)", exclude: excluded,
                swiftSettings: swiftSettings + (isTestable ? [.unsafeFlags(["-enable-testing"])] : []))
        case .executable:
            return .executableTarget(
                name: name, dependencies: dependencies, path: "Sources/\(name)", swiftSettings: swiftSettings)
        case .test:
            return .testTarget(
                name: name, dependencies: dependencies, path: "Tests/\(name)", exclude: excluded,
                swiftSettings: swiftSettings)
        }
    }

    /// Files beside the sources that are no input of the build.
    var excluded: [String] {
        name == "ControlPlane" ? ["control.proto"] : []
    }
}

let selected = modulesToDeclare()

let package = Package(
    name: "baton",
    platforms: [.macOS(.v15)],
    products: [],
    dependencies: Set(selected.flatMap(\.packages)).map(\.dependency),
    targets: selected.map(\.target),
    swiftLanguageModes: [.v6]
)
