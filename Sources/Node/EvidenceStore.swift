import ControlPlane
import Engine
import Glibc
import Handoff
import Synchronization

/// Writes pages whose digests were wrong to files, for a person to look at. Bounded in number and size.
final class EvidenceStore: Sendable {
    private static let filesLimit = 16
    private static let fileBytesLimit = 256 << 20
    private let directory: String
    private let written = Mutex(0)

    init(directory: String) {
        self.directory = directory
    }

    /// One file per handoff: the pages one after the other, in block-table order. They must be quarantined still.
    func store(_ handoff: HandoffID, _ slots: [SlotRef], _ memory: KVMemory) {
        let isAllowed = written.withLock { written in
            written += 1
            return written <= Self.filesLimit
        }
        guard isAllowed else { return }
        let name = handoff.text.split(separator: "/").joined(separator: "-")
        let descriptor = open("\(directory)/mismatch-\(name).kv", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        let pageBytes = memory.layout.pageBytes
        for slot in slots.prefix(max(1, Self.fileBytesLimit / pageBytes)) {
            guard write(descriptor, memory.page(slot.index), pageBytes) == pageBytes else { return }
        }
    }
}
