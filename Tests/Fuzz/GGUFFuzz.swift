import ModelFormat

/// Any bytes give a header whose tensors lie inside the file, or an error; metadata, config and tokenizer of what
/// is accepted can be read.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeRawBufferPointer(start: start, count: count)
    guard let header = try? GGUFHeader.parse(input, subject: "input") else { return 0 }
    for tensor in header.tensors {
        precondition(tensor.offset >= 0 && tensor.offset + (tensor.byteCount ?? 0) <= count)
    }
    guard let file = try? GGUFFile(MappedFile(label: "input", copying: input)) else { return 0 }
    if let config = try? ModelConfig(gguf: file) {
        _ = file.table.problems(expecting: config.expectedTensors(in: .gguf))
    }
    _ = try? GGUFTokenizer.read(file)
    return 0
}
