import OrderedJSON
import Testing

@testable import Tokenization

/// Renderings against the reference implementation (see Fixtures/jinja/generate.py).
struct ChatTemplateGoldenTests {
    private static let goldens = try? Fixtures.json("jinja/goldens.json")

    private func render(
        _ template: () throws(TokenizationError) -> ChatTemplate, _ variables: [String: JSON], _ now: CivilTime
    ) -> Result<String, TokenizationError> {
        do throws(TokenizationError) {
            return .success(try template().render(variables, now: now))
        } catch {
            return .failure(error)
        }
    }

    private func check(_ result: Result<String, TokenizationError>, _ row: JSON, _ what: String) {
        switch result {
        case .success(let output):
            let wanted = row["output"]?.string
            #expect(wanted.map { same($0, output) } ?? false, "\(what)\n got \(output.debugDescription)")
        case .failure(let error):
            if let message = row["raised"]?.string {
                #expect(error.kind == .raised && error.message == message, "\(what): \(error)")
            } else {
                #expect(row["fails"] != nil && error.kind != .raised, "\(what): \(error)")
                #expect(error.line != nil, "\(what): \(error)")
            }
        }
    }

    @Test func publishedTemplates() throws {
        let goldens = try #require(Self.goldens)
        let now = CivilTime(secondsSince1970: Int64(try #require(goldens["now"]?.int)))
        var parsed: [String: ChatTemplate] = [:]
        for row in try #require(goldens["renders"]?.array) {
            let name = row["template"]?.string ?? ""
            let conversation = row["conversation"]?.string ?? ""
            var variables: [String: JSON] = [
                "messages": goldens["conversations"]?[conversation] ?? .null, "bos_token": "<s>", "eos_token": "</s>",
                "add_generation_prompt": row["prompt"] ?? .null,
            ]
            switch row["extra"]?.array?.count ?? 0 {
            case 1: variables["tools"] = goldens["tools"]
            case 2:
                variables["tools"] = .null
                variables["enable_thinking"] = false
            default: break
            }
            if parsed[name] == nil { parsed[name] = try ChatTemplate(Fixtures.text("jinja/templates/\(name)")) }
            let template = try #require(parsed[name])
            check(render({ template }, variables, now), row, "\(name), \(conversation), \(row["extra"]?.text() ?? "")")
        }
    }

    @Test func snippets() throws {
        let goldens = try #require(Self.goldens)
        let now = CivilTime(secondsSince1970: Int64(try #require(goldens["now"]?.int)))
        var variables: [String: JSON] = [:]
        for (name, value) in try #require(goldens["variables"]?.object) { variables[name] = value }
        for row in try #require(goldens["snippets"]?.array) {
            let template = row["template"]?.string ?? ""
            let result = render({ () throws(TokenizationError) in try ChatTemplate(template) }, variables, now)
            check(result, row, "\(template.debugDescription) → \(row.text())")
        }
    }
}
