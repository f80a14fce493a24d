import CKernels

/// How a model file stores a tensor's elements: plain floats, 8-bit ones with scales beside them, or GGUF's blocks of
/// quantised ones.
///
/// Raw values are this project's; a file format maps its own numbers to them.
package enum ElementType: UInt8, Sendable, CaseIterable {
    case f32, f16, bf16
    case q4_0, q4_1, q8_0
    case q4_K, q5_K, q6_K
    /// With one float32 scale for each 128 × 128 weights, in a tensor of its own.
    case f8E4M3

    package var name: String {
        switch self {
        case .f32: "F32"
        case .f16: "F16"
        case .bf16: "BF16"
        case .q4_0: "Q4_0"
        case .q4_1: "Q4_1"
        case .q8_0: "Q8_0"
        case .q4_K: "Q4_K"
        case .q5_K: "Q5_K"
        case .q6_K: "Q6_K"
        case .f8E4M3: "F8_E4M3"
        }
    }

    /// Columns per block; a row is a whole number of blocks.
    package var blockElements: Int {
        switch self {
        case .f32, .f16, .bf16, .f8E4M3: 1
        case .q4_0, .q4_1, .q8_0: 32
        case .q4_K, .q5_K, .q6_K: 256
        }
    }

    package var blockBytes: Int {
        switch self {
        case .f32: 4
        case .f16, .bf16: 2
        case .f8E4M3: 1
        case .q4_0: 18
        case .q4_1: 20
        case .q8_0: 34
        case .q4_K: 144
        case .q5_K: 176
        case .q6_K: 210
        }
    }

    package var isQuantised: Bool { blockElements > 1 }

    /// Bytes of one row.
    package func rowBytes(columns: Int) throws(KernelError) -> Int {
        guard columns > 0, columns % blockElements == 0 else {
            throw .badShape("columns: \(name) needs a positive multiple of \(blockElements), got \(columns)")
        }
        let (bytes, overflow) = (columns / blockElements).multipliedReportingOverflow(by: blockBytes)
        guard !overflow else { throw .badShape("columns: \(columns) columns of \(name) overflow the address space") }
        return bytes
    }

    var code: Int32 {
        switch self {
        case .f32: Int32(CK_F32)
        case .f16: Int32(CK_F16)
        case .bf16: Int32(CK_BF16)
        case .q4_0: Int32(CK_Q4_0)
        case .q4_1: Int32(CK_Q4_1)
        case .q8_0: Int32(CK_Q8_0)
        case .q4_K: Int32(CK_Q4_K)
        case .q5_K: Int32(CK_Q5_K)
        case .q6_K: Int32(CK_Q6_K)
        case .f8E4M3: Int32(CK_F8_E4M3)
        }
    }
}

/// How keys and values are stored in pages.
package enum CacheType: UInt8, Sendable, CaseIterable {
    case f32, f16, bf16
    /// 8-bit floats (E4M3) with a float32 scale per 128 of them; for latents and indexer keys alone. What is kept
    /// beside those is bf16.
    case fp8

    /// Of one element.
    package var bytes: Int {
        switch self {
        case .f32: 4
        case .f16, .bf16: 2
        case .fp8: 1
        }
    }

    package var name: String { self == .fp8 ? "fp8" : elementType.name.lowercased() }

    /// Elements that share a scale; nil without scales.
    package var scaleBlock: Int? { self == .fp8 ? Int(CK_SCALE_BLOCK) : nil }

    /// Bytes of `count` elements side by side with their scales.
    package func rowBytes(_ count: Int) -> Int {
        count * bytes + (scaleBlock.map { (count + $0 - 1) / $0 * MemoryLayout<Float>.size } ?? 0)
    }

    var elementType: ElementType {
        switch self {
        case .f32: .f32
        case .f16: .f16
        case .bf16: .bf16
        case .fp8: .f8E4M3
        }
    }

    var code: Int32 { elementType.code }
}
