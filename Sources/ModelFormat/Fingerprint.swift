import Crypto

extension Checkpoint {
    /// Windows of tensor data that go into the fingerprint: at most 4 MiB in all, and as much of scales.
    private static let sampleWindows = 4096
    private static let windowBytes = 1024
    /// Files beside a safetensors checkpoint that decide what the model answers.
    private static let describingFiles = [
        "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
    ]

    /// SHA-256, in hexadecimal, over config, tokenizer, the table of tensors and a sample of their bytes.
    ///
    /// Two nodes work together only if theirs are equal. It tells models, versions and quantisations apart; it is
    /// no proof against someone who changes single weights outside the sample on purpose. The same weights in
    /// other files (shards, offsets) give the same fingerprint, in the other format another.
    package func fingerprint() throws(ModelFormatError) -> String {
        var hash = SHA256()
        hash.add("checkpoint fingerprint 1 \(format.rawValue)")
        switch files {
        case .gguf(let file):
            // All metadata, tokenizer included, lies between the fixed part of the header and the tensor table.
            hash.add(bytes: file.file.slice(24..<file.header.metadataEnd))
        case .safetensors(let directory, _):
            for name in Self.describingFiles {
                let path = directory + "/" + name
                guard FileTree.exists(path) else { continue }
                hash.add(name)
                let file = try MappedFile(path: path, maxBytes: HuggingFaceTokenizer.maxTokenizerBytes)
                file.withBytes { hash.add(bytes: $0) }
            }
        }
        for tensor in tensors {
            hash.add("\(tensor.name) \(tensor.type) \(tensor.shape)")
        }
        // Some systems read megabytes around a page that is touched, which would be most of a model.
        adviseAll(.random)
        defer { adviseAll(.normal) }
        // Scales apart from weights: in between them, windows at even distances might meet none.
        let isScale = tensors.map { WeightBlock.weightName(ofScale: $0.name) != nil }
        for kind in [false, true] {
            try addSample(of: zip(tensors, isScale).filter { $0.1 == kind }.map(\.0), to: &hash)
        }
        return hash.finalize().map { byte in
            let digits = String(byte, radix: 16)
            return byte < 16 ? "0" + digits : digits
        }.joined()
    }

    private func addSample(of tensors: [TensorInfo], to hash: inout SHA256) throws(ModelFormatError) {
        let sampled = tensors.filter { ($0.byteCount ?? 0) > 0 }
        for window in 0..<(sampled.isEmpty ? 0 : Self.sampleWindows) {
            // Window w falls into tensor w·n/W; windows of one tensor are spread evenly over it.
            let scaled = window * sampled.count
            let tensor = sampled[scaled / Self.sampleWindows]
            let data = try bytes(of: tensor)
            let length = min(Self.windowBytes, data.count)
            let position = Double(scaled % Self.sampleWindows) / Double(Self.sampleWindows)
            let start = Int(position * Double(data.count - length))
            hash.add(bytes: UnsafeRawBufferPointer(rebasing: data[start..<start + length]))
        }
    }
}

extension SHA256 {
    /// Each part is preceded by its length, so that no two sequences of parts give the same bytes.
    fileprivate mutating func add(bytes: UnsafeRawBufferPointer) {
        withUnsafeBytes(of: UInt64(bytes.count).littleEndian) { update(bufferPointer: $0) }
        update(bufferPointer: bytes)
    }

    fileprivate mutating func add(_ text: String) {
        var text = text
        text.withUTF8 { add(bytes: UnsafeRawBufferPointer($0)) }
    }
}
