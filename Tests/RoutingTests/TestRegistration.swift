import Handoff
import Messages

/// A registration as a node would send it.
func registration(
    _ name: String, _ role: NodeRole, incarnation: UInt64, kvType: String = "f16", slots: Int = 64,
    context: Int = 1024, lanes: Int = 4, maxRunning: Int = 8, fingerprint: String = "aa"
) -> Registration {
    Registration(
        name: name, role: role, incarnation: Incarnation(incarnation),
        compatibility: ModelCompatibility(
            fingerprint: fingerprint, pageLayout: "test/1x(k1x1,v1x1)/16", kvType: kvType, isaClass: "portable",
            pageTokens: 16, pageBytes: 64),
        model: "test", laneAddress: "127.0.0.1:1", slots: slots, contextLimit: context, maxRunning: maxRunning,
        version: "test", lanesPerPeer: lanes)
}
