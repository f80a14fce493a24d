import ControlPlane
import Engine
import Glibc
import Handoff
import Logging
import Messages
import Synchronization
import Threads
import Transport

/// Pages whose bytes are not those that their digests were made of.
struct MismatchIncident: Sendable {
    enum Place: String, Sendable, CaseIterable {
        /// The check before a handoff's pages become readable.
        case seal
        /// The background check of pages in use.
        case scrub
        /// A cached page that was to be sent again.
        case send
    }

    let place: Place
    let handoff: HandoffID
    let mismatches: [DigestMismatch]
    /// The pages at hand, by their position in the handoff's block table.
    let pages: [Int: SlotRef]

    /// One line for logs and clients.
    var text: String {
        let place =
            switch place {
            case .seal: "differ from what the prefill node sent"
            case .scrub: "changed after they were sealed or cached"
            case .send: "changed in the prefix cache"
            }
        let found = mismatches.prefix(3).map { "page \($0.page) layer \($0.layer)" }.joined(separator: ", ")
        return "KV bytes \(place): \(found.isEmpty ? "no digests at hand" : found)"
            + (mismatches.count > 3 ? " and \(mismatches.count - 3) more" : "")
    }

    var metadata: Logger.Metadata {
        [
            "where": "\(place.rawValue)", "handoff": "\(handoff.text)", "request": "\(handoff.request)",
            "what": "\(text)",
        ]
    }
}

/// Mismatches by where they were found.
struct MismatchCounts: Sendable {
    private var counts: [MismatchIncident.Place: Int] = [:]

    subscript(_ place: MismatchIncident.Place) -> Int {
        get { counts[place, default: 0] }
        set { counts[place] = newValue }
    }

    var total: Int { counts.values.reduce(0, +) }
}

/// Writes pages whose digests were wrong to files, for a person to look at. Bounded in number and size, over restarts
/// too: what is in the folder counts. Pages are copied and files written by threads of their own; neither lanes nor
/// the engine wait for a disk.
final class EvidenceStore: Sendable {
    static let incidentsLimit = 16
    private static let pagesLimit = 8
    private static let bytesLimit = 64 << 20
    private let directory: String
    private let written: Mutex<Int>

    init(directory: String) {
        self.directory = directory
        written = Mutex(Self.incidents(in: directory))
    }

    /// Two files per incident: the first wrong pages, one after the other, in `.kv`, and in `.json` what they are and
    /// what is wrong. `onCopied` is called once, from any thread, when the pages are not needed any more: then their
    /// slots may be given away. A page whose slot was given away before is left out.
    func store(_ incident: MismatchIncident, _ memory: KVMemory, onCopied: @escaping @Sendable () -> Void) {
        let isAllowed = written.withLock { written in
            guard written < Self.incidentsLimit else { return false }
            written += 1
            return true
        }
        guard isAllowed else { return onCopied() }
        do throws(ThreadError) {
            try OwnThread.detach("evidence") { [self] in
                let pages = Self.copy(incident, memory)
                onCopied()
                write(incident, pages, memory.layout)
                for page in pages { page.bytes.deallocate() }
            }
        } catch {
            // Without a thread there is no evidence; the mismatch itself is logged and counted.
            onCopied()
        }
    }

    private struct Copied {
        let page: Int
        let slot: SlotRef
        let bytes: UnsafeMutableRawBufferPointer
    }

    private static func incidents(in directory: String) -> Int {
        guard let folder = opendir(directory) else { return 0 }
        defer { closedir(folder) }
        var count = 0
        while let entry = readdir(folder) {
            let name = withUnsafeBytes(of: &entry.pointee.d_name) { bytes in
                String(decoding: bytes.prefix { $0 != 0 }, as: UTF8.self)
            }
            if name.hasPrefix("mismatch-"), name.hasSuffix(".json") { count += 1 }
        }
        return count
    }

    /// The wrong pages as they are now.
    private static func copy(_ incident: MismatchIncident, _ memory: KVMemory) -> [Copied] {
        var wrong = Set(incident.mismatches.map(\.page)).sorted()
        if wrong.isEmpty { wrong = incident.pages.keys.sorted() }
        let pageBytes = memory.layout.pageBytes
        var copied: [Copied] = []
        for page in wrong.prefix(min(pagesLimit, max(1, bytesLimit / pageBytes))) {
            guard let slot = incident.pages[page], isThere(slot, memory) else { continue }
            let bytes = UnsafeMutableRawBufferPointer.allocate(byteCount: pageBytes, alignment: 64)
            bytes.copyMemory(from: UnsafeRawBufferPointer(start: memory.page(slot.index), count: pageBytes))
            // Whoever has got the slot since may have written what was copied, and it is none of this file's.
            if isThere(slot, memory) {
                copied.append(Copied(page: page, slot: slot, bytes: bytes))
            } else {
                bytes.deallocate()
            }
        }
        return copied
    }

    private static func isThere(_ slot: SlotRef, _ memory: KVMemory) -> Bool {
        memory.pool.withLock { $0.state(of: slot) != nil }
    }

    // MARK: Files

    private func write(_ incident: MismatchIncident, _ pages: [Copied], _ layout: PageLayout) {
        let handoff = incident.handoff.text.split(separator: "/").joined(separator: "-")
        let page = incident.mismatches.first.map { "-page\($0.page)-layer\($0.layer)" } ?? ""
        let path = "\(directory)/mismatch-\(incident.place.rawValue)-\(handoff)\(page)"
        Self.write(to: "\(path).kv", pages.map { UnsafeRawBufferPointer($0.bytes) })
        var text = Self.description(incident, pages, layout)
        text.withUTF8 { Self.write(to: "\(path).json", [UnsafeRawBufferPointer($0)]) }
    }

    private static func description(
        _ incident: MismatchIncident, _ pages: [Copied], _ layout: PageLayout
    ) -> String {
        func list(_ entries: [String]) -> String {
            entries.isEmpty ? "[]" : "[\n    \(entries.joined(separator: ",\n    "))\n  ]"
        }
        let found = incident.mismatches.prefix(256).map { mismatch in
            let range = layout.layerRange(mismatch.layer)
            return "{\"page\": \(mismatch.page), \"layer\": \(mismatch.layer), \"from_byte\": \(range.lowerBound), "
                + "\"to_byte\": \(range.upperBound), \"expected\": \"\(String(mismatch.expected, radix: 16))\", "
                + "\"found\": \"\(String(mismatch.found, radix: 16))\"}"
        }
        let copied = pages.map {
            "{\"page\": \($0.page), \"slot\": \($0.slot.index), \"generation\": \($0.slot.generation.value)}"
        }
        return """
            {
              "where": "\(incident.place.rawValue)",
              "handoff": "\(incident.handoff.text)",
              "request": \(incident.handoff.request),
              "page_layout": "\(layout.text)",
              "page_bytes": \(layout.pageBytes),
              "digest": "XXH3-64 of each layer",
              "mismatches": \(list(found)),
              "pages_in_kv_file": \(list(copied))
            }

            """
    }

    private static func write(to path: String, _ parts: [UnsafeRawBufferPointer]) {
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        // There is a file of that name, or the folder is not writable.
        guard descriptor >= 0 else { return }
        defer { close(descriptor) }
        for part in parts {
            var rest = part[...]
            while !rest.isEmpty {
                let bytes = UnsafeRawBufferPointer(rebasing: rest)
                let count = Glibc.write(descriptor, bytes.baseAddress, bytes.count)
                if count < 0, errno == EINTR { continue }
                guard count > 0 else { return }
                rest = rest.dropFirst(count)
            }
        }
    }
}
