/// What a GGUF file says about its tokenizer (keys `tokenizer.ggml.*`), as plain values.
package struct GGUFTokenizerMetadata: Sendable {
    /// `tokenizer.ggml.model`: "gpt2" (byte-level byte-pair encoding) or "llama" (SentencePiece with scores).
    package var model: String
    /// `tokenizer.ggml.pre`: which pre-tokenizer patterns a "gpt2" vocabulary was trained with.
    package var pre: String?
    /// `tokenizer.ggml.tokens`, by id.
    package var tokens: [String]
    /// `tokenizer.ggml.token_type`: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte. May be empty.
    package var types: [Int32] = []
    /// `tokenizer.ggml.merges`, each "left right".
    package var merges: [String] = []
    /// `tokenizer.ggml.scores`.
    package var scores: [Float] = []
    package var bosID: Int32?
    package var eosID: Int32?
    package var eotID: Int32?
    package var eomID: Int32?
    package var unknownID: Int32?
    package var addBOS: Bool?
    package var addEOS: Bool?
    package var addSpacePrefix: Bool?
    /// `tokenizer.chat_template`.
    package var chatTemplate: String?

    package init(model: String, tokens: [String]) {
        self.model = model
        self.tokens = tokens
    }
}
