/// An expression of a template and the line it starts in.
struct TemplateExpression: Sendable {
    indirect enum Kind: Sendable {
        case constant(TemplateConstant)
        case name(String)
        case list([TemplateExpression])
        case tuple([TemplateExpression])
        case dict([(TemplateExpression, TemplateExpression)])
        case attribute(TemplateExpression, String)
        case item(TemplateExpression, TemplateExpression)
        case slice(TemplateExpression, TemplateExpression?, TemplateExpression?, TemplateExpression?)
        case call(TemplateExpression, TemplateArguments)
        case filter(TemplateExpression, String, TemplateArguments)
        case test(TemplateExpression, String, TemplateArguments)
        case unary(TemplateOperator, TemplateExpression)
        case binary(TemplateOperator, TemplateExpression, TemplateExpression)
        case concatenation([TemplateExpression])
        case comparison(TemplateExpression, [(TemplateOperator, TemplateExpression)])
        case and(TemplateExpression, TemplateExpression)
        case or(TemplateExpression, TemplateExpression)
        case not(TemplateExpression)
        case conditional(then: TemplateExpression, condition: TemplateExpression, otherwise: TemplateExpression?)
    }

    var kind: Kind
    var line: Int
}

enum TemplateConstant: Sendable {
    case none
    case bool(Bool)
    case int(Int64)
    case float(Double)
    case text(TemplateText)
}

enum TemplateOperator: String, Sendable {
    case add = "+"
    case subtract = "-"
    case multiply = "*"
    case divide = "/"
    case floorDivide = "//"
    case modulo = "%"
    case power = "**"
    case equal = "=="
    case notEqual = "!="
    case less = "<"
    case lessOrEqual = "<="
    case greater = ">"
    case greaterOrEqual = ">="
    case isIn = "in"
    case notIn = "not in"
}

/// Arguments as written: positional, by name, and the spread forms `*list` and `**dict`.
struct TemplateArguments: Sendable {
    var positional: [TemplateExpression] = []
    var named: [(String, TemplateExpression)] = []
    var spread: TemplateExpression?
    var namedSpread: TemplateExpression?
}

/// What `set` and `for` assign to.
indirect enum TemplateTarget: Sendable {
    case name(String)
    case attribute(String, String)
    case tuple([TemplateTarget])
}

struct TemplateStatement: Sendable {
    indirect enum Kind: Sendable {
        case text([UInt8])
        case output(TemplateExpression)
        case choose([(TemplateExpression, [TemplateStatement])], otherwise: [TemplateStatement])
        case loop(TemplateLoopNode)
        case set(TemplateTarget, TemplateExpression)
        case capture(TemplateTarget, [TemplateFilterCall], [TemplateStatement])
        case macro(TemplateMacroNode)
        case call(TemplateExpression, TemplateMacroNode)
        case filtered([TemplateFilterCall], [TemplateStatement])
        case with([(TemplateTarget, TemplateExpression)], [TemplateStatement])
        case scope([TemplateStatement])
        case breakLoop
        case continueLoop
    }

    var kind: Kind
    var line: Int
}

struct TemplateLoopNode: Sendable {
    var target: TemplateTarget
    var items: TemplateExpression
    var condition: TemplateExpression?
    var body: [TemplateStatement]
    var otherwise: [TemplateStatement]
}

struct TemplateMacroNode: Sendable {
    var name: String
    var parameters: [(name: String, fallback: TemplateExpression?)]
    var body: [TemplateStatement]
    /// Whether the body asks for arguments beyond the parameters.
    var takesExtraPositional = false
    var takesExtraNamed = false
}

struct TemplateFilterCall: Sendable {
    var name: String
    var arguments: TemplateArguments
    var line: Int
}
