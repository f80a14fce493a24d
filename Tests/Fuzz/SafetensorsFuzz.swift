import ModelFormat

/// Any bytes give a header whose tensors lie inside the file, or an error.
@_cdecl("LLVMFuzzerTestOneInput")
public func fuzzOne(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    let input = UnsafeRawBufferPointer(start: start, count: count)
    guard let header = try? SafetensorsHeader.parse(input, subject: "input") else { return 0 }
    for tensor in header.tensors {
        precondition(tensor.offset >= 0 && tensor.offset + (tensor.byteCount ?? 0) <= count)
    }
    return 0
}
