import Handoff
import Messages

extension Registration {
    static func sample(
        _ name: String = "decode-1", role: NodeRole = .decode, incarnation: UInt64 = 1, fingerprint: String = "abc"
    ) -> Registration {
        Registration(
            name: name, role: role, incarnation: Incarnation(incarnation),
            compatibility: ModelCompatibility(
                fingerprint: fingerprint, pageLayout: "llama/2x(k2x8,v2x8)/16", kvType: "f16", isaClass: "x86",
                pageTokens: 16, pageBytes: 4096),
            model: "tiny", laneAddress: role == .decode ? "127.0.0.1:9000" : "", slots: 64, contextLimit: 512,
            maxRunning: 8, version: "0.1.0", lanesPerPeer: 4)
    }
}
