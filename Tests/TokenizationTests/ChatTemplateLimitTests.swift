import OrderedJSON
import SeededRandom
import Testing

@testable import Tokenization

/// Templates that try to run for ever, to grow without bound or to exhaust the stack.
struct ChatTemplateLimitTests {
    private let now = CivilTime(secondsSince1970: 0)
    private let limits = TemplateLimits(outputBytes: 1 << 20, steps: 300_000, depth: 400)

    private func kind(_ source: String, _ variables: [String: JSON] = [:]) -> TokenizationError.Kind? {
        do throws(TokenizationError) {
            _ = try ChatTemplate(source, limits: limits).render(variables, now: now)
            return nil
        } catch {
            return error.kind
        }
    }

    @Test(arguments: [
        "{{ range(10 ** 9) }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}x{% endfor %}{% endfor %}{% endfor %}",
        "{{ 'a' * 10 ** 12 }}",
        "{{ [0] * 10 ** 12 }}",
        "{% set ns = namespace(s='abcdefgh') %}{% for i in range(1000) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(1000) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(s=[]) %}{% for i in range(100000) %}{% set ns.s = [ns.s] %}{% endfor %}",
        "{% set ns = namespace(s={}) %}{% for i in range(100000) %}{% set ns.s = {'a': ns.s} %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
        "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
        "{{ 'x' | indent(10 ** 12) }}", "{{ 'x' | center(10 ** 12) }}", "{{ 'x'.ljust(10 ** 12) }}",
        "{{ 'x'.zfill(10 ** 15) }}",
        "{{ 'aaaa' | replace('', 'b' * 900000) | replace('', 'b' * 900000) }}",
        "{{ [1] | batch(10 ** 12, 0) | list }}", "{{ [1] | slice(10 ** 12) | list }}",
        "{% for i in range(99999) %}{{ 'x' * 10000 }}{% endfor %}",
        "{% set ns = namespace(a=1) %}{% for i in range(99999) %}{% set ns.a = namespace(a=ns.a) %}{% endfor %}{{ 'x' * 10 ** 9 }}",
    ])
    func boundsAreKept(_ source: String) {
        #expect(kind(source) == .limit)
    }

    @Test func runtimeMistakesAreNoLimits() {
        #expect(kind("{{ '%999999999d' % 1 }}") == .template)
        #expect(kind("{{ '{:999999999}'.format(1) }}") == .template)
        #expect(kind("{{ 9223372036854775807 + 1 }}") == .template)
        #expect(kind("{{ -9223372036854775807 - 2 }}") == .template)
        #expect(kind("{{ (-9223372036854775807 - 1) // -1 }}") == .template)
        #expect(kind("{{ (-9223372036854775807 - 1) % -1 }}") == nil)
        #expect(kind("{{ -(-9223372036854775807 - 1) }}") == .template)
        #expect(kind("{{ (-9223372036854775807 - 1) | abs }}") == .template)
        #expect(kind("{{ 9223372036854775808 }}") == .malformed)
        #expect(kind("{{ 1e300 | int }}{{ 1e300 | round(400) }}{{ 1e308 * 10 }}{{ 2 ** 0.5 }}") == nil)
        #expect(kind("{{ 'abc'[-9223372036854775807:9223372036854775807:9223372036854775807] }}") == nil)
        #expect(kind("{{ range(0, 9223372036854775807, 9223372036854775807) | list }}") == nil)
        #expect(kind("{{ [1, 2][9223372036854775807] }}{{ 'a'[-9223372036854775807] }}") == nil)
        #expect(kind("{{ 'abc'.find('c', -9223372036854775807) }}{{ 'x' | truncate(-5) }}") == nil)
    }

    @Test(arguments: [
        String(repeating: "(", count: 5000) + "1" + String(repeating: ")", count: 5000),
        String(repeating: "[", count: 5000),
        String(repeating: "{{ {'a':", count: 1) + String(repeating: "{'a':", count: 5000),
        String(repeating: "not ", count: 5000) + "1", String(repeating: "-", count: 5000) + "1",
        String(repeating: "1 if 1 else ", count: 5000) + "1",
    ])
    func deepExpressionsAreRefused(_ expression: String) {
        #expect([.limit, .malformed].contains(kind("{{ " + expression + " }}")))
    }

    @Test func deepStatementsAreRefused() {
        let deep = String(repeating: "{% if 1 %}", count: 5000) + String(repeating: "{% endif %}", count: 5000)
        #expect(kind(deep) == .limit)
        let targets = "{% set " + String(repeating: "(", count: 5000) + "a = 1 %}"
        #expect(kind(targets) != nil)
        #expect(kind("{{ 1" + String(repeating: " + 1", count: 5000) + " }}") == .limit)
        #expect(kind("{{ 1" + String(repeating: " | abs", count: 5000) + " }}") == .limit)
        #expect(kind("{{ a" + String(repeating: ".a", count: 5000) + " }}") == .limit)
    }

