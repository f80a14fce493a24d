package import Kernels

/// How a tensor's elements are stored in a file: single values, or blocks that share a scale.
package struct TensorType: Sendable, Hashable, CustomStringConvertible {
    /// As safetensors and GGUF spell it, in upper case.
    package let name: String
    /// Elements a block; 1 for types without blocks, 0 where we know nothing but the name.
    package let blockElements: Int
    /// Bytes a block; 0 where we know nothing but the name.
    package let blockBytes: Int

    package init(_ name: String, blockElements: Int, blockBytes: Int) {
        self.name = name
        self.blockElements = blockElements
        self.blockBytes = blockBytes
    }

    /// A type of which only the name or number is known.
    static func unknown(_ name: String) -> TensorType {
        TensorType(name, blockElements: 0, blockBytes: 0)
    }

    private static func plain(_ name: String, _ bytes: Int) -> TensorType {
        TensorType(name, blockElements: 1, blockBytes: bytes)
    }

    package static let f64 = plain("F64", 8)
    package static let f32 = plain("F32", 4)
    package static let f16 = plain("F16", 2)
    package static let bf16 = plain("BF16", 2)
    package static let f8E4M3 = plain("F8_E4M3", 1)
    package static let f8E5M2 = plain("F8_E5M2", 1)
    package static let i64 = plain("I64", 8)
    package static let i32 = plain("I32", 4)
    package static let i16 = plain("I16", 2)
    package static let i8 = plain("I8", 1)
    package static let u64 = plain("U64", 8)
    package static let u32 = plain("U32", 4)
    package static let u16 = plain("U16", 2)
    package static let u8 = plain("U8", 1)
    package static let bool = plain("BOOL", 1)
    package static let q4_0 = TensorType("Q4_0", blockElements: 32, blockBytes: 18)
    package static let q4_1 = TensorType("Q4_1", blockElements: 32, blockBytes: 20)
    package static let q5_0 = TensorType("Q5_0", blockElements: 32, blockBytes: 22)
    package static let q5_1 = TensorType("Q5_1", blockElements: 32, blockBytes: 24)
    package static let q8_0 = TensorType("Q8_0", blockElements: 32, blockBytes: 34)
    package static let q2_K = TensorType("Q2_K", blockElements: 256, blockBytes: 84)
    package static let q3_K = TensorType("Q3_K", blockElements: 256, blockBytes: 110)
    package static let q4_K = TensorType("Q4_K", blockElements: 256, blockBytes: 144)
    package static let q5_K = TensorType("Q5_K", blockElements: 256, blockBytes: 176)
    package static let q6_K = TensorType("Q6_K", blockElements: 256, blockBytes: 210)

    private static let safetensors: [String: TensorType] = Dictionary(
        uniqueKeysWithValues: [
            f64, f32, f16, bf16, f8E4M3, f8E5M2, i64, i32, i16, i8, u64, u32, u16, u8, bool,
        ].map { ($0.name, $0) })

    /// The type a safetensors header names.
    static func safetensors(_ name: String) -> TensorType {
        safetensors[name] ?? unknown(name)
    }

    /// The type of a number in a GGUF file (ggml's `enum ggml_type`).
    static func gguf(_ id: UInt32) -> TensorType {
        switch id {
        case 0: f32
        case 1: f16
        case 2: q4_0
        case 3: q4_1
        case 6: q5_0
        case 7: q5_1
        case 8: q8_0
        case 10: q2_K
        case 11: q3_K
        case 12: q4_K
        case 13: q5_K
        case 14: q6_K
        case 24: i8
        case 25: i16
        case 26: i32
        case 27: i64
        case 28: f64
        case 30: bf16
        default: unknown(ggufNames[id].map { "\($0) (GGUF type \(id))" } ?? "GGUF type \(id)")
        }
    }

    private static let ggufNames: [UInt32: String] = [
        9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S",
        22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
    ]

    /// The kernels' name for this type; nil where they cannot compute with it. F8_E4M3 they compute with together
    /// with its scales only, which `TensorTable.problems` sees to.
    package var elementType: ElementType? {
        switch self {
        case .f32: .f32
        case .f16: .f16
        case .bf16: .bf16
        case .q4_0: .q4_0
        case .q4_1: .q4_1
        case .q8_0: .q8_0
        case .q4_K: .q4_K
        case .q5_K: .q5_K
        case .q6_K: .q6_K
        case .f8E4M3: .f8E4M3
        default: nil
        }
    }

    /// Types the kernels compute with by themselves, for messages.
    static let computableNames = "F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K, Q5_K, Q6_K"

    package var description: String { name }
}
