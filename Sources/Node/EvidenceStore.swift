import ControlPlane
import Engine
import Glibc
import Handoff
import Synchronization

/// Writes pages whose digests were wrong to files, for a person to look at. Bounded in number and size. Files are
/// written by threads of their own: neither lanes nor the engine wait for a disk.
final class EvidenceStore: Sendable {
    private static let filesLimit = 16
    private static let fileBytesLimit = 256 << 20
    private let directory: String
    private let written = Mutex(0)

    init(directory: String) {
        self.directory = directory
    }

    /// One file per handoff: the pages one after the other, in block-table order. The lane is closed and the slots
    /// are freed meanwhile; the file ends, and is named `.truncated.kv`, where a slot has found a new owner.
    func store(_ handoff: HandoffID, _ slots: [SlotRef], _ memory: KVMemory) {
        let isAllowed = written.withLock { written in
            guard written < Self.filesLimit else { return false }
            written += 1
            return true
        }
        guard isAllowed else { return }
        let name = handoff.text.split(separator: "/").joined(separator: "-")
        let path = "\(directory)/mismatch-\(name)"
        // Without a thread there is no evidence; the mismatch itself is logged and counted.
        try? OwnThread.start("evidence") {
            if !Self.write(slots, of: memory, to: "\(path).kv") { rename("\(path).kv", "\(path).truncated.kv") }
        }
    }

    /// False when pages are missing in the file.
    private static func write(_ slots: [SlotRef], of memory: KVMemory, to path: String) -> Bool {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        // Nothing to rename: there is a file of that name, or the directory is not writable.
        guard descriptor >= 0 else { return true }
        defer { close(descriptor) }
        let pageBytes = memory.layout.pageBytes
        let copy = UnsafeMutableRawBufferPointer.allocate(byteCount: pageBytes, alignment: 64)
        defer { copy.deallocate() }
        let count = min(slots.count, max(1, fileBytesLimit / pageBytes))
        for slot in slots.prefix(count) {
            guard isIntact(slot, memory) else { return false }
            copy.copyMemory(from: UnsafeRawBufferPointer(start: memory.page(slot.index), count: pageBytes))
            // Whoever has got the slot since may have written what was copied, and it is none of this file's.
            guard isIntact(slot, memory), write(UnsafeRawBufferPointer(copy), to: descriptor) else { return false }
        }
        return count == slots.count
    }

    /// Whether a slot still holds what it was quarantined with: it is in quarantine, or free and not used since.
    private static func isIntact(_ slot: SlotRef, _ memory: KVMemory) -> Bool {
        memory.pool.withLock { pool in
            let freed = SlotRef(index: slot.index, generation: slot.generation.next)
            return pool.state(of: slot) == .quarantined || pool.state(of: freed) == .free
        }
    }

    private static func write(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Bool {
        var rest = bytes[...]
        while !rest.isEmpty {
            let part = UnsafeRawBufferPointer(rebasing: rest)
            let count = Glibc.write(descriptor, part.baseAddress, part.count)
            if count < 0, errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = rest.dropFirst(count)
        }
        return true
    }
}
