import Handoff
import Messages
import SwiftProtobuf

extension Registration {
    /// Why a node of another version can't be taken; nil for this one.
    static func refusal(ofVersion version: UInt32) -> String? {
        if version == ControlLimits.protocolVersion { return nil }
        return "the node speaks version \(version) of the control protocol, this router version "
            + "\(ControlLimits.protocolVersion): run the same release of both"
    }

    /// Checks the first message of a node.
    init(_ message: Baton_Control_V1_Register) throws(ControlError) {
        if let refusal = Registration.refusal(ofVersion: message.protocolVersion) {
            throw .invalid(field: "register.protocol_version", reason: refusal)
        }
        guard Self.isValidName(message.name) else {
            throw .invalid(
                field: "register.name", reason: "must be 1 to \(ControlLimits.nodeNameBytes) of [A-Za-z0-9._-]")
        }
        let role: NodeRole
        switch message.role {
        case .prefill: role = .prefill
        case .decode: role = .decode
        default: throw .invalid(field: "register.role", reason: "\(message.role.rawValue) is not a known role")
        }
        guard message.hasCompatibility else { throw .invalid(field: "register.compatibility", reason: "is missing") }
        self.init(
            name: message.name,
            role: role,
            incarnation: try Wire.incarnation(message.incarnation, "register.incarnation"),
            compatibility: try ModelCompatibility(message.compatibility),
            model: Wire.shown(message.model),
            laneAddress: role == .decode
                ? try Wire.address(message.laneAddress, "register.lane_address") : "",
            httpAddress: message.httpAddress.isEmpty
                ? "" : try Wire.address(message.httpAddress, "register.http_address"),
            slots: try Wire.count(message.slots, "register.slots", in: 1...ControlLimits.slabSlots),
            contextLimit: try Wire.count(
                message.contextLimit, "register.context_limit", in: 1...ControlLimits.contextTokens),
            maxRunning: try Wire.count(message.maxRunning, "register.max_running", in: 1...ControlLimits.sequences),
            version: Wire.shown(message.version),
            lanesPerPeer: try Wire.count(
                message.lanesPerPeer, "register.lanes_per_peer", in: 1...ControlLimits.lanesPerPeer),
            rdmaAddresses: try Wire.addresses(message.rdmaAddresses, "register.rdma_addresses"))
    }

    var wire: Baton_Control_V1_Register {
        .with {
            $0.protocolVersion = ControlLimits.protocolVersion
            $0.name = name
            $0.role = role == .prefill ? .prefill : .decode
            $0.incarnation = incarnation.value
            $0.compatibility = compatibility.wire
            $0.model = model
            $0.laneAddress = laneAddress
            $0.httpAddress = httpAddress
            $0.slots = UInt32(clamping: slots)
            $0.contextLimit = UInt32(clamping: contextLimit)
            $0.maxRunning = UInt32(clamping: maxRunning)
            $0.version = version
            $0.lanesPerPeer = UInt32(clamping: lanesPerPeer)
            $0.rdmaAddresses = rdmaAddresses
        }
    }
}

extension ModelCompatibility {
    init(_ message: Baton_Control_V1_Compatibility) throws(ControlError) {
        func named(_ text: String, _ field: String, atMost limit: Int) throws(ControlError) -> String {
            guard !text.isEmpty else { throw .invalid(field: field, reason: "is missing") }
            return try Wire.text(text, field, atMost: limit)
        }
        self.init(
            fingerprint: try named(message.modelFingerprint, "compatibility.model_fingerprint", atMost: 128),
            pageLayout: try named(
                message.pageLayout, "compatibility.page_layout", atMost: ControlLimits.pageLayoutBytes),
            kvType: try named(message.kvDtype, "compatibility.kv_dtype", atMost: 32),
            isaClass: try named(message.isaClass, "compatibility.isa_class", atMost: 64),
            pageTokens: try Wire.count(
                message.pageTokens, "compatibility.page_tokens", in: 1...ControlLimits.pageTokens),
            pageBytes: try Wire.count(message.pageBytes, "compatibility.page_bytes", in: 1...ControlLimits.pageBytes))
    }

    var wire: Baton_Control_V1_Compatibility {
        .with {
            $0.modelFingerprint = fingerprint
            $0.pageLayout = pageLayout
            $0.kvDtype = kvType
            $0.isaClass = isaClass
            $0.pageTokens = UInt32(clamping: pageTokens)
            $0.pageBytes = UInt64(clamping: pageBytes)
        }
    }
}

extension NodeLoad {
    /// Numbers that are only shown or compared are clamped instead of refused.
    init(_ message: Baton_Control_V1_Heartbeat) {
        self.init()
        slots = SlotCounts(
            free: Int(message.free), inUse: Int(message.inUse), granted: Int(message.granted),
            quarantined: Int(message.quarantined), cached: Int(message.cached))
        running = Int(message.running)
        waiting = Int(message.waiting)
        queuedTokens = min(Wire.total(message.queuedTokens), ControlLimits.queuedTokens)
        tokensPerSecond = message.tokensPerSecond.isFinite ? max(0, message.tokensPerSecond) : 0
        openHandoffs = Int(message.openHandoffs)
        lanesIdle = Int(message.lanesIdle)
        lanesBusy = Int(message.lanesBusy)
        lastError = Wire.shown(message.lastError)
        tokensTotal = Wire.total(message.tokensTotal)
        staleWrites = Wire.total(message.staleWrites)
        fences = Wire.total(message.fences)
        digestMismatches = Wire.total(message.digestMismatches)
        isDraining = message.draining
        preemptions = Int(message.preemptions)
        engineStalled = Wire.microseconds(message.engineStalledUs)
        contract = ContractCounts(message.contract)
        speculation = Speculation(message.speculation)
        experts = message.hasExperts ? ExpertBalance(message.experts) : nil
    }

    var wire: Baton_Control_V1_Heartbeat {
        .with {
            $0.free = UInt32(clamping: slots.free)
            $0.inUse = UInt32(clamping: slots.inUse)
            $0.granted = UInt32(clamping: slots.granted)
            $0.quarantined = UInt32(clamping: slots.quarantined)
            $0.cached = UInt32(clamping: slots.cached)
            $0.running = UInt32(clamping: running)
            $0.waiting = UInt32(clamping: waiting)
            $0.queuedTokens = UInt64(clamping: queuedTokens)
            $0.tokensPerSecond = tokensPerSecond
            $0.openHandoffs = UInt32(clamping: openHandoffs)
            $0.lanesIdle = UInt32(clamping: lanesIdle)
            $0.lanesBusy = UInt32(clamping: lanesBusy)
            $0.lastError = Wire.shown(lastError)
            $0.tokensTotal = UInt64(clamping: tokensTotal)
            $0.staleWrites = UInt64(clamping: staleWrites)
            $0.fences = UInt64(clamping: fences)
            $0.digestMismatches = UInt64(clamping: digestMismatches)
            $0.draining = isDraining
            $0.preemptions = UInt32(clamping: preemptions)
            $0.engineStalledUs = Wire.microseconds(engineStalled)
            $0.contract = contract.wire
            if speculation.rounds > 0 { $0.speculation = speculation.wire }
            if let experts { $0.experts = experts.wire }
        }
    }
}
