import OrderedJSON
import SeededRandom

/// One request of the workload: what is asked, never when. The client adds the model's name.
struct WorkRequest: Sendable {
    let number: Int
    let path: String
    let body: JSON
}

/// Requests of mixed kinds and lengths, drawn from a seed.
struct Workload {
    /// Prompt tokens past which a request takes several chunks (the clusters of these tests use `--chunk 64`).
    static let chunkTokens = 64

    private var random: SplitMix64
    /// Ordinary tokens: the first few of a vocabulary may be special.
    private let vocabulary: Range<Int>

    init(seed: UInt64, vocabulary: Range<Int> = 1000..<41_000) {
        random = SplitMix64(state: seed)
        self.vocabulary = vocabulary
    }

    /// `count` different requests. Two in three are short; the others take several chunks. Some share a prefix.
    mutating func requests(_ count: Int) -> [WorkRequest] {
        let shared = tokens(96)
        return (0..<count).map { number in
            switch number % 4 {
            case 0: chat(number)
            case 1: completion(number, prompt: tokens(random.below(60) + 2))
            case 2: completion(number, prompt: shared + tokens(random.below(100) + 1))
            default: completion(number, prompt: tokens(random.below(400) + Workload.chunkTokens))
            }
        }
    }

    private mutating func chat(_ number: Int) -> WorkRequest {
        let subjects = ["the sea", "prime numbers", "bread", "the year 1848", "compilers", "how tides work", "Zürich"]
        let subject = subjects[random.below(subjects.count)]
        let messages: JSON = [
            .object(
                JSONObject([("role", "user"), ("content", .string("Question \(number): tell me about \(subject)."))]))
        ]
        return WorkRequest(
            number: number, path: "/v1/chat/completions",
            body: .object(JSONObject([("messages", messages)] + options())))
    }

    private mutating func completion(_ number: Int, prompt: [Int]) -> WorkRequest {
        let ids = JSON.array(prompt.map { .int(Int64($0)) })
        return WorkRequest(
            number: number, path: "/v1/completions",
            body: .object(JSONObject([("prompt", ids), ("logprobs", 1)] + options())))
    }

    /// Half greedy, half sampled with a seed. All streamed, with the bits of every token's probability where asked.
    private mutating func options() -> [(String, JSON)] {
        let length = Int64(random.below(28) + 4)
        let isGreedy = random.below(2) == 0
        return [
            ("stream", true), ("max_tokens", .int(length)),
            ("temperature", isGreedy ? 0 : 0.9), ("top_p", isGreedy ? 1 : 0.95),
            ("seed", .int(Int64(random.below(1_000_000)))),
        ]
    }

    private mutating func tokens(_ count: Int) -> [Int] {
        (0..<count).map { _ in random.below(vocabulary.count) + vocabulary.lowerBound }
    }
}
