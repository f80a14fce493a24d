import CKernels

/// An instruction set the kernels are written for, in ascending order of preference.
package enum ISA: String, Sendable, CaseIterable, Comparable {
    case portable, avx2, avx512

    var code: Int32 {
        switch self {
        case .portable: Int32(CK_ISA_PORTABLE)
        case .avx2: Int32(CK_ISA_AVX2)
        case .avx512: Int32(CK_ISA_AVX512)
        }
    }

    /// Whether this CPU, its operating system and this build have it.
    package var isAvailable: Bool { ck_table_for(code) != nil }

    /// The most preferred one that is available.
    package static var best: ISA { allCases.last(where: \.isAvailable) ?? .portable }

    package static func < (left: ISA, right: ISA) -> Bool { left.code < right.code }
}

/// The kernels of one instruction set. Operations on few rows are methods, run by the calling thread;
/// `matmul` and `attend` split work over a `ComputePool`.
///
/// All tables give the same bits for the same input.
///
/// `@unchecked`: holds a pointer to a constant of the C target, which nothing writes.
package struct KernelTable: @unchecked Sendable {
    package let isa: ISA
    let table: UnsafePointer<ck_table>

    package init(isa: ISA) throws(KernelError) {
        guard let table = ck_table_for(isa.code) else { throw .isaUnavailable(isa) }
        self.isa = isa
        self.table = table
    }

    private init(available isa: ISA) {
        guard let table = ck_table_for(isa.code) else { preconditionFailure("\(isa) was reported available") }
        self.isa = isa
        self.table = table
    }

    /// The table of `ISA.best`.
    package static let best = KernelTable(available: .best)
}
