/// A model on disk as one thing, whatever its files: config, tokenizer and tensors by name.
///
/// Opening maps the files and checks every header; tensor data is only touched when used.
package final class Checkpoint: Sendable {
    /// What a process needs of a checkpoint.
    package enum Weights: Sendable {
        case required
        /// Config and tokenizer only: a router needs no weight files.
        case ignored
    }

    enum Files: Sendable {
        case gguf(GGUFFile)
        case safetensors(directory: String, SafetensorsCheckpoint?)
    }

    static let maxConfigBytes = 16 << 20

    package let path: String
    /// The file's name without extension, or the folder's.
    package let name: String
    package let config: ModelConfig
    let files: Files

    /// Opens a `.gguf` file, a `.safetensors` file with `config.json` beside it, or a folder that holds a
    /// sharded index, `model.safetensors` or exactly one `.gguf` file.
    package static func open(_ path: String, weights: Weights = .required) throws(ModelFormatError) -> Checkpoint {
        if !FileTree.isDirectory(path) {
            guard FileTree.exists(path) else { throw ModelFormatError(.file, path, "no such file or folder") }
            if path.hasSuffix(".gguf") { return try Checkpoint(gguf: path) }
            if path.hasSuffix(".safetensors") {
                let tensors = weights == .required ? try SafetensorsCheckpoint(file: path) : nil
                return try Checkpoint(path: path, directory: FileTree.parent(path), tensors)
            }
            throw ModelFormatError(.file, path, "a model must be a .gguf file, a .safetensors file or a folder")
        }
        let names = FileTree.names(in: path)
        if names.contains("config.json") {
            return try Checkpoint(
                path: path, directory: path, weights == .required ? try safetensors(in: path, names) : nil)
        }
        let candidates = names.filter { $0.hasSuffix(".gguf") }
        guard candidates.count == 1 else {
            throw ModelFormatError(
                .file, path,
                candidates.isEmpty
                    ? "the folder holds neither config.json nor a .gguf file"
                    : "the folder holds \(candidates.count) .gguf files; name one: "
                        + candidates.joined(separator: ", ")
            )
        }
        return try Checkpoint(gguf: path + "/" + candidates[0])
    }

    private static func safetensors(
        in directory: String, _ names: [String]
    ) throws(ModelFormatError) -> SafetensorsCheckpoint {
        if names.contains(SafetensorsCheckpoint.indexName) {
            return try SafetensorsCheckpoint(index: directory + "/" + SafetensorsCheckpoint.indexName)
        }
        guard names.contains(SafetensorsCheckpoint.singleName) else {
            throw ModelFormatError(
                .file, directory,
                "the folder holds neither \(SafetensorsCheckpoint.indexName) nor \(SafetensorsCheckpoint.singleName)")
        }
        return try SafetensorsCheckpoint(file: directory + "/" + SafetensorsCheckpoint.singleName)
    }

    private init(gguf path: String) throws(ModelFormatError) {
        let file = try GGUFFile(path: path)
        self.path = path
        name = String(FileTree.name(path).dropLast(".gguf".count))
        config = try ModelConfig(gguf: file)
        files = .gguf(file)
    }

    private init(
        path: String, directory: String, _ tensors: SafetensorsCheckpoint?
    ) throws(ModelFormatError) {
        self.path = path
        let last = FileTree.name(path)
        name = last.hasSuffix(".safetensors") ? String(last.dropLast(".safetensors".count)) : last
        config = try ModelConfig(file: directory + "/config.json")
        files = .safetensors(directory: directory, tensors)
    }

    package var format: WeightFormat {
        switch files {
        case .gguf: .gguf
        case .safetensors: .safetensors
        }
    }

    // MARK: Tensors

    private var table: TensorTable? {
        switch files {
        case .gguf(let file): file.table
        case .safetensors(_, let checkpoint): checkpoint?.table
        }
    }

    /// All tensors, sorted by name; none if opened without weights.
    package var tensors: [TensorInfo] { table?.tensors ?? [] }

    package func tensor(named name: String) -> TensorInfo? { table?[name] }

    /// The scales of a weight of 8-bit floats: F32, one for each block of the config's `weightBlock`. Nil if there are
    /// none; after `check` every such weight has them, and no other.
    package func scales(of weight: TensorInfo) -> TensorInfo? {
        table?[WeightBlock.scaleName(of: weight.name)]
    }

    func hasTensors(startingWith prefix: String) -> Bool {
        table?.hasNames(startingWith: prefix) ?? false
    }

    /// The bytes of one of this checkpoint's tensors; valid while it lives, never to be written, and in
    /// safetensors files not necessarily aligned. Throws if the type's size is unknown.
    package func bytes(of tensor: TensorInfo) throws(ModelFormatError) -> UnsafeRawBufferPointer {
        guard let count = tensor.byteCount else {
            throw ModelFormatError(.unsupported, path, "\(tensor.name) has the unsupported type \(tensor.type)")
        }
        return file(of: tensor).slice(tensor.offset..<tensor.offset + count)
    }

    /// Tells the kernel about the coming use of a tensor's pages.
    package func advise(_ advice: MappedFile.Advice, _ tensor: TensorInfo) {
        file(of: tensor).advise(advice, tensor.offset..<tensor.offset + (tensor.byteCount ?? 0))
    }

    /// Tells the kernel about the coming use of all files.
    func adviseAll(_ advice: MappedFile.Advice) {
        switch files {
        case .gguf(let file): file.file.adviseAll(advice)
        case .safetensors(_, let checkpoint):
            for file in checkpoint?.files ?? [] { file.adviseAll(advice) }
        }
    }

    /// Throws one error that names every missing, unexpected, misshapen or unsupported tensor.
    package func check(expected: [ExpectedTensor]) throws(ModelFormatError) {
        let problems = table?.problems(expecting: expected) ?? ["opened without weights"]
        guard problems.isEmpty else { throw ModelFormatError(.tensors, path, problems) }
    }

    /// The same for the tensors that the config asks for. A layer of multi-token prediction may be left out, whatever
    /// the config says, but not in part.
    package func check() throws(ModelFormatError) {
        try check(expected: config.expectedTensors(in: format, draftLayer: config.hasDraftLayer(in: self)))
    }

    private func file(of tensor: TensorInfo) -> MappedFile {
        switch files {
        case .gguf(let file): return file.file
        case .safetensors(_, let checkpoint):
            guard let checkpoint else { preconditionFailure("a tensor of a checkpoint opened without weights") }
            return checkpoint.files[tensor.file]
        }
    }

    // MARK: Tokenizer

    /// Reads the tokenizer's files or keys anew; keep the result.
    package func tokenizer() throws(ModelFormatError) -> TokenizerSource {
        switch files {
        case .gguf(let file):
            guard let tokenizer = try GGUFTokenizer.read(file) else {
                return .missing("the file has no tokenizer.ggml.model and tokenizer.ggml.tokens")
            }
            return .gguf(tokenizer)
        case .safetensors(let directory, _):
            guard let tokenizer = try HuggingFaceTokenizer.read(directory: directory) else {
                return .missing("\(directory) holds no tokenizer.json")
            }
            return .huggingFace(tokenizer)
        }
    }
}
