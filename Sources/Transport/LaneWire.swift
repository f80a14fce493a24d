import Handoff

/// What goes over a TCP lane. All integers are little-endian, all sizes bounded before anything is read.
///
///     prefill ─▶ decode   Hello
///     decode ─▶ prefill   HelloAck
///     prefill ─▶ decode   Ready: from here on the lane may be granted. Then records: header, its ranges, their
///                         bytes; behind a handoff's last one its completion record
///     decode ─▶ prefill   one acknowledgement per record
enum LaneWire {
    static let helloMagic: UInt64 = 0x314E_4C4E_4F54_4142  // "BATONLN1"
    static let frameMagic: UInt32 = 0x4345_5242  // "BREC"
    static let version: UInt32 = 3
    static let helloBytes = 48
    static let helloAckBytes = 24
    static let reasonBytesMax = 256
    static let headerBytes = 44
    static let rangeBytes = 20
    /// Header and ranges of the largest record.
    static let recordPrefixBytesMax = headerBytes + WriteLimits.rangesMax * rangeBytes
}

/// The prefill node's first words.
struct LaneHello: Equatable {
    var magic = LaneWire.helloMagic
    var version = LaneWire.version
    /// Whether its completion records have digests.
    let digests: Bool
    let prefill: Incarnation
    /// Whom it believes to be talking to.
    let decode: Incarnation
    let pageBytes: UInt64
    let layout: UInt64

    init(prefill: Incarnation, decode: Incarnation, shape: PageShape, digests: Bool = true) {
        self.digests = digests
        self.prefill = prefill
        self.decode = decode
        pageBytes = UInt64(shape.pageBytes)
        layout = LaneHello.layout(of: shape)
    }

    init(reading bytes: UnsafeRawBufferPointer) {
        var reader = WireReader(bytes)
        magic = reader.next()
        version = reader.next()
        digests = (reader.next() as UInt32) & 1 == 1
        prefill = Incarnation(reader.next())
        decode = Incarnation(reader.next())
        pageBytes = reader.next()
        layout = reader.next()
    }

    func write(to bytes: UnsafeMutableRawBufferPointer) {
        var writer = WireWriter(bytes)
        writer.put(magic)
        writer.put(version)
        writer.put(UInt32(digests ? 1 : 0))
        writer.put(prefill.value)
        writer.put(decode.value)
        writer.put(pageBytes)
        writer.put(layout)
    }

    /// One number for where the layers of a page begin.
    static func layout(of shape: PageShape) -> UInt64 {
        shape.layerStarts.reduce(0xCBF2_9CE4_8422_2325) { ($0 ^ UInt64($1)) &* 0x100_0000_01B3 }
    }
}

/// The decode node's answer: a lane number, or a reason (whose text follows).
struct LaneHelloAck: Equatable {
    enum Status: UInt32 {
        case accepted = 0
        case refused = 1
    }

    let status: UInt32
    let lane: LaneID
    let digests: Bool
    let reasonBytes: Int

    init(lane: LaneID, digests: Bool) {
        status = Status.accepted.rawValue
        self.lane = lane
        self.digests = digests
        reasonBytes = 0
    }

    init(refusedWithReasonOf bytes: Int) {
        status = Status.refused.rawValue
        lane = LaneID(0)
        digests = false
        reasonBytes = bytes
    }

    /// Nil when it is not an answer of this protocol.
    init?(reading bytes: UnsafeRawBufferPointer) {
        var reader = WireReader(bytes)
        guard reader.next() == LaneWire.helloMagic else { return nil }
        status = reader.next()
        lane = LaneID(reader.next())
        digests = (reader.next() as UInt32) & 1 == 1
        let reason: UInt32 = reader.next()
        guard Status(rawValue: status) != nil, reason <= UInt32(LaneWire.reasonBytesMax) else { return nil }
        reasonBytes = Int(reason)
    }

    func write(to bytes: UnsafeMutableRawBufferPointer) {
        var writer = WireWriter(bytes)
        writer.put(LaneWire.helloMagic)
        writer.put(status)
        writer.put(lane.value)
        writer.put(UInt32(digests ? 1 : 0))
        writer.put(UInt32(reasonBytes))
    }
}

/// In front of every record, and the whole of an acknowledgement.
struct FrameHeader: Equatable {
    enum Kind: UInt32 {
        case data = 1
        case completion = 2
        case acknowledgement = 3
        case completionAcknowledgement = 4
        case ready = 5
        case windows = 6
    }

    let kind: Kind
    /// Ranges of a record, pages of a completion record, windows of a grant, else 0.
    let count: UInt32
    let epoch: LaneEpoch
    let handoff: HandoffID
    /// The part of the handoff's grant.
    let part: Int
    /// A record's number within the handoff, from 1; of an acknowledgement, how many have landed.
    let sequence: UInt32

    init(_ kind: Kind, count: Int, handoff: HandoffID, part: Int = 0, epoch: LaneEpoch, sequence: UInt32) {
        self.kind = kind
        self.count = UInt32(count)
        self.epoch = epoch
        self.handoff = handoff
        self.part = part
        self.sequence = sequence
    }

    /// The prefill node knows the lane.
    static var ready: FrameHeader {
        let nobody = HandoffID(router: Incarnation(0), request: 0, attempt: 0)
        return FrameHeader(.ready, count: 0, handoff: nobody, epoch: LaneEpoch(0), sequence: 0)
    }

