import OrderedJSON
import SeededRandom
import Testing

@Suite struct JSONParserTests {
    @Test func readsEveryKind() throws {
        let value = try JSON.parse(" {\"a\": [1, -2.5, true, false, null, \"x\"], \"b\": {}, \"c\": []}\r\n\t ")
        #expect(value == ["a": [1, -2.5, true, false, .null, "x"], "b": [:], "c": []])
        #expect(value["a"]?[0]?.int == 1)
        #expect(value["a"]?[1]?.double == -2.5)
        #expect(value["a"]?[9] == nil)
        #expect(value["missing"] == nil)
    }

    @Test func keepsOrderAndLastDuplicate() throws {
        let object = try #require(try JSON.parse("{\"z\":1,\"a\":2,\"z\":3}").object)
        #expect(object.keys == ["z", "a"])
        #expect(object["z"] == 3)
        let error = #expect(throws: JSONError.self) {
            try JSON.parse("{\"z\":1,\"z\":3}", limits: JSONLimits(allowsDuplicateKeys: false))
        }
        #expect(error?.reason == .duplicateKey("z"))
    }

    @Test func largeObjectsAreIndexed() throws {
        let text = "{" + (0..<5000).map { "\"k\($0)\":\($0)" }.joined(separator: ",") + "}"
        var object = try #require(try JSON.parse(text).object)
        #expect(object.count == 5000)
        #expect((0..<5000).allSatisfy { object["k\($0)"] == .int(Int64($0)) })
        object["k17"] = nil
        #expect(object["k17"] == nil && object["k4999"] == 4999 && object.count == 4999)
        #expect(object.keys.prefix(18).last == "k18")
    }

    @Test func keysDifferByBytesNotByCanonicalEquivalence() throws {
        let angstrom = try JSON.parse("{\"\\u00c5\":1,\"\\u212b\":2,\"A\\u030a\":3}")
        #expect(angstrom.object?.count == 3)
        #expect(angstrom["\u{212B}"] == 2)
        #expect(JSON.string("\u{C5}") != JSON.string("\u{212B}"))
    }

    @Test func byteStringsOrderByCodePoint() {
        let ordered = ["", "A", "AB", "B", "a", "é", "\u{212B}", "\u{FFFD}", "😀"].map { ByteString($0) }
        #expect(ordered.reversed().sorted() == ordered)
        #expect(Set(ordered + ordered).count == ordered.count)
    }

    @Test(arguments: [
        ("0", JSON.int(0)), ("-0", .int(0)), ("9223372036854775807", .int(.max)),
        ("-9223372036854775808", .int(.min)), ("9223372036854775808", .double(9223372036854775808)),
        ("-9223372036854775809", .double(-9223372036854775808)),
        ("1000000000000000019884624838656", .double(1e30)), ("1e3", .double(1000)), ("1E+2", .double(100)),
        ("25e-1", .double(2.5)), ("0.1", .double(0.1)), ("-0.0", .double(-0.0)),
        ("4.9e-324", .double(.leastNonzeroMagnitude)),
    ])
    func numbers(text: String, value: JSON) throws {
        #expect(try JSON.parse(text) == value)
    }

    @Test(arguments: [
        ("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\u{8}\u{C}\n\r\t"), ("\"\\u0041\\u00e9\"", "Aé"),
        ("\"\\ud83d\\ude00\"", "😀"), ("\"😀é\"", "😀é"), ("\"a\\u0000b\"", "a\0b"),
        ("\"x\\ny\u{7f}\"", "x\ny\u{7f}"),
    ])
    func strings(text: String, value: String) throws {
        #expect(try JSON.parse(text) == .string(value))
    }

    @Test(arguments: [
        ("", JSONError.Reason.unexpectedEnd, 0), ("  ", .unexpectedEnd, 2), ("nul", .unexpectedEnd, 3),
        ("nulL", .expected("null"), 0), ("[1,]", .expected("a value"), 3), ("[1 2]", .expected("',' or ']'"), 3),
        ("{\"a\" 1}", .expected("':'"), 5), ("{a:1}", .expected("a key in quotes"), 1),
        ("{\"a\":1,}", .expected("a key in quotes"), 7), ("{\"a\":1", .unexpectedEnd, 6), ("[", .unexpectedEnd, 1),
        ("1 2", .trailingContent, 2), ("\u{FEFF}1", .expected("a value"), 0), ("01", .badNumber, 0),
        ("-", .badNumber, 0), ("1.", .badNumber, 0), (".5", .expected("a value"), 0), ("1e", .badNumber, 0),
        ("+1", .expected("a value"), 0), ("1e999", .numberOutOfRange, 0), ("NaN", .expected("a value"), 0),
        ("\"\\x\"", .badEscape, 1), ("\"\\u12g4\"", .badEscape, 1), ("\"\\ud800\"", .loneSurrogate, 1),
        ("\"\\udc00\"", .loneSurrogate, 1), ("\"\\ud800\\u0041\"", .loneSurrogate, 1),
        ("\"a\nb\"", .controlCharacter, 2),
        ("\"\\", .unexpectedEnd, 2), ("\"\\u12", .unexpectedEnd, 5), ("\"abc", .unexpectedEnd, 4),
    ])
    func refuses(text: String, reason: JSONError.Reason, offset: Int) {
        let error = #expect(throws: JSONError.self) { try JSON.parse(text) }
        #expect(error?.reason == reason)
        #expect(error?.offset == offset)
    }

    @Test(
        arguments: [
            [0x22, 0xFF, 0x22], [0x22, 0xC0, 0x80, 0x22], [0x22, 0xED, 0xA0, 0x80, 0x22], [0x22, 0xE2, 0x82, 0x22],
            [0x22, 0x5C, 0x6E, 0xF5, 0x22],
        ] as [[UInt8]])
    func refusesInvalidUTF8(bytes: [UInt8]) {
        #expect(throws: JSONError.self) { try JSON.parse(bytes) }
    }

    @Test func errorsNameTheLine() {
        let error = #expect(throws: JSONError.self) { try JSON.parse("{\n\"a\": 1,\n\"b\": x}") }
        #expect(error?.line == 3)
        #expect(error?.description == "invalid JSON at line 3, byte 15: expected a value")
    }

    @Test func limitsHold() throws {
        func nested(_ depth: Int) -> String {
            String(repeating: "[", count: depth) + String(repeating: "]", count: depth)
        }
        _ = try JSON.parse(nested(128))
        #expect(throws: JSONError.self) { try JSON.parse(nested(129)) }
        #expect(throws: JSONError.self) { try JSON.parse(String(repeating: "{\"a\":", count: 100_000)) }
        #expect(throws: JSONError.self) { try JSON.parse("[1,2,3]", limits: JSONLimits(values: 3)) }
        #expect(throws: JSONError.self) { try JSON.parse("[1,2,3]", limits: JSONLimits(bytes: 6)) }
        _ = try JSON.parse("[1,2,3]", limits: JSONLimits(bytes: 7, values: 4))
    }

    @Test func everyPrefixIsRefused() throws {
        let text = Array("{\"a\\u00e9\": [1.5e3, true, {\"b\": null}], \"ü\": \"\\ud83d\\ude00\"}".utf8)
        _ = try JSON.parse(text)
        for length in 0..<text.count {
            #expect(throws: JSONError.self) { try JSON.parse(Array(text[..<length])) }
        }
    }

    /// Whatever the bytes, parsing ends in a value or an error; what parses also survives being written and read.
    @Test func mutationsNeverCrash() throws {
        let seed = Array("{\"a\\u00e9\": [1.5e3, true, {\"b\": null}], \"ü\": \"\\ud83d\\ude00\", \"n\": -12}".utf8)
        let interesting = Array("{}[]\",:\\u0123456789eE+-.\0 \n\u{7f}".utf8) + [0x80, 0xC3, 0xED, 0xF0, 0xFF]
        var random = SplitMix64(state: 0x5EED)
        for _ in 0..<20_000 {
            var bytes = seed
            for _ in 0..<Int.random(in: 1...4, using: &random) {
                let place = Int.random(in: 0..<bytes.count, using: &random)
                switch Int.random(in: 0..<3, using: &random) {
                case 0: bytes[place] = interesting.randomElement(using: &random) ?? 0
                case 1: bytes.remove(at: place)
                default: bytes.insert(interesting.randomElement(using: &random) ?? 0, at: place)
                }
            }
            if let value = try? JSON.parse(bytes) {
                #expect(try JSON.parse(value.text()) == value)
            }
        }
    }
}
