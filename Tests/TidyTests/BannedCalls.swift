/// Calls and spellings that do not belong in this code, each with where it is banned and why.
enum BannedCalls {
    /// A spelling, searched for in code (not in comments and strings).
    struct Ban {
        let spelling: String
        let reason: String
        /// Whether the ban holds in this file.
        var applies: @Sendable (SourceFile) -> Bool = { $0.module != nil }
        /// Whether a comment on the line or right above it lifts the ban: it must say why this place is sound.
        var isLiftedByComment = false
    }

    static let executables: Set = ["router", "prefill-node", "decode-node", "bench", "simulate"]

    static let bans: [Ban] = [
        Ban(spelling: "try!", reason: "a failure must be an error, not a crash"),
        Ban(spelling: "as!", reason: "a failed cast must be an error, not a crash"),
        Ban(spelling: "import Foundation", reason: "use FoundationEssentials: Foundation adds 50 MB of ICU"),
        Ban(spelling: "import Dispatch", reason: "engine, kernels and lanes own their threads"),
        Ban(spelling: "DispatchQueue", reason: "engine, kernels and lanes own their threads"),
        Ban(
            spelling: "usleep(", reason: "wait for an event, or say in a comment why there is none to wait for",
            applies: { $0.isSwift }, isLiftedByComment: true),
        Ban(
            spelling: "nanosleep(", reason: "wait for an event, or say in a comment why there is none to wait for",
            applies: { $0.isSwift }, isLiftedByComment: true),
        Ban(spelling: "Thread.sleep", reason: "wait for an event, not for a time", applies: { $0.isSwift }),
        Ban(
            spelling: "print(", reason: "libraries do not write to standard output",
            applies: { file in file.module.map { !executables.contains($0) } ?? false }),
        Ban(
            spelling: "QuiescenceProof(", reason: "only Handoff's state machines mint proofs",
            applies: { $0.module != nil && $0.module != "Handoff" }),
        Ban(spelling: "import Glibc", reason: "Handoff does no I/O", applies: { $0.module == "Handoff" }),
        Ban(spelling: "ContinuousClock", reason: "Handoff reads no clock", applies: { $0.module == "Handoff" }),
        Ban(spelling: "SuspendingClock", reason: "Handoff reads no clock", applies: { $0.module == "Handoff" }),
        Ban(spelling: ".random(", reason: "Handoff draws no randomness", applies: { $0.module == "Handoff" }),
        Ban(
            spelling: "RandomNumberGenerator", reason: "Handoff draws no randomness",
            applies: { $0.module == "Handoff" }),
        Ban(spelling: "@unchecked Sendable", reason: "say in a comment why this is sound", isLiftedByComment: true),
        Ban(spelling: "nonisolated(unsafe)", reason: "say in a comment why this is sound", isLiftedByComment: true),
        Ban(spelling: "@preconcurrency", reason: "say in a comment why this is sound", isLiftedByComment: true),
        Ban(spelling: "unsafeBitCast(", reason: "say in a comment why this is sound", isLiftedByComment: true),
    ]

    static func check(_ file: SourceFile) -> [Finding] {
        guard file.isSwift, !file.isGenerated, let code = file.blanked?.code else { return [] }
        var findings: [Finding] = []
        for ban in bans where ban.applies(file) {
            let isWhole = ban.spelling.last.map { $0.isLetter } ?? false
            for (index, line) in code.enumerated() where line.hasWord(ban.spelling, whole: isWhole) {
                if ban.isLiftedByComment, file.hasComment(at: index) { continue }
                findings.append(
                    Finding(path: file.path, line: index + 1, message: "`\(ban.spelling)`: \(ban.reason)"))
            }
        }
        return findings + forceUnwraps(file, code)
    }

    /// `value!` crashes on nil. A comment on the line or right above must say why it cannot be; the base address of a
    /// buffer that is not empty needs none.
    private static func forceUnwraps(_ file: SourceFile, _ code: [String]) -> [Finding] {
        guard file.module != nil else { return [] }
        var findings: [Finding] = []
        for (index, line) in code.enumerated() where !file.hasComment(at: index) {
            let characters = Array(line)
            for position in characters.indices.dropFirst() where characters[position] == "!" {
                let before = characters[position - 1]
                let after = position + 1 < characters.count ? characters[position + 1] : " "
                guard before.isLetter || before.isNumber || "_)]".contains(before), after != "=" else { continue }
                let operand = String(characters[..<position])
                if operand.hasSuffix("baseAddress") || operand.hasSuffix("try") || operand.hasSuffix(" as") { continue }
                findings.append(
                    Finding(path: file.path, line: index + 1, message: "force unwrap without a comment that proves it"))
            }
        }
        return findings
    }
}