    /// Nil when it is no frame of this protocol.
    init?(reading bytes: UnsafeRawBufferPointer) {
        var reader = WireReader(bytes)
        guard reader.next() == LaneWire.frameMagic, let kind = Kind(rawValue: reader.next()) else { return nil }
        self.kind = kind
        count = reader.next()
        epoch = LaneEpoch(reader.next())
        let router: UInt64 = reader.next()
        let request: UInt64 = reader.next()
        handoff = HandoffID(router: Incarnation(router), request: request, attempt: reader.next())
        part = Int(reader.next() as UInt32)
        sequence = reader.next()
    }

    func write(to bytes: UnsafeMutableRawBufferPointer) {
        var writer = WireWriter(bytes)
        writer.put(LaneWire.frameMagic)
        writer.put(kind.rawValue)
        writer.put(count)
        writer.put(epoch.value)
        writer.put(handoff.router.value)
        writer.put(handoff.request)
        writer.put(handoff.attempt)
        writer.put(UInt32(part))
        writer.put(sequence)
    }
}

/// Where one piece of a record goes: whole layers of one granted page.
struct WireRange: Equatable {
    /// Position in the block table.
    let page: UInt32
    let slot: SlotRef
    let offset: UInt32
    let length: UInt32

    init(_ range: WriteRange) {
        page = UInt32(range.page)
        slot = range.target
        offset = UInt32(range.offset)
        length = UInt32(range.length)
    }

    init(page: UInt32, slot: SlotRef, offset: UInt32, length: UInt32) {
        self.page = page
        self.slot = slot
        self.offset = offset
        self.length = length
    }

    init(reading reader: inout WireReader) {
        page = reader.next()
        let index: UInt32 = reader.next()
        slot = SlotRef(index: index, generation: Generation(reader.next()))
        offset = reader.next()
        length = reader.next()
    }

    func write(to writer: inout WireWriter) {
        writer.put(page)
        writer.put(slot.index)
        writer.put(slot.generation.value)
        writer.put(offset)
        writer.put(length)
    }
}

/// Behind the header of a completion record: how its digests were made, then its pages, each with a digest per layer
/// or none at all. Which it is was agreed when the lane was opened, and is said again here.
struct CompletionLayout {
    struct Page: Equatable {
        let slot: SlotRef
        let digest: PageDigest
    }

    /// How the digests of a record were made, as it says itself.
    enum Method: UInt32 {
        case none = 0
        case xxh3PerLayer = 1
    }

    static let headBytes = 8
    let pages: Int
    let digests: Bool
    let firstLayer: Int
    let layers: Int

    /// Of a part: its pages, and of each its layers.
    init(of part: PartTerms, digests: Bool) {
        self.init(pages: part.slots.count, digests: digests, layers: part.layers)
    }

    init(pages: Int, digests: Bool, layers: Range<Int>) {
        self.pages = pages
        self.digests = digests
        firstLayer = layers.lowerBound
        self.layers = digests ? layers.count : 0
    }

    private var method: Method { digests ? .xxh3PerLayer : .none }
    var bytes: Int { CompletionLayout.headBytes + pages * (8 + 8 * layers) }

    /// Throws unless the head says what was agreed.
    func check(_ body: UnsafeRawBufferPointer) throws(LaneViolation) {
        var reader = WireReader(body)
        guard reader.next() == method.rawValue, reader.next() == UInt32(layers) else {
            throw .malformed("a completion record \(digests ? "without" : "with") digests on this lane")
        }
    }

    func read(_ body: UnsafeRawBufferPointer) -> [Page] {
        var reader = WireReader(UnsafeRawBufferPointer(rebasing: body[CompletionLayout.headBytes...]))
        return (0..<pages).map { _ in
            let index: UInt32 = reader.next()
            let slot = SlotRef(index: index, generation: Generation(reader.next()))
            return Page(
                slot: slot, digest: PageDigest(layers: (0..<layers).map { _ in reader.next() }, firstLayer: firstLayer))
        }
    }

    func write(_ pages: [Page], to body: UnsafeMutableRawBufferPointer) {
        precondition(pages.count == self.pages, "\(pages.count) pages of \(self.pages)")
        var writer = WireWriter(body)
        writer.put(method.rawValue)
        writer.put(UInt32(layers))
        for page in pages {
            precondition(page.digest.layers.count == layers, "\(page.digest.layers.count) layers of \(layers)")
            writer.put(page.slot.index)
            writer.put(page.slot.generation.value)
            for layer in page.digest.layers { writer.put(layer) }
        }
    }
}

extension CompletionRecord {
    /// What a frame says, in short.
    init(_ header: FrameHeader, _ pages: [CompletionLayout.Page]) {
        self.init(
            handoff: header.handoff, part: header.part, epoch: header.epoch,
            pages: pages.map { SealedPage(slot: $0.slot, digest: $0.digest.value) })
    }
}

/// Reads integers one after the other; the caller has checked that they are there.
struct WireReader {
    private let bytes: UnsafeRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeRawBufferPointer) { self.bytes = bytes }

    mutating func next<Value: FixedWidthInteger & BitwiseCopyable>() -> Value {
        precondition(position + MemoryLayout<Value>.size <= bytes.count, "reading past a frame's end")
        defer { position += MemoryLayout<Value>.size }
        return Value(littleEndian: bytes.loadUnaligned(fromByteOffset: position, as: Value.self))
    }
}

/// Writes integers one after the other into a buffer that is large enough.
struct WireWriter {
    private let bytes: UnsafeMutableRawBufferPointer
    private var position = 0

    init(_ bytes: UnsafeMutableRawBufferPointer) { self.bytes = bytes }

    mutating func put<Value: FixedWidthInteger & BitwiseCopyable>(_ value: Value) {
        precondition(position + MemoryLayout<Value>.size <= bytes.count, "writing past a frame's end")
        bytes.storeBytes(of: value.littleEndian, toByteOffset: position, as: Value.self)
        position += MemoryLayout<Value>.size
    }
}
