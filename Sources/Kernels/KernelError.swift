/// What the kernels refuse: bad shapes from files, an instruction set this machine lacks, or no memory.
/// Misuse by a caller inside this program traps instead.
package enum KernelError: Error, Equatable, CustomStringConvertible {
    case isaUnavailable(ISA)
    case badShape(String)
    case unsupported(String)
    case outOfMemory(bytes: Int)
    /// The system refused a thread; `code` is an errno.
    case threads(code: Int32)

    package var description: String {
        switch self {
        case .isaUnavailable(let isa):
            let available = ISA.allCases.filter(\.isAvailable).map(\.rawValue).joined(separator: ", ")
            return "isa: this machine can't run \(isa.rawValue) (it has: \(available))"
        case .badShape(let reason): return reason
        case .unsupported(let reason): return reason
        case .outOfMemory(let bytes): return "memory: the system refused \(bytes) bytes"
        case .threads(let code): return "threads: the system refused a compute thread (errno \(code))"
        }
    }
}
