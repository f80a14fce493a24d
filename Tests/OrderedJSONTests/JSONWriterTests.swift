import OrderedJSON
import SeededRandom
import Testing

@Suite struct JSONWriterTests {
    let value: JSON = ["b": [1, 2.0, "é\n"], "a": [:], "c": [], "d": ["x": .null]]

    @Test func compact() {
        #expect(value.text() == #"{"b":[1,2.0,"é\n"],"a":{},"c":[],"d":{"x":null}}"#)
    }

    /// Expected texts are what CPython 3.11's `json.dumps` prints.
    @Test func pythonLayouts() {
        #expect(value.text(.python()) == #"{"b": [1, 2.0, "é\n"], "a": {}, "c": [], "d": {"x": null}}"#)
        #expect(
            value.text(.python(ensureASCII: true, sortKeys: true))
                == #"{"a": {}, "b": [1, 2.0, "\u00e9\n"], "c": [], "d": {"x": null}}"#)
        #expect(
            (["a": [1, ["b": 2]], "e": []] as JSON).text(.python(indent: 2))
                == "{\n  \"a\": [\n    1,\n    {\n      \"b\": 2\n    }\n  ],\n  \"e\": []\n}")
        #expect((["a": [1]] as JSON).text(.python(indent: 0)) == "{\n\"a\": [\n1\n]\n}")
    }

    @Test func escapes() {
        let text = "\"\\/\u{8}\u{C}\n\r\t\u{1}\u{1f}\u{7f}é😀"
        #expect(JSON.quoted(text) == "\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\u{7f}é😀\"")
        #expect(
            JSON.quoted(text, escapesNonASCII: true)
                == #""\"\\/\b\f\n\r\t\u0001\u001f\u007f\u00e9\ud83d\ude00""#)
    }

    @Test func nonFiniteNumbers() {
        let value: JSON = [.double(.nan), .double(.infinity), .double(-.infinity)]
        #expect(value.text() == "[null,null,null]")
        #expect(value.text(.python()) == "[NaN, Infinity, -Infinity]")
    }

    /// Expected texts are what CPython's `repr` prints.
    @Test(arguments: [
        (1.0, "1.0"), (-0.0, "-0.0"), (0.1, "0.1"), (1e15, "1000000000000000.0"), (1e16, "1e+16"),
        (12345678901234568, "1.2345678901234568e+16"), (9007199254740992, "9007199254740992.0"), (1e22, "1e+22"),
        (1.5e300, "1.5e+300"), (0.0001, "0.0001"), (0.00012345, "0.00012345"), (0.00001, "1e-05"),
        (1.25e-7, "1.25e-07"), (.leastNonzeroMagnitude, "5e-324"), (1.7976931348623157e308, "1.7976931348623157e+308"),
        (123456.789, "123456.789"), (100, "100.0"), (-2.5, "-2.5"), (3.3e-100, "3.3e-100"),
        (0.30000000000000004, "0.30000000000000004"),
    ])
    func doubles(value: Double, text: String) {
        #expect(value.pythonDescription == text)
    }

    @Test func doublesRoundTrip() {
        var random = SplitMix64(state: 7)
        for _ in 0..<20_000 {
            let value = Double(bitPattern: random.next())
            if value.isFinite { #expect(Double(value.pythonDescription) == value) }
        }
    }
}
