import OrderedJSON
import Testing

@testable import API

@Suite struct ToolSchemasTests {
    /// The kinds of a tool's one parameter with this schema.
    private func kinds(_ schema: String, _ others: String = "") throws -> JSONKinds? {
        let parameters = #"{"type": "object", "properties": {"p": \#(schema)}\#(others)}"#
        let tools = try JSON.parse(#"[{"type": "function", "function": {"name": "f", "parameters": \#(parameters)}}]"#)
        return ToolSchemas(tools).kinds(ofParameter: "p", tool: "f")
    }

    @Test func kindsAreFound() throws {
        #expect(try kinds(#"{"type": "string", "enum": ["a"]}"#) == .string)
        #expect(try kinds(#"{"type": "integer"}"#) == .number)
        #expect(try kinds(#"{"type": ["string", "null"]}"#) == [.string, .null])
        #expect(try kinds(#"{"enum": ["a", 1]}"#) == [.string, .number])
        #expect(try kinds(#"{"const": true}"#) == .boolean)
        #expect(try kinds(#"{"anyOf": [{"type": "array"}, {"type": "null"}]}"#) == [.array, .null])
        #expect(try kinds(#"{"oneOf": [{"type": "array"}, {"description": "anything"}]}"#) == nil)
        #expect(try kinds(#"{"allOf": [{"type": ["string", "null"]}, {"type": "string"}]}"#) == .string)
        #expect(try kinds(#"{"type": "string", "nullable": true}"#) == [.string, .null])
        #expect(try kinds(#"{"description": "anything"}"#) == nil)
        #expect(try kinds(#"{"type": "decimal"}"#) == nil)
        #expect(try kinds("true") == nil)
        #expect(try kinds(#"{"allOf": [{"type": "array"}, {"type": "null"}]}"#) == nil)
    }

    @Test func referencesAreFollowed() throws {
        let unit = #", "$defs": {"Unit": {"type": "string"}, "a/b": {"type": "null"}}"#
        #expect(try kinds(##"{"$ref": "#/$defs/Unit"}"##, unit) == .string)
        #expect(try kinds(##"{"allOf": [{"$ref": "#/$defs/Unit"}]}"##, unit) == .string)
        #expect(try kinds(##"{"$ref": "#/$defs/a~1b"}"##, unit) == .null)
        #expect(try kinds(##"{"$ref": "#/$defs/None"}"##, unit) == nil)
        #expect(try kinds(##"{"$ref": "https://example.org/unit"}"##) == nil)
    }

    /// Schemas come from clients: circles, and references that fan out, end.
    @Test func circlesEnd() throws {
        #expect(try kinds(##"{"$ref": "#/properties/p"}"##) == nil)
        let circle = ##"{"$ref": "#/properties/p"}"##
        let fan = Array(repeating: circle, count: 64).joined(separator: ",")
        #expect(try kinds(#"{"anyOf": [\#(fan)]}"#) == nil)
        let deep =
            String(repeating: #"{"anyOf": ["#, count: 400) + #"{"type": "string"}"#
            + String(repeating: "]}", count: 400)
        let tools: JSON = [
            [
                "function": [
                    "name": "f",
                    "parameters": ["properties": ["p": try JSON.parse(deep, limits: JSONLimits(depth: 900))]],
                ]
            ]
        ]
        #expect(ToolSchemas(tools).kinds(ofParameter: "p", tool: "f") == nil)
    }

    @Test func whatIsNotThereIsUnknown() {
        let schemas = ToolSchemas(exampleTools)
        #expect(schemas.kinds(ofParameter: "city", tool: "get_weather") == .string)
        #expect(schemas.kinds(ofParameter: "town", tool: "get_weather") == nil)
        #expect(schemas.kinds(ofParameter: "city", tool: "get") == nil)
        #expect(ToolSchemas(["function", 3, ["function": []]]).kinds(ofParameter: "city", tool: "get") == nil)
    }

    @Test(arguments: [
        // A string keeps its text.
        ("string", "17", #""17""#), ("string", " \"a\" ", #"" \"a\" ""#), ("string", "null", #""null""#),
        // Anything else is JSON, or the text it is.
        ("integer", "17", "17"), ("integer", " 17\n", "17"), ("integer", "many", #""many""#),
        ("integer", "\"17\"", #""17""#), ("number", "1e400", #""1e400""#), ("boolean", "True", #""True""#),
        ("array", "[1,  2]", "[1,  2]"), ("array", "[1", #""[1""#), ("object", "{\"a\": {}}", "{\"a\": {}}"),
        ("number", "123456789012345678901234567890", "123456789012345678901234567890"), ("null", "", #""""#),
    ])
    func valuesOfOneKind(_ kind: String, _ text: String, _ json: String) {
        #expect(ArgumentRule(kinds: JSONKinds(named: kind)).json(Array(text.utf8)[...]) == json)
    }

    @Test func valuesOfSeveralKinds() {
        func json(_ kinds: JSONKinds?, _ text: String) -> String {
            ArgumentRule(kinds: kinds).json(Array(text.utf8)[...])
        }
        #expect(json([.string, .null], "null") == "null")
        #expect(json([.string, .null], "17") == #""17""#)
        #expect(json([.string, .number], "17") == "17")
        #expect(json(nil, "17") == "17")
        #expect(json(nil, "[]") == "[]")
        #expect(json(nil, "\"a\"") == #""\"a\"""#)
        #expect(json(nil, "a") == #""a""#)
        #expect(json(nil, String(repeating: "[", count: 70) + String(repeating: "]", count: 70)).hasPrefix("\""))
    }

    /// Whatever may be JSON is waited for.
    @Test func firstCharactersDecideRightly() {
        let texts = ["{}", "[]", "\"a\"", "true", "false", "null", "-1", "0", "a", "<", "+1", ".5", "é"]
        for kinds in [nil, .string, .number, [.string, .null], [.boolean, .array], .object] as [JSONKinds?] {
            let rule = ArgumentRule(kinds: kinds)
            for text in texts where !rule.mayBeJSON(beginningWith: Array(text.utf8)[0]) {
                #expect(rule.json(Array(text.utf8)[...]) == JSON.quoted(text), "\(text)")
            }
        }
    }
}
