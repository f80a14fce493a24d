import Handoff

/// What goes over an RDMA lane beside the pages themselves.
///
///     prefill ─▶ decode   connection request, with a Hello as its private data
///     decode ─▶ prefill   reply, with a HelloAck and a Reach; or rejection, with a HelloAck and a reason
///     prefill ─▶ decode   Ready: from here on the lane may be granted
///     decode ─▶ prefill   per grant, where grants are narrowed by windows: its windows
///     prefill ─▶ decode   WRITEs, and behind a handoff's last one its completion record
///
/// Frames are those of TCP lanes, cut into messages of at most `messageBytes`. There are no acknowledgements: the
/// adapter reports what has arrived.
enum RDMAWire {
    static let messageBytes = 16 << 10
    /// Messages that may be on their way in one direction before the sender is told to wait by the adapter.
    static let receives = 16
    static let sends = 4
    static let windowBytes = 12
    static let replyBytes = LaneWire.helloAckBytes + Reach.bytes
    /// What the private data of a rejection holds beside the answer.
    static let reasonBytesMax = 148 - LaneWire.helloAckBytes

    /// How the decode node's slab is reached.
    struct Reach: Equatable {
        static let bytes = 16
        private static let wholeSlab: UInt32 = 1
        private static let windows: UInt32 = 2
        let base: UInt64
        /// For the whole slab; 0 where each grant has windows of its own.
        let key: UInt32
        let hasWindows: Bool

        init(base: UInt64, key: UInt32, hasWindows: Bool) {
            self.base = base
            self.key = key
            self.hasWindows = hasWindows
        }

        /// Nil when there is none: what is missing of private data is zeros.
        init?(reading bytes: UnsafeRawBufferPointer) {
            var reader = WireReader(bytes)
            base = reader.next()
            key = reader.next()
            let kind: UInt32 = reader.next()
            guard kind == Reach.wholeSlab || kind == Reach.windows else { return nil }
            hasWindows = kind == Reach.windows
        }

        func write(to bytes: UnsafeMutableRawBufferPointer) {
            var writer = WireWriter(bytes)
            writer.put(base)
            writer.put(key)
            writer.put(hasWindows ? Reach.windows : Reach.wholeSlab)
        }
    }
}

/// Slots that lie side by side, and the key by which they may be written until the grant ends.
struct GrantWindow: Equatable {
    let first: UInt32
    let count: UInt32
    let key: UInt32

    func holds(_ slot: UInt32) -> Bool { slot >= first && slot - first < count }

    /// The runs of neighbours among the slots of a grant, keys to be filled in.
    static func runs(_ slots: [SlotRef]) -> [(first: UInt32, count: UInt32)] {
        var runs: [(first: UInt32, count: UInt32)] = []
        for index in slots.map(\.index).sorted() {
            if let last = runs.last, last.first + last.count == index {
                runs[runs.count - 1].count += 1
            } else {
                runs.append((index, 1))
            }
        }
        return runs
    }
}

/// Puts frames together from the messages they came in. What a frame's header says of its length is checked before
/// anything is kept.
struct FrameAssembly {
    private var bytes: [UInt8] = []
    private var expected = 0

    /// Adds a message. Returns the header and the rest of a frame when it is whole.
    /// - Parameter length: how many bytes follow a header; throws when such a frame is not due.
    mutating func add(
        _ message: UnsafeRawBufferPointer, length: (FrameHeader) throws(LaneViolation) -> Int
    ) throws(LaneViolation) -> (header: FrameHeader, body: [UInt8])? {
        if expected == 0 {
            guard message.count >= LaneWire.headerBytes, let header = FrameHeader(reading: message) else {
                throw .malformed("a message that begins no frame")
            }
            expected = LaneWire.headerBytes + (try length(header))
            bytes.reserveCapacity(expected)
        }
        guard bytes.count + message.count <= expected else {
            throw .malformed("a frame of more than its \(expected) bytes")
        }
        bytes += message
        guard bytes.count == expected else { return nil }
        defer {
            bytes = []
            expected = 0
        }
        guard let header = bytes.withUnsafeBytes({ FrameHeader(reading: $0) }) else {
            throw .malformed("a message that begins no frame")
        }
        return (header, Array(bytes[LaneWire.headerBytes...]))
    }
}
