/// A compiled regular expression over UTF-8 text, for pre-tokenizers.
///
/// A backtracking machine with the alternatives of the outermost `|` filtered by the first byte. A run over a
/// text spends a bounded number of steps per byte; should a pattern be of the exponential kind, the rest of the
/// text counts as unmatched instead of taking forever.
struct Pattern: Sendable {
    enum Operation: UInt8, Sendable {
        case set, loop, split, jump, ahead, atomic, anchor, match
    }

    struct Instruction: Sendable {
        var operation: Operation
        /// Appetite of a loop; negation of a look-ahead.
        var flag: UInt8 = 0
        var set: Int32 = 0
        /// Loop: least and most repetitions. Split: preferred and other place. Jump, ahead and atomic: where to
        /// go on.
        var first: Int32 = 0
        var second: Int32 = 0
    }

    private static let mostInstructions = 20_000

    let source: String
    let code: [Instruction]
    let sets: [ScalarSet]
    /// Where each alternative starts, at most 32.
    let alternatives: [Int32]
    /// For each first byte the alternatives that can match, one bit each.
    let candidates: [UInt32]

    init(_ source: String) throws(TokenizationError) {
        try self.init(source, PatternParser.parse(source))
    }

    /// A pattern that matches exactly `text`.
    init(literal text: String) throws(TokenizationError) {
        try self.init(text, .sequence(text.unicodeScalars.map { .set(.single($0)) }))
    }

    private init(_ source: String, _ node: PatternNode) throws(TokenizationError) {
        var compiler = Compiler(source: source)
        var branches = [node]
        if case .alternatives(let nodes) = node, nodes.count <= 32 { branches = nodes }
        var starts: [Int32] = []
        var candidates = [UInt32](repeating: 0, count: 256)
        for (index, branch) in branches.enumerated() {
            starts.append(Int32(compiler.code.count))
            try compiler.compile(branch)
            compiler.code.append(Instruction(operation: .match))
            for (byte, isFirst) in branch.firstBytes.enumerated() where isFirst {
                candidates[byte] |= 1 << UInt32(index)
            }
        }
        compiler.relaxLastLoops()
        self.source = source
        code = compiler.code
        sets = compiler.sets
        alternatives = starts
        self.candidates = candidates
    }

    private struct Compiler {
        let source: String
        var code: [Instruction] = []
        var sets: [ScalarSet] = []

        private var here: Int32 { Int32(code.count) }

        mutating func compile(_ node: PatternNode) throws(TokenizationError) {
            guard code.count < Pattern.mostInstructions else {
                throw TokenizationError(
                    .limit, "pre-tokenizer pattern needs more than \(Pattern.mostInstructions) steps: \(source)")
            }
            switch node {
            case .empty:
                break
            case .set(let set):
                code.append(Instruction(operation: .set, set: Int32(sets.count)))
                sets.append(set)
            case .sequence(let nodes):
                for node in nodes { try compile(node) }
            case .alternatives(let nodes):
                var jumps: [Int] = []
                for (index, node) in nodes.enumerated() {
                    guard index + 1 < nodes.count else {
                        try compile(node)
                        break
                    }
                    let split = code.count
                    code.append(Instruction(operation: .split, first: here + 1))
                    try compile(node)
                    jumps.append(code.count)
                    code.append(Instruction(operation: .jump))
                    code[split].second = here
                }
                for jump in jumps { code[jump].first = here }
            case .repeated(let node, let least, let most, let appetite):
                try compileRepeated(node, least, most, appetite)
            case .ahead(let node, let negated):
                let start = code.count
                code.append(Instruction(operation: .ahead, flag: negated ? 1 : 0))
                try compile(node)
                code.append(Instruction(operation: .match))
                code[start].first = here
            case .atomic(let node):
                let start = code.count
                code.append(Instruction(operation: .atomic))
                try compile(node)
                code.append(Instruction(operation: .match))
                code[start].first = here
            case .anchor(let anchor):
                code.append(Instruction(operation: .anchor, first: anchor.rawValue))
            }
        }

        private mutating func compileRepeated(
            _ node: PatternNode, _ least: Int, _ most: Int, _ appetite: PatternNode.Appetite
        ) throws(TokenizationError) {
            if case .set(let set) = node {
                let flag: UInt8 = appetite == .greedy ? 0 : appetite == .lazy ? 1 : 2
                code.append(
                    Instruction(
                        operation: .loop, flag: flag, set: Int32(sets.count), first: Int32(least),
                        second: Int32(clamping: most)))
                sets.append(set)
                return
            }
            if appetite == .possessive {
                return try compile(.atomic(.repeated(node, least: least, most: most, .greedy)))
            }
            for _ in 0..<least { try compile(node) }
            let isGreedy = appetite == .greedy
            func branch(_ split: Int, to end: Int32) {
                code[split].first = isGreedy ? Int32(split) + 1 : end
                code[split].second = isGreedy ? end : Int32(split) + 1
            }
            if most == .max {
                let split = code.count
                code.append(Instruction(operation: .split))
                try compile(node)
                code.append(Instruction(operation: .jump, first: Int32(split)))
                branch(split, to: here)
            } else {
                var splits: [Int] = []
                for _ in least..<most {
                    splits.append(code.count)
                    code.append(Instruction(operation: .split))
                    try compile(node)
                }
                for split in splits { branch(split, to: here) }
            }
        }

        /// A greedy loop after which the match is complete need not remember how to give something back.
        mutating func relaxLastLoops() {
            for index in code.indices where code[index].operation == .loop && code[index].flag == 0 {
                var next = index + 1
                while code[next].operation == .jump { next = Int(code[next].first) }
                if code[next].operation == .match { code[index].flag = 2 }
            }
        }
    }
}