    /// The deepest evaluation that is allowed fits a small stack: this runs on a cooperative thread.
    @Test func deepestEvaluationFitsTheStack() async {
        let chain = "{{ 1" + String(repeating: " + 1", count: 390) + " }}"
        #expect(kind(chain) == nil)
        let recursion = "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(50) }}"
        #expect(kind(recursion) == nil)
    }

    @Test func longChainsAreRefusedBeforeTheyMakeDeepTrees() {
        for link in [" + 1", " * 1", " ** 1", " or 0", " and 1", " | abs", " if 1", "[0]", ".a", "()"] {
            #expect(kind("{{ 1" + String(repeating: link, count: 20_000) + " }}") == .limit, "\(link)")
        }
        #expect(kind("{{ 1" + String(repeating: " ~ 1", count: 20_000) + " }}") == nil)
    }

    @Test func circlesAndChainsOfReferencesAreTakenApart() {
        let chain = "{% for i in range(20000) %}{% for x in [ns.a] %}{% set ns.a = loop %}{% endfor %}{% endfor %}"
        #expect(kind("{% set ns = namespace(a=1) %}" + chain) == .limit)
        #expect(kind("{% set ns = namespace() %}{% set ns.me = ns %}{{ ns.me.me is defined }}") == nil)
        #expect(kind("{% for i in range(9) %}{{ loop.changed(loop) }}{% endfor %}") == nil)
        #expect(
            kind(
                "{% set ns = namespace(m=1) %}{% macro m(last) %}{% macro inner() %}{% endmacro %}"
                    + "{% set ns.m = inner %}{% endmacro %}{% for i in range(9999) %}{{ m(ns.m) }}{% endfor %}") == nil)
    }

    @Test func deepVariablesAreRefused() {
        var value: JSON = 1
        for _ in 0..<500 { value = .array([value]) }
        #expect(kind("{{ x }}", ["x": value]) == .limit)
    }

    @Test func errorsNameTheLine() throws {
        func failure(_ source: String) -> TokenizationError? {
            do throws(TokenizationError) {
                _ = try ChatTemplate(source).render([:], now: now)
                return nil
            } catch {
                return error
            }
        }
        #expect(failure("a\nb\n{{ x.y }}")?.line == 3)
        #expect(failure("a\r\n{% if 1 %}\n{{ 1 + }}{% endif %}")?.line == 3)
        #expect(failure("{# c\n #}\n{% for %}")?.line == 3)
        #expect(failure("{% set x %}\n\n{{ 1 / 0 }}{% endset %}")?.line == 3)
        let raised = failure("\n{{ raise_exception('no\\nway') }}")
        #expect(raised?.kind == .raised && raised?.message == "no\nway" && raised?.line == 2)
        #expect(failure("{{ messages[0].role }}")?.message == "'messages' is undefined")
        #expect(failure("{% include 'x' %}")?.kind == .unsupported)
        #expect(failure("{{ x | nope }}")?.description.contains("nope") == true)
    }

    @Test func civilTimeIsRight() {
        #expect(CivilTime(secondsSince1970: 0).formatted("%Y-%m-%d %H:%M:%S %a %j") == "1970-01-01 00:00:00 Thu 001")
        #expect(CivilTime(secondsSince1970: 951_782_400).formatted("%F %A %j") == "2000-02-29 Tuesday 060")
        #expect(CivilTime(secondsSince1970: -1).formatted("%F %T") == "1969-12-31 23:59:59")
        #expect(
            CivilTime(secondsSince1970: 1_700_000_000, offsetSeconds: 3600).formatted("%F %R") == "2023-11-14 23:13")
        #expect(CivilTime(secondsSince1970: .max).formatted("%Q%") == "%Q%")
    }

    /// Random rearrangements of template fragments either render or fail cleanly.
    @Test func survivesNonsense() {
        let fragments = [
            "{{", "}}", "{%", "%}", "{#", "#}", "-", "+", " if ", " else ", "endif", "for ", " in ", "x", "endfor", "'",
            "\"", "(",
            ")", "[", "]", "{", "}", "|", "upper", ".", ",", ":", "=", "==", "not ", "is ", "set ", "1", "2.5",
            "macro ", "endmacro",
            "raw", "endraw", "\n", " ", "~", "**", "//", "loop", "range(3)", "é", "\\", "call", "defined",
            "namespace()",
        ]
        var generator = SplitMix64(state: 3)
        for _ in 0..<4000 {
            let count = Int.random(in: 1...25, using: &generator)
            let source = (0..<count).map { _ in fragments.randomElement(using: &generator) ?? "" }.joined()
            _ = kind(source, ["x": [1, "a", ["k": .null]]])
        }
    }
}
