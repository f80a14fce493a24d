import Testing

@testable import Tokenization

struct StopMatcherTests {
    /// Feeds `text` in every pair of cuts and checks that the outcome is always the same.
    private func outcome(_ stops: [String], _ text: String, include: Bool = false) -> (String, Int?) {
        let scalars = Array(text.unicodeScalars)
        var first: (String, Int?)?
        for a in 0...scalars.count {
            for b in a...scalars.count {
                var matcher = StopMatcher(stops, includeStop: include)
                var output = ""
                for part in [scalars[..<a], scalars[a..<b], scalars[b...]] {
                    var view = String.UnicodeScalarView()
                    view.append(contentsOf: part)
                    output += matcher.append(String(view)).text
                }
                let matched = matcher.matched
                output += matcher.finish()
                if let first {
                    #expect(first.0 == output && first.1 == matched, "cut at \(a) and \(b)")
                } else {
                    first = (output, matched)
                }
            }
        }
        return first ?? ("", nil)
    }

    @Test func findsAStopAcrossPortions() {
        #expect(outcome(["</s>"], "hello</s>more") == ("hello", 0))
        #expect(outcome(["</s>"], "hello</s>more", include: true) == ("hello</s>", 0))
        #expect(outcome(["stop"], "no end here sto") == ("no end here sto", nil))
    }

    @Test func takesTheStopThatEndsFirst() {
        #expect(outcome(["bcd", "abcdef"], "xabcdefg") == ("xa", 0))
        #expect(outcome(["c", "abc"], "xabcd") == ("x", 1))
        #expect(outcome(["aab"], "aaaab") == ("aa", 0))
        #expect(outcome(["", "é"], "caf\u{e9}s") == ("caf", 1))
    }

    @Test func emitsNothingAfterAMatch() {
        var matcher = StopMatcher(["."])
        #expect(matcher.append("a.b").text == "a")
        #expect(matcher.append("c") == ("", 0))
        #expect(matcher.finish() == "")
    }

    @Test func holdsBackOnlyWhatMayBecomeAStop() {
        var matcher = StopMatcher(["END"])
        #expect(matcher.append("the E").text == "the ")
        #expect(matcher.append("N").text == "")
        #expect(matcher.append("T").text == "ENT")
    }
}
